"""The proposals of a part's images, from wherever the settings say, in one tensor."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.od.fast_rcnn import imported, selective_search
from tasks.od.fast_rcnn.selective_search import Kept, Search
from tasks.od.features import kept_name
from tasks.od.options import OWN, PROPOSALS
from tasks.voc import ImageSplit
from tmsgd_bench.data import cache
from tmsgd_bench.data.texts import FOLDER
from tmsgd_bench.engine.workers import cores
from tmsgd_bench.errors import ConfigError, DataError

log = logging.getLogger(__name__)

VERSION = 1


@dataclass(frozen=True)
class Source:
    """Where proposals come from, and which of them are used.

    Args:
        kind: "selective_search", or a name that importing a file printed.
        search: the settings of selective search.
        limit: at most so many of each image, the first ones.
        min_side: those of a smaller width or height, in pixels, are left out.
    """

    kind: str
    search: Search
    limit: int
    min_side: int

    @classmethod
    def of(cls, options: Any) -> Source:
        """From ``model.proposals``.

        Raises:
            ConfigError: an option is missing, unknown, or out of its range.
        """
        PROPOSALS("model.proposals", options)
        search = Search(**{field.name: options[field.name] for field in fields(Search)})
        return cls(options["kind"], search, options["limit"], options["min_side"])


@dataclass(frozen=True)
class Proposals:
    """Boxes of several images.

    Args:
        boxes: float32, shape (proposals of all images, 4), in pixels of the image as published.
        ends: int64, shape (images,): where each image's end.
    """

    boxes: Tensor
    ends: Tensor

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> Tensor:
        """One image's, float32, shape (proposals, 4): a view, not to be written to."""
        start = int(self.ends[number - 1]) if number else 0
        return self.boxes[start : int(self.ends[number])]


def folder(data_folder: Path) -> Path:
    """Where the proposals of a data set's images are kept."""
    return data_folder.parent / FOLDER / "proposals"


def proposals(split: ImageSplit, source: Source, jobs: int | None = None) -> Proposals:
    """The proposals of every image of a part; computed where they are not there yet.

    Those of a subset of a list are kept under another name than those of all of it, as its photos are.

    Some images may have none, which the log says: in training there are the boxes of their objects, which join the
    proposals, and in a test nothing is found in them.

    Args:
        jobs: processes that compute; None for as many as there are cores.

    Raises:
        ConfigError: no image has any: without background a detector learns nothing, and none can be tested.
        DataError: they are not there and cannot be computed, or do not belong to the images.
    """
    splits = dict.fromkeys(images.split for images in split.images)
    options = {"version": VERSION, "source": asdict(source), "names": split.names}
    tensors = cache.tensors(
        split.settings,
        kept_name(split, "proposals"),
        options,
        lambda: _tensors(list(_chosen(split, source, jobs))),
    )
    loaded = Proposals(tensors["boxes"], tensors["ends"])
    _check_some(loaded, source, " and ".join(splits))
    return loaded


def _check_some(loaded: Proposals, source: Source, splits: str) -> None:
    """Refuse images of which none has a proposal; say of how many that is so."""
    without = int((loaded.ends.diff(prepend=loaded.ends.new_zeros(1)) == 0).sum())
    size = f" of at least {source.min_side} pixels each way" if source.min_side else ""
    if without == len(loaded):
        fix = "lower model.proposals.min_side" if source.min_side else "choose another model.proposals.kind"
        raise ConfigError(f"none of the {len(loaded):,} images of {splits} has a proposal{size}: {fix}.")
    if without:
        log.warning("%s of %s images of %s have no proposal%s", f"{without:,}", f"{len(loaded):,}", splits, size)


def _tensors(boxes: Sequence[Tensor]) -> dict[str, Tensor]:
    ends = torch.tensor([len(of_image) for of_image in boxes], dtype=torch.int64).cumsum(0)
    return {"boxes": torch.cat([torch.zeros(0, 4), *boxes]), "ends": ends}


def _chosen(split: ImageSplit, source: Source, jobs: int | None) -> Iterator[Tensor]:
    """Of each image, those that are large enough, up to the limit."""
    for boxes in _found(split, source, jobs):
        of_image = torch.from_numpy(np.asarray(boxes, dtype=np.float32))
        large = ((of_image[:, 2:] - of_image[:, :2]) >= source.min_side).all(dim=1)
        yield of_image[large][: source.limit]


def _found(split: ImageSplit, source: Source, jobs: int | None) -> Sequence[np.ndarray]:
    if source.kind != OWN:
        return _imported(split, source.kind)
    kept = Kept(folder(split.settings.data_folder) / source.search.key, split.names, split.photos, source.search)
    return selective_search.proposals(kept, cores() if jobs is None else jobs)


def _imported(split: ImageSplit, kind: str) -> list[np.ndarray]:
    sets = imported.load(folder(split.settings.data_folder), kind)
    boxes = []
    for number, name in enumerate(split.names):
        if name not in sets:
            raise DataError(f"{kind} has no proposals of the image {name}: import all files that a run needs at once.")
        height, width = split.photos[number].shape[1:]
        if (sets[name][:, 2:] > np.array([width, height])).any():
            raise DataError(f"{kind} has a proposal outside the image {name}: import those of these very images.")
        boxes.append(sets[name])
    return boxes
