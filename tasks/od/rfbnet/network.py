"""VGG16, receptive-field blocks, and six pairs of heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.od import vgg
from tasks.od.rfbnet.priors import MAPS
from tasks.voc import CLASSES_AND_BACKGROUND
from tmsgd_bench.data.weights import Weights, load_into
from tmsgd_bench.errors import ConfigError

Size = int | tuple[int, int]
FULL = 1024
"""Channels of fc6 and fc7 at full width."""


class Convolution(nn.Sequential):
    """A convolution without bias, batch normalisation, and a ReLU unless it is left out.

    It is padded so that a stride of 1 keeps the size, for a kernel of any shape and dilation.
    """

    def __init__(
        self, inputs: int, outputs: int, size: Size, stride: int = 1, dilation: int = 1, relu: bool = True
    ) -> None:
        shape = (size, size) if isinstance(size, int) else size
        padding = (dilation * (shape[0] // 2), dilation * (shape[1] // 2))
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, shape, stride, padding, dilation, bias=False),
            nn.BatchNorm2d(outputs, momentum=0.01),
        ]
        super().__init__(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class Block(nn.Module):
    """Branches of growing receptive field beside a shortcut: ReLU(merged + shortcut).

    The authors' code multiplies the merged branches by a ``scale`` that it sets to 1 in every block
    (https://github.com/ruinmessi/RFBNet, models/RFB_Net_vgg.py), so there is none here.

    Args:
        branches: each ends in a dilated convolution without ReLU.
        merged: channels of all branches together.
        inputs, outputs: channels of the block.
        stride: of the shortcut; the branches have the same.
    """

    def __init__(self, branches: Sequence[nn.Module], merged: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.merge = Convolution(merged, outputs, 1, relu=False)
        self.shortcut = Convolution(inputs, outputs, 1, stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (images, outputs, height / stride, width / stride) of features (images, inputs, height, width)."""
        merged = self.merge(torch.cat([branch(x) for branch in self.branches], dim=1))
        return F.relu(merged + self.shortcut(x))


def rfb(inputs: int, outputs: int, stride: int) -> Block:
    """The block RFB: three branches with dilations 2, 3 and 5 (the paper's Figure 4a)."""
    eighth = inputs // 8
    quarter, middle = 2 * eighth, eighth // 2 * 3
    branches = [
        nn.Sequential(
            Convolution(inputs, quarter, 1, stride), Convolution(quarter, quarter, 3, dilation=2, relu=False)
        ),
        nn.Sequential(
            Convolution(inputs, eighth, 1),
            Convolution(eighth, quarter, 3, stride),
            Convolution(quarter, quarter, 3, dilation=3, relu=False),
        ),
        nn.Sequential(
            Convolution(inputs, eighth, 1),
            Convolution(eighth, middle, 3),
            Convolution(middle, quarter, 3, stride),
            Convolution(quarter, quarter, 3, dilation=5, relu=False),
        ),
    ]
    return Block(branches, 3 * quarter, inputs, outputs, stride)


def rfb_s(inputs: int, outputs: int) -> Block:
    """The block RFB-s on conv4_3: four branches with dilations 1, 3, 3 and 5 (the paper's Figure 4b).

    Its branches are as wide as the outputs say: in the paper it has as many inputs.
    """
    quarter = outputs // 4
    eighth, middle = quarter // 2, quarter // 4 * 3
    branches = [
        nn.Sequential(Convolution(inputs, quarter, 1), Convolution(quarter, quarter, 3, relu=False)),
        nn.Sequential(
            Convolution(inputs, quarter, 1),
            Convolution(quarter, quarter, (3, 1)),
            Convolution(quarter, quarter, 3, dilation=3, relu=False),
        ),
        nn.Sequential(
            Convolution(inputs, quarter, 1),
            Convolution(quarter, quarter, (1, 3)),
            Convolution(quarter, quarter, 3, dilation=3, relu=False),
        ),
        nn.Sequential(
            Convolution(inputs, eighth, 1),
            Convolution(eighth, middle, (1, 3)),
            Convolution(middle, quarter, (3, 1)),
            Convolution(quarter, quarter, 3, dilation=5, relu=False),
        ),
    ]
    return Block(branches, 4 * quarter, inputs, outputs, 1)


class RFBNet(nn.Module):
    """RFBNet-300 (Liu et al. 2018, Figure 5).

    Args:
        width: channels of the first convolution, a multiple of 8; 64 in the paper, and all others in proportion.
        head_width: the same of fc6 and everything behind, and of what answers for conv4_3; None for ``width``.
        frozen_stages: so many of VGG16's five stages keep their initial weights.
    """

    def __init__(self, width: int, head_width: int | None = None, frozen_stages: int = 0) -> None:
        super().__init__()
        unit = (head_width or width) / vgg.FULL_WIDTH
        c128, c256, c512, c1024 = (int(channels * unit) for channels in (128, 256, 512, FULL))
        self.begins_published = head_width in (None, width)
        self.stages = nn.ModuleList(vgg.stages(width))
        self.fc6 = nn.Conv2d(vgg.channels(width), c1024, 3, padding=6, dilation=6)
        self.fc7 = nn.Conv2d(c1024, c1024, 1)
        self.norm = rfb_s(vgg.channels(width), c512)
        self.extras = nn.ModuleList(
            [
                rfb(c1024, c1024, stride=1),
                rfb(c1024, c512, stride=2),
                rfb(c512, c256, stride=2),
                _shrink(c256, c128),
                _shrink(c256, c128),
            ]
        )
        channels = (c512, c1024, c512, c256, c256, c256)
        heads = [(level.boxes, inputs) for level, inputs in zip(MAPS, channels, strict=True)]
        self.boxes = nn.ModuleList(nn.Conv2d(inputs, 4 * boxes, 3, padding=1) for boxes, inputs in heads)
        self.classes = nn.ModuleList(
            nn.Conv2d(inputs, CLASSES_AND_BACKGROUND * boxes, 3, padding=1) for boxes, inputs in heads
        )
        self._init_weights()
        for stage in self.stages[:frozen_stages]:
            stage.requires_grad_(False)

    def _init_weights(self) -> None:
        """He's for all but the heads: these keep torch's own, with biases of 0, as in the authors' train_RFB.py."""
        for module in (self.stages, self.fc6, self.fc7, self.norm, self.extras):
            vgg.init_weights(module)
        for head in (*self.boxes, *self.classes):
            nn.init.zeros_(head.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (images, priors, 4) and logits (images, priors, 21; the first is background's) of images."""
        return self._answers(self.maps(images))

    def of_features(self, conv4_3: Tensor, pool5: Tensor) -> tuple[Tensor, Tensor]:
        """The same as :meth:`forward` of images whose :meth:`features` are known."""
        return self._answers(self._maps(self.norm(conv4_3), pool5))

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """VGG16's conv4_3 and pool5 of images (images, 3, 300, 300): 38 and 19 cells in each direction."""
        conv4_3 = self._conv4_3(images)
        return conv4_3, self._pool5(conv4_3)

    @property
    def shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Channels, rows and columns of an image's two maps of :meth:`features`."""
        channels, (large, small, *_) = self.fc6.in_channels, MAPS
        return (channels, large.cells, large.cells), (channels, small.cells, small.cells)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The six feature maps of images (images, 3, 300, 300): 38, 19, 10, 5, 3 and 1 cells in each direction."""
        conv4_3 = self._conv4_3(images)
        # The block first: in another order conv4_3's gradients would be summed in another order, too.
        return self._maps(self.norm(conv4_3), self._pool5(conv4_3))

    def _conv4_3(self, images: Tensor) -> Tensor:
        x = images
        for stage in self.stages[:2]:
            x = F.max_pool2d(stage(x), 2)
        conv4_3: Tensor = self.stages[3](F.max_pool2d(self.stages[2](x), 2, ceil_mode=True))  # 75 → 38
        return conv4_3

    def _pool5(self, conv4_3: Tensor) -> Tensor:
        return F.max_pool2d(self.stages[4](F.max_pool2d(conv4_3, 2)), 3, stride=1, padding=1)

    def _maps(self, first: Tensor, pool5: Tensor) -> list[Tensor]:
        """The first map and, made from pool5, the others."""
        maps, x = [first], F.relu(self.fc7(F.relu(self.fc6(pool5), inplace=True)), inplace=True)
        for extra in self.extras:
            x = extra(x)
            maps.append(x)
        return maps

    def _answers(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        offsets = [_by_prior(head(x), 4) for head, x in zip(self.boxes, maps, strict=True)]
        logits = [_by_prior(head(x), CLASSES_AND_BACKGROUND) for head, x in zip(self.classes, maps, strict=True)]
        return torch.cat(offsets, dim=1), torch.cat(logits, dim=1)

    def load_vgg(self, weights: Weights, source: Path) -> None:
        """Begin with VGG16's weights; fc6 and fc7 take every fourth of 4,096 outputs and every third of 7 × 7 pixels.

        The thinning is Chen et al.'s (2015, arXiv 1412.7062, section 3.1), as for SSD. Where the file has the
        convolutions alone, or the head has a width of its own, fc6 and fc7 keep the seed's initial weights.

        Raises:
            ConfigError: they are of another network.
        """
        vgg.load_stages(self.stages, weights, source)
        if (hidden := vgg.hidden_layers(weights, source)) is None or not self.begins_published:
            return
        try:
            six = hidden["fc6"]["weight"].view(4096, 512, 7, 7)[::4, :, ::3, ::3]
            seven = hidden["fc7"]["weight"].view(4096, 4096, 1, 1)[::4, ::4]
        except RuntimeError as error:
            raise ConfigError(
                f"{source} has another classifier than VGG16's: model.weights must be torchvision's VGG16, or its "
                "convolutions ('features.…') alone."
            ) from error
        load_into(self.fc6, {"weight": six, "bias": hidden["fc6"]["bias"][::4]}, source)
        load_into(self.fc7, {"weight": seven, "bias": hidden["fc7"]["bias"][::4]}, source)


def _shrink(inputs: int, middle: int) -> nn.Sequential:
    """A 1 × 1 convolution, then an unpadded 3 × 3 one, which takes two cells away in each direction."""
    last = Convolution(middle, inputs, 3)
    last[0].padding = (0, 0)  # type: ignore[assignment]
    return nn.Sequential(Convolution(inputs, middle, 1), last)


def _by_prior(answers: Tensor, numbers: int) -> Tensor:
    """Channels of a head (images, boxes · numbers, rows, columns) as (images, rows · columns · boxes, numbers)."""
    return answers.permute(0, 2, 3, 1).reshape(len(answers), -1, numbers)
