"""DCGAN at 64 × 64 pixels (Radford et al. 2016, arXiv 1511.06434): a generator and a discriminator."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from tmsgd_bench.checks import Section, takes, whole

SIDE = 64
"""Pixels of an image in each direction."""
INIT_STD = 0.02
"""Standard deviation of initial weights."""


class Generator(nn.Module):
    """Noise → 4 × 4 → 8 × 8 → 16 × 16 → 32 × 32 → 64 × 64 pixels, by transposed convolutions.

    Args:
        noise: numbers of one noise vector.
        filters: channels at 32 × 32; twice as many at each smaller size.
    """

    def __init__(self, noise: int, filters: int) -> None:
        super().__init__()
        self.noise = noise
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(noise, 8 * filters, 4, bias=False),
            *_normalised(8 * filters, nn.ReLU(inplace=True)),
            *_grown(8 * filters, 4 * filters),
            *_grown(4 * filters, 2 * filters),
            *_grown(2 * filters, filters),
            nn.ConvTranspose2d(filters, 3, 4, 2, 1, bias=False),
            nn.Tanh(),
        )
        self.apply(_start)

    def forward(self, noise: Tensor) -> Tensor:
        """Images (count, 3, 64, 64) from −1 to 1 of noise (count, numbers)."""
        images: Tensor = self.layers(noise[:, :, None, None])
        return images


class Discriminator(nn.Module):
    """64 × 64 pixels → 32 × 32 → 16 × 16 → 8 × 8 → 4 × 4 → one number, by strided convolutions.

    Args:
        filters: channels at 32 × 32; twice as many at each smaller size.
    """

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, filters, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
            *_shrunk(filters, 2 * filters),
            *_shrunk(2 * filters, 4 * filters),
            *_shrunk(4 * filters, 8 * filters),
            nn.Conv2d(8 * filters, 1, 4, bias=False),
        )
        self.apply(_start)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (count,) that images (count, 3, 64, 64) are real."""
        logits: Tensor = self.layers(images)
        return logits.flatten()


class Networks(NamedTuple):
    """What the task trains against each other.

    Args:
        generator: has the length of a noise vector in ``noise``.
        discriminator: logits of images.
    """

    generator: Generator
    discriminator: Discriminator


@takes(Section({"noise": whole(1, 16_384), "filters": whole(1, 512)}))
def build(noise: int, filters: int) -> Networks:
    """DCGAN's two networks; see :class:`Generator` and :class:`Discriminator`."""
    return Networks(Generator(noise, filters), Discriminator(filters))


def _grown(before: int, after: int) -> list[nn.Module]:
    layer = nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)
    return [layer, *_normalised(after, nn.ReLU(inplace=True))]


def _shrunk(before: int, after: int) -> list[nn.Module]:
    layer = nn.Conv2d(before, after, 4, 2, 1, bias=False)
    return [layer, *_normalised(after, nn.LeakyReLU(0.2, inplace=True))]


def _normalised(channels: int, activation: nn.Module) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), activation]


def _start(module: nn.Module) -> None:
    """Convolutions begin at N(0, 0.02), the factors of batch normalisation at N(1, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, INIT_STD)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, INIT_STD)
