"""Random crops and flips of many images at once, on the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.ic.data import SIDE
from tmsgd_bench.seeding import generator

PADDING = 4


def crop_and_flip(pixels: Tensor, corners: Tensor, flips: Tensor) -> Tensor:
    """Each image cut out of itself with four black pixels around it, and some mirrored.

    Args:
        pixels: uint8, shape (images, 3, 32, 32).
        corners: int64, shape (images, 2): row and column of the cut's upper left corner, from 0 to 8.
        flips: bool, shape (images,): which are mirrored, left for right.

    Returns:
        uint8, shape (images, 3, 32, 32).
    """
    padded = F.pad(pixels, (PADDING,) * 4)
    along = torch.arange(SIDE, device=pixels.device)
    rows = corners[:, :1] + along
    columns = corners[:, 1:] + torch.where(flips[:, None], along.flip(0), along)
    images = torch.arange(len(pixels), device=pixels.device)
    return padded[images[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def draw_crops_and_flips(size: int, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """Corners and flips of all images of an epoch; see :func:`crop_and_flip`.

    What an image gets depends on the seed, the epoch and its number alone, not on the batch it is in.
    """
    stream = generator(seed, "augmentation", epoch)
    corners = torch.randint(0, 2 * PADDING + 1, (size, 2), generator=stream)
    return corners, torch.rand(size, generator=stream) < 0.5
