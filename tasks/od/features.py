"""Outputs of a frozen network, computed once for each image and kept on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tasks.voc import ImageSplit
from tmsgd_bench.data import cache, memory
from tmsgd_bench.data.packed import Packed
from tmsgd_bench.engine.loop import weights_digest
from tmsgd_bench.engine.progress import counted

log = logging.getLogger(__name__)

VERSION = 1  # to be raised when what is computed of the same image changes
BYTES = 4
"""Of one number."""


def kept_name(split: ImageSplit, what: str) -> str:
    """The name under which something of a split's images is kept; that of a subset of a list is another one."""
    splits = dict.fromkeys(images.split for images in split.images)
    subsets = dict.fromkeys(images.subset for images in split.images if images.subset)
    return "-".join([what, *splits, *subsets])


def kept_features(
    split: ImageSplit,
    name: str,
    frozen: nn.Module,
    options: Mapping[str, Any],
    shapes: Sequence[tuple[int, int, int]],
    compute: Callable[[int], Tensor],
) -> Packed:
    """The features of every image of a split, in float32; computed where they are not there yet.

    They are computed image by image, so they have the same bits as those of a batch of one image in training. They are
    read from disk as a memory map, which all runs share.

    Args:
        name: of the features; part of the file's name.
        frozen: whose weights they depend on.
        options: plain values of everything else that they depend on.
        shapes: channels, rows and columns of each image's; the channels are the same in all.
        compute: the features of an image of a number, float32, in its shape.

    Raises:
        ConfigError: they do not fit into memory; the message says how much they need.
    """
    depends = {
        "version": VERSION,
        "names": split.names,
        "weights": weights_digest({"frozen": frozen.state_dict()}),
        "arithmetic": _arithmetic(frozen),
        **options,
    }
    tensors = cache.tensors(
        split.settings, kept_name(split, name), depends, lambda: _computed(shapes, compute).tensors("features")
    )
    return Packed.of_tensors(tensors, "features", shapes[0][0])


def _arithmetic(frozen: nn.Module) -> dict[str, Any]:
    """What changes the last bits of a convolution on one machine."""
    strides = [list(weight.stride()) for weight in frozen.parameters()]
    device = next(frozen.parameters()).device.type
    tf32 = device == "cuda" and torch.backends.cudnn.allow_tf32
    return {"torch": torch.__version__, "device": device, "tf32": tf32, "strides": strides}


@torch.no_grad()
def _computed(shapes: Sequence[tuple[int, int, int]], compute: Callable[[int], Tensor]) -> Packed:
    extents = torch.tensor(shapes, dtype=torch.int64)
    lengths = extents.prod(dim=1)
    total = int(lengths.sum())
    memory.check(
        BYTES * total,
        f"the features of {len(shapes):,} images",
        "set model.keep_features=false, or use smaller or fewer images (model.short_side, data.limit)",
    )
    log.info("computing the features of %s images, once for all runs", f"{len(shapes):,}")
    packed = Packed(torch.empty(total), lengths.cumsum(0) - lengths, extents[:, 1:].contiguous(), shapes[0][0])
    for number in counted(range(len(shapes)), len(shapes), "features", "image"):
        packed[number].copy_(compute(number))
    return packed
