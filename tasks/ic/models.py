"""VGG and ResNet for photos of 32 × 32 pixels, every depth from one definition each.

Weights start as torch's layers do. Convolutions have no bias: the batch normalisation behind each subtracts it again.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tmsgd_bench.checks import Section, Variants, choice, takes, whole

VGG_DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of each of the five stages (Simonyan and Zisserman 2015, arXiv 1409.1556, Table 1: A, B, D, E)."""
VGG_WIDTHS = (1, 2, 4, 8, 8)
"""Channels of the stages, in units of the first one's."""


class VGG(nn.Module):
    """Five stages of 3 × 3 convolutions with batch normalisation, halved by a max-pool each; one linear head.

    The paper's three fully connected layers of 4,096 are left out, as usual for CIFAR.

    Args:
        depth: 11, 13, 16 or 19.
        width: channels of the first stage; 64 in the paper.
        classes: number of outputs.
    """

    def __init__(self, depth: int, width: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for convolutions, factor in zip(VGG_DEPTHS[depth], VGG_WIDTHS, strict=True):
            for _ in range(convolutions):
                layers += [_convolution(channels, factor * width), nn.BatchNorm2d(factor * width), nn.ReLU(True)]
                channels = factor * width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (images, classes) of images (images, 3, 32, 32)."""
        logits: Tensor = self.head(self.features(images).flatten(1))
        return logits


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut (He et al. 2016, arXiv 1512.03385, Figure 5 left).

    Args:
        inputs: channels that come in.
        channels: channels that go out.
        stride: of the first convolution, and of the shortcut.
    """

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(inputs, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _convolution(channels, channels), nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(inputs, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features (images, channels, size / stride, size / stride) of features (images, inputs, size, size)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 and 1 × 1 convolution beside a shortcut (Figure 5 right); four times as many channels go out.

    The stride is the 3 × 3 convolution's, as in torchvision, and not the first 1 × 1 convolution's as in the paper.

    Args:
        inputs: channels that come in.
        channels: channels between the convolutions.
        stride: of the 3 × 3 convolution, and of the shortcut.
    """

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        outputs = self.expansion * channels
        self.conv1, self.bn1 = _convolution(inputs, channels, 1), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = _convolution(channels, channels, 3, stride), nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = _convolution(channels, outputs, 1), nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Features (images, 4 channels, size / stride, size / stride) of features (images, inputs, size, size)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x), inplace=True)


Block = type[BasicBlock] | type[Bottleneck]
RESNET_DEPTHS: dict[int, tuple[Block, tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
}
"""Kind of block and blocks of each of the four stages (He et al. 2016, Table 1)."""


class ResNet(nn.Module):
    """A 3 × 3 stem without max-pool, four stages of residual blocks, the mean over all pixels, one linear head.

    The stages work on 32, 16, 8 and 4 pixels a side, each with twice the channels of the one before.

    Args:
        depth: 18, 34 or 50.
        width: channels of the stem; 64 in the paper.
        classes: number of outputs.
    """

    def __init__(self, depth: int, width: int, classes: int) -> None:
        super().__init__()
        block, blocks = RESNET_DEPTHS[depth]
        self.conv1, self.bn1 = _convolution(3, width), nn.BatchNorm2d(width)
        layers: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(blocks):
            for number in range(count):
                layers.append(block(channels, width << stage, stride=2 if stage and not number else 1))
                channels = block.expansion * (width << stage)
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (images, classes) of images (images, 3, 32, 32)."""
        features = self.blocks(F.relu(self.bn1(self.conv1(images)), inplace=True))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


OPTIONS = Variants(
    "family",
    {
        family: Section({"depth": choice(*depths), "width": whole(1, 512)})
        for family, depths in (("vgg", VGG_DEPTHS), ("resnet", RESNET_DEPTHS))
    },
)
"""Of a model, without its name."""


@takes(OPTIONS)
def build(classes: int, family: str, depth: int, width: int) -> nn.Module:
    """The network of a family.

    Args:
        classes: number of outputs.
        family: vgg or resnet.
        depth, width: see :class:`VGG` and :class:`ResNet`.
    """
    network = VGG if family == "vgg" else ResNet
    return network(depth, width, classes)


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """The input as it is where its shape fits, and else through a 1 × 1 convolution."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
