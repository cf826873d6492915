"""The 11,620 prior boxes, and boxes as offsets from them (Liu et al. 2016, SSD, arXiv 1512.02325, section 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SIDE = 300
"""Pixels of an input image in each direction."""


@dataclass(frozen=True)
class Map:
    """The priors of one feature map.

    Args:
        cells: of the map in each direction.
        step: pixels from one cell's centre to the next.
        small, large: sides in pixels of the first square and of the next map's.
        ratios: widths over heights, besides 1; each is used both ways round.
    """

    cells: int
    step: int
    small: int
    large: int
    ratios: tuple[int, ...]

    @property
    def boxes(self) -> int:
        """Priors of each cell: two squares, and two boxes for each ratio."""
        return 2 + 2 * len(self.ratios)


MAPS = (
    Map(38, 8, 30, 60, (2, 3)),
    Map(19, 16, 60, 111, (2, 3)),
    Map(10, 32, 111, 162, (2, 3)),
    Map(5, 64, 162, 213, (2, 3)),
    Map(3, 100, 213, 264, (2,)),
    Map(1, 300, 264, 315, (2,)),
)
VARIANCES = (0.1, 0.2)
"""Offsets of centres and of sizes are divided by these, which makes them about as large as each other."""
CENTRES, SIZES = slice(0, 2), slice(2, 4)


def priors() -> Tensor:
    """Centre x, centre y, width and height of every prior in shares of the image: float32, shape (11620, 4).

    Map by map, row by row, cell by cell; within a cell the small square, the middle one, then each ratio wide and high.
    Each is clipped to [0, 1], number by number, as in the published network.
    """
    rows = [prior for level in MAPS for prior in _of_map(level)]
    return torch.tensor(rows, dtype=torch.float64).clamp(0.0, 1.0).float()


def _of_map(level: Map) -> Iterator[tuple[float, float, float, float]]:
    small, middle = level.small / SIDE, math.sqrt(level.small * level.large) / SIDE
    shapes = [(small, small), (middle, middle)]
    for ratio in map(math.sqrt, level.ratios):
        shapes += [(small * ratio, small / ratio), (small / ratio, small * ratio)]
    for row in range(level.cells):
        for column in range(level.cells):
            x, y = ((place + 0.5) * level.step / SIDE for place in (column, row))
            yield from ((x, y, width, height) for width, height in shapes)


def corners(boxes: Tensor) -> Tensor:
    """Boxes (…, 4) given as centres and sizes as x1, y1, x2, y2."""
    half = boxes[..., SIZES] / 2
    return torch.cat([boxes[..., CENTRES] - half, boxes[..., CENTRES] + half], dim=-1)


def encode(boxes: Tensor, near: Tensor) -> Tensor:
    """Boxes (…, 4; x1, y1, x2, y2) as offsets from priors (…, 4): what the network is to answer."""
    centres, sizes = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    moved = (centres - near[..., CENTRES]) / (VARIANCES[0] * near[..., SIZES])
    return torch.cat([moved, torch.log(sizes / near[..., SIZES]) / VARIANCES[1]], dim=-1)


def decode(offsets: Tensor, near: Tensor) -> Tensor:
    """The inverse of :func:`encode`."""
    centres = near[..., CENTRES] + VARIANCES[0] * offsets[..., CENTRES] * near[..., SIZES]
    return corners(torch.cat([centres, near[..., SIZES] * torch.exp(VARIANCES[1] * offsets[..., SIZES])], dim=-1))
