"""A box's place and size relative to a region's, as the network predicts them (Girshick et al. 2014, appendix C).

Boxes are (x1, y1, x2, y2) in continuous coordinates, see :mod:`tmsgd_bench.voc.devkit`. A region of width w and height
h around (cx, cy) is moved and stretched to a box of W and H around (CX, CY) by

    ((CX − cx) / w, (CY − cy) / h, ln(W / w), ln(H / h)),

each divided by :data:`STDS`, so that a network's outputs are of the order of 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STDS = (0.1, 0.1, 0.2, 0.2)
"""Of the four numbers over the foreground regions of VOC, rounded; their mean is taken to be 0."""
LARGEST = math.log(1000.0 / 16.0)
"""A region grows to 62.5 times its size at most, so that no output overflows."""


def encode(boxes: Tensor, regions: Tensor) -> Tensor:
    """What the network should say for regions on boxes: float32, shape (regions, 4).

    Args:
        boxes: float32, shape (regions, 4), of positive width and height.
        regions: the same.
    """
    size, box_size = regions[:, 2:] - regions[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = ((boxes[:, 2:] + boxes[:, :2]) - (regions[:, 2:] + regions[:, :2])) / (2.0 * size)
    return torch.cat([shift, (box_size / size).log()], dim=1) / regions.new_tensor(STDS)


def decode(deltas: Tensor, regions: Tensor) -> Tensor:
    """The boxes that the network means: float32, shape (regions, ..., 4).

    Args:
        deltas: float32, shape (regions, ..., 4): several for each region, say one for each class.
        regions: float32, shape (regions, 4).
    """
    regions = regions.view(-1, *(1,) * (deltas.dim() - 2), 4)
    size, centre = regions[..., 2:] - regions[..., :2], (regions[..., 2:] + regions[..., :2]) / 2.0
    real = deltas * deltas.new_tensor(STDS)
    middle = centre + real[..., :2] * size
    half = size * real[..., 2:].clamp(max=LARGEST).exp() / 2.0
    return torch.cat([middle - half, middle + half], dim=-1)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes cut off at their images' borders.

    Args:
        boxes: shape (boxes, ..., 4).
        sizes: shape (boxes, 2): height and width of each box's image.
    """
    limit = sizes.flip(1).to(boxes.dtype).repeat(1, 2).view(-1, *(1,) * (boxes.dim() - 2), 4)
    return torch.minimum(boxes.clamp(min=0.0), limit)


def mirror(boxes: Tensor, width: float) -> Tensor:
    """Boxes of an image of some width after it was flipped left to right."""
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=1)
