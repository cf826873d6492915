"""From bytes on the device to the batches that a network sees: no Python loop over images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.ic.data import SIDE
from tmsgd_bench.seeding import generator

PADDING = 4


def to_float(pixels: Tensor, memory_format: torch.memory_format) -> Tensor:
    """Bytes 0 to 255 as float32 from 0 to 1, with the same bits as torchvision's ToTensor on every device.

    Args:
        pixels: uint8, shape (images, 3, height, width).
        memory_format: of what is returned.
    """
    # Divided by a tensor on the device: a GPU multiplies by the reciprocal of a plain number, which rounds otherwise.
    scale = torch.full((), 255.0, device=pixels.device)
    return pixels.to(torch.float32, memory_format=memory_format).div_(scale)


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
