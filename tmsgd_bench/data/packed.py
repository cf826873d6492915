"""Images of different sizes, stored one after the other in one tensor, which can be memory-mapped."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """Images of different sizes.

    Args:
        pixels: uint8 (float32 of features), shape (numbers,): image after image, channel after channel, row after row.
        starts: int64, shape (images,): where each begins in ``pixels``.
        sizes: int64, shape (images, 2): height and width.
        channels: of every image.
    """

    pixels: Tensor
    starts: Tensor
    sizes: Tensor
    channels: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> Tensor:
        """One image, shape (channels, height, width): a view, not to be written to."""
        height, width = self.sizes[number].tolist()
        start = int(self.starts[number])
        return self.pixels[start : start + self.channels * height * width].view(self.channels, height, width)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Its tensors, under names that start with ``name``."""
        return {f"{name}_pixels": self.pixels, f"{name}_starts": self.starts, f"{name}_sizes": self.sizes}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], name: str, channels: int) -> Packed:
        """From what :meth:`tensors` returned."""
        return cls(tensors[f"{name}_pixels"], tensors[f"{name}_starts"], tensors[f"{name}_sizes"], channels)


def pack(sizes: Sequence[tuple[int, int]], images: Iterable[np.ndarray], channels: int) -> Packed:
    """Put images into one tensor, one by one, so that none is in memory twice.

    Args:
        sizes: height and width of each.
        images: uint8, each of shape (height, width, channels), or (height, width) for one channel.
    """
    extents = torch.tensor(sizes, dtype=torch.int64).view(-1, 2)  # for no images, too
    lengths = channels * extents.prod(dim=1)
    starts = lengths.cumsum(0) - lengths
    packed = Packed(torch.empty(int(lengths.sum()), dtype=torch.uint8), starts, extents, channels)
    for number, image in enumerate(images):
        planes = torch.from_numpy(np.array(image, copy=True)).view(*sizes[number], channels).permute(2, 0, 1)
        packed[number].copy_(planes)
    return packed


class Chosen:
    """A selection from the images of several packs, numbered from 0.

    Args:
        packs: the packs, whose images are numbered one pack after the other.
        chosen: int64, shape (images,): the numbers of the selected images.
    """

    def __init__(self, packs: Sequence[Packed], chosen: Tensor) -> None:
        self.packs = list(packs)
        self.firsts = np.cumsum([0, *(len(pack) for pack in packs)])[:-1].tolist()
        self.chosen = chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, number: int) -> Tensor:
        """See :meth:`Packed.__getitem__`."""
        image = int(self.chosen[number])
        pack = bisect_right(self.firsts, image) - 1
        return self.packs[pack][image - self.firsts[pack]]
