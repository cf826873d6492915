"""VGG16 up to conv5_3, a grid of maxima for each region, two fully connected layers, and what they say of regions."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.od import vgg
from tmsgd_bench.data.weights import Weights, load_into
from tmsgd_bench.voc import CLASSES

STRIDE = 16
"""Pixels of the image between two cells of the last features."""
GRID = 7
"""Cells of a region's features in each direction."""
OUTPUTS = len(CLASSES) + 1
"""The background and the classes."""
DROPOUT = 0.5
CLASS_STD, BOX_STD = 0.01, 0.001
"""Standard deviations of the initial weights of the two last layers."""


class Network(nn.Module):
    """Girshick's model L.

    Args:
        width: channels of the first stage; 64 in the paper.
        frozen_stages: so many of the five stages of convolutions keep their initial weights.
        hidden: units of fc6 and of fc7; None for 64 times ``width``, which published weights have.
        feature_scale: what the features are multiplied by before fc6.
    """

    def __init__(self, width: int, frozen_stages: int, hidden: int | None = None, feature_scale: float = 1.0) -> None:
        super().__init__()
        self.begins_published, self.feature_scale = hidden is None, feature_scale
        self.stages = nn.ModuleList(vgg.stages(width))
        # Caffe's pooling rounds up, so that 600 pixels become 38 cells; torch's default would make them 37.
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        channels, hidden = vgg.channels(width), hidden or 64 * width
        self.fc6 = nn.Linear(channels * GRID**2, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.dropout = nn.Dropout(DROPOUT)
        self.classes = nn.Linear(hidden, OUTPUTS)
        self.boxes = nn.Linear(hidden, 4 * OUTPUTS)
        self._init_weights()
        for stage in self.stages[:frozen_stages]:
            stage.requires_grad_(False)  # autograd then keeps none of their activations either

    def _init_weights(self) -> None:
        """Initial weights of the last layers are the paper's. Its hidden layers come from ImageNet; without them He et
        al. 2015 (arXiv 1502.01852) by inputs, since a spread of 0.01 leaves narrow ones next to no signal."""
        vgg.init_weights(self.stages)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.normal_(self.classes.weight, 0.0, CLASS_STD)
        nn.init.normal_(self.boxes.weight, 0.0, BOX_STD)
        for layer in (self.fc6, self.fc7, self.classes, self.boxes):
            nn.init.zeros_(layer.bias)

    def load_published(self, weights: Weights, source: Path) -> None:
        """Begin with the convolutions and the hidden layers of torchvision's VGG16.

        fc6 and fc7 keep the seed's initial weights if their width was chosen, or if the file lacks both.

        Raises:
            ConfigError: they are of another network.
        """
        vgg.load_stages([stage for stage in self.stages if isinstance(stage, nn.Sequential)], weights, source)
        layers = vgg.hidden_layers(weights, source) or {}
        for name, layer in layers.items() if self.begins_published else ():
            load_into(getattr(self, name), layer, source)

    def forward(self, images: Tensor, boxes: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (regions, 21) of the background and the classes, and deltas (regions, 21, 4) of boxes.

        Args:
            images: float32, shape (images, 3, height, width), normalised.
            boxes, owners: see :meth:`of_regions`.
        """
        return self.of_regions(self.features(images), boxes, owners)

    def features(self, images: Tensor) -> Tensor:
        """conv5_3 of images: shape (images, channels, height / 16, width / 16), rounded up.

        Args:
            images: float32, shape (images, 3, height, width), normalised.
        """
        features = images
        for number, stage in enumerate(self.stages):
            features = stage(self.pool(features) if number else features)
        return features

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, rows and columns of the features of an image of some height and width."""
        return self.fc6.in_features // GRID**2, -(-height // STRIDE), -(-width // STRIDE)

    def of_regions(self, features: Tensor, boxes: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        """The same as :meth:`forward` of images whose features are known.

        Args:
            features: see :meth:`features`.
            boxes: float32, shape (regions, 4): x1, y1, x2, y2 in pixels of the images.
            owners: int64, shape (regions,): which image each is in.
        """
        hidden = region_maxima(features * self.feature_scale, boxes, owners).flatten(1)
        for layer in (self.fc6, self.fc7):
            hidden = self.dropout(F.relu(layer(hidden)))
        return self.classes(hidden), self.boxes(hidden).view(-1, OUTPUTS, 4)


def region_maxima(features: Tensor, boxes: Tensor, owners: Tensor) -> Tensor:
    """RoI max-pooling: the largest value in each of 7 × 7 parts of a region, shape (regions, channels, 7, 7).

    The value of :func:`torchvision.ops.roi_pool`, whose operator also says where each maximum is. It is picked from
    there, so that the loss can be differentiated twice, and deterministically on a GPU; roi_pool's
    own derivative allows neither.

    Args:
        features: float32, shape (images, channels, height, width).
        boxes: float32, shape (regions, 4), in pixels of the image.
        owners: int64, shape (regions,).
    """
    # The operator counts the cell that a box's lower right corner is in as part of it, as Caffe's boxes do.
    last = boxes - boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    rois = torch.cat([owners[:, None].to(boxes.dtype), last], dim=1)
    # Autocast would have the operator answer in its own dtype, the places too, which have to stay whole numbers.
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        numbers = features.to(rois.dtype)  # which may be coarser ones
        _, places = torch.ops.torchvision.roi_pool(numbers, rois, 1.0 / STRIDE, GRID, GRID)
    channels, cells = features.shape[1], features.shape[2] * features.shape[3]
    planes = owners[:, None] * channels + torch.arange(channels, device=owners.device)
    index = planes[:, :, None, None] * cells + places.clamp(min=0)
    maxima = features.reshape(-1).gather(0, index.view(-1)).view(places.shape)
    return maxima.masked_fill(places < 0, 0.0)  # a part outside the features
