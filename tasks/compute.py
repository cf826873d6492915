"""How a network's arithmetic is done, in what number format and memory layout; and images as numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from tmsgd_bench.checks import choice, flag

PRECISION, CHANNELS_LAST = choice("float32", "bfloat16"), flag()
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue from 0 to 1: what torchvision's weights were trained with."""


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """A block whose convolutions and matrix products are done in a number format; weights stay in float32.

    Raises:
        ConfigError: the format is none of the known ones.
    """
    PRECISION("task.precision", precision)
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def memory_format(channels_last: bool) -> torch.memory_format:
    """Whether a pixel's channels lie together in memory.

    Raises:
        ConfigError: it is neither true nor false.
    """
    CHANNELS_LAST("task.channels_last", channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def to_float(pixels: torch.Tensor, memory_format: torch.memory_format = torch.preserve_format) -> torch.Tensor:
    """Bytes 0 to 255 as float32 from 0 to 1, with the same bits as torchvision's ToTensor on every device.

    Args:
        pixels: uint8, of any shape; (images, channels, height, width) for ``channels_last``.
        memory_format: of what is returned.
    """
    # Divided by a tensor on the device: a GPU multiplies by the reciprocal of a plain number, which rounds otherwise.
    scale = torch.full((), 255.0, device=pixels.device)
    return pixels.to(torch.float32, memory_format=memory_format).div_(scale)


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Bytes (uint8, (..., 3, height, width)) as float32: from 0 to 1, less ImageNet's mean, over its std."""
    std = 255.0 * torch.tensor(IMAGENET_STD, device=pixels.device)[:, None, None]
    mean = 255.0 * torch.tensor(IMAGENET_MEAN, device=pixels.device)[:, None, None]
    return (pixels.float() - mean) / std
