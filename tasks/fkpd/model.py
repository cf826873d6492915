"""PreActResNet34 for gray images, with two linear layers on all of its last features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from tmsgd_bench.checks import Section, items, takes, whole
from tmsgd_bench.errors import ConfigError

SHRINKS = 32
"""Pixels of the image behind one of the last features, in each direction."""


class PreActBlock(nn.Module):
    """Two 3 × 3 convolutions, each behind its batch normalisation and ReLU, beside a shortcut.

    The full pre-activation block of He et al. 2016 (arXiv 1603.05027, Figure 4e). Where the shape changes, the shortcut
    is a 1 × 1 convolution of the pre-activated input (their Section 3.2 and 4.1); elsewhere it is the input itself.

    Args:
        inputs: channels that come in.
        channels: channels that go out.
        stride: of the first convolution, and of the shortcut.
    """

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        changes = stride != 1 or inputs != channels
        self.shortcut = nn.Conv2d(inputs, channels, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Features (images, channels, size / stride, size / stride) of features (images, inputs, size, size)."""
        active = F.relu(self.bn1(x), inplace=True)
        beside: Tensor = x if self.shortcut is None else self.shortcut(active)
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active)), inplace=True))
        return y.add_(beside)


@takes(Section({"blocks": items(whole(1, 100), 4, 4), "width": whole(2, 512), "hidden": whole(1, 16_384)}))
class PreActResNet(nn.Module):
    """A 7 × 7 stem and a max-pool, four stages of :class:`PreActBlock`, two linear layers with a ReLU between them.

    The stem has half as many channels as the first stage. With blocks (3, 4, 6, 3), width 64, hidden 512, images of
    224 × 224 pixels and 136 outputs that makes 34,172,904 parameters.

    Args:
        blocks: of each of the four stages.
        width: channels of the first stage; each further one has twice as many, on half as many pixels a side.
        hidden: units of the first linear layer.
        side: pixels of an image in each direction; a multiple of 32.
        outputs: numbers for each image.

    Raises:
        ConfigError: ``side`` is no multiple of 32.
    """

    def __init__(self, blocks: Sequence[int], width: int, hidden: int, side: int, outputs: int) -> None:
        super().__init__()
        if side % SHRINKS:
            raise ConfigError(
                f"task.crop must be a multiple of {SHRINKS} for PreActResNet, not {side}: choose 96 or 224."
            )
        channels = width // 2
        self.stem = nn.Conv2d(1, channels, 7, stride=2, padding=3, bias=False)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        layers: list[nn.Module] = []
        for stage, count in enumerate(blocks):
            for number in range(count):
                layers.append(PreActBlock(channels, width << stage, stride=2 if stage and not number else 1))
                channels = width << stage
        self.blocks = nn.Sequential(*layers)
        self.hidden = nn.Linear(channels * (side // SHRINKS) ** 2, hidden)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Numbers (images, outputs) of images (images, 1, side, side)."""
        features = self.blocks(self.pool(self.stem(images)))
        numbers: Tensor = self.head(F.relu(self.hidden(features.flatten(1)), inplace=True))
        return numbers
