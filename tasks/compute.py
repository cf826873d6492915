"""How a network's arithmetic is done: number format and memory layout, which several tasks have as options."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from tmsgd_bench.checks import choice, flag

PRECISION, CHANNELS_LAST = choice("float32", "bfloat16"), flag()


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


def normalise(pixels: torch.Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> torch.Tensor:
    """Bytes (uint8, (..., 3, height, width)) as float32: from 0 to 1, less each colour's mean, over its deviation."""
    scale = 255.0 * torch.tensor(deviation, device=pixels.device)[:, None, None]
    shift = 255.0 * torch.tensor(mean, device=pixels.device)[:, None, None]
    return (pixels.float() - shift) / scale
