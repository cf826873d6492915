"""Proposals that somebody else computed, in files that hold those of many images.

Two layouts are read:

- ``.mat`` as Girshick published them for VOC: ``boxes``, a cell for each image, of (proposals, 4) numbers y1, x1, y2,
  x2 in pixels counted from 1, both ends included; and ``images``, the names of the images.
- ``.npz``: ``names`` (images,), texts; ``counts`` (images,), how many proposals each has; ``boxes`` (proposals of all
  images, 4), x1, y1, x2, y2 in continuous pixels, see :mod:`tmsgd_bench.voc.devkit`.

What is kept has a name that ends in the digest of the names and boxes, so that a run's identity says what was in the
file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tasks.od.options import IMPORTED
from tmsgd_bench import files
from tmsgd_bench.errors import ConfigError, DataError, StoreError

Sets = dict[str, np.ndarray]
"""The proposals of images by the image's name: float32, shape (proposals, 4)."""
FIX = "use a file of one of the layouts that docs/tasks/od_fast_rcnn.md describes."


def read(path: Path) -> Sets:
    """The proposals of a file.

    Raises:
        DataError: it is missing, damaged, of another layout, or a box is empty; names it.
    """
    readers = {".mat": _read_mat, ".npz": _read_npz}
    if path.suffix not in readers:
        raise DataError(f"{path} is neither a .mat nor an .npz file: {FIX}")
    try:
        return _checked(*readers[path.suffix](path))
    except Exception as error:  # scipy and numpy raise many kinds for a damaged file
        raise DataError(f"cannot use {path} ({_reason(error)}): {FIX}") from error


def _reason(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else files.os_reason(error)


def _read_mat(path: Path) -> tuple[list[str], list[np.ndarray]]:
    from scipy.io import loadmat  # takes long to import

    arrays = loadmat(path)
    names = [str(np.asarray(name).ravel()[0]) for name in arrays["images"].ravel()]
    boxes = [np.asarray(cell, dtype=np.float32).reshape(-1, 4) for cell in arrays["boxes"].ravel()]
    return names, [corners[:, [1, 0, 3, 2]] - np.array([1, 1, 0, 0], dtype=np.float32) for corners in boxes]


def _read_npz(path: Path) -> tuple[list[str], list[np.ndarray]]:
    with np.load(path, allow_pickle=False) as arrays:
        names, counts, boxes = arrays["names"], arrays["counts"], np.asarray(arrays["boxes"], dtype=np.float32)
    if counts.dtype.kind not in "iu" or (counts < 0).any() or boxes.shape != (counts.sum(), 4):
        raise ValueError("counts and boxes do not belong together")
    return [str(name) for name in names], np.split(boxes, np.cumsum(counts)[:-1]) if len(counts) else []


def _checked(names: Sequence[str], boxes: Sequence[np.ndarray]) -> Sets:
    if len(names) != len(boxes):
        raise ValueError(f"it has {len(names)} names and the proposals of {len(boxes)} images")
    if len(set(names)) < len(names):
        raise ValueError("an image's name is there twice")
    for name, of_image in zip(names, boxes, strict=True):
        if not np.isfinite(of_image).all() or (of_image[:, :2] < 0).any() or (of_image[:, 2:] <= of_image[:, :2]).any():
            raise ValueError(f"{name} has a proposal that is empty, or lies outside the image")
    return dict(zip(names, boxes, strict=True))


def _arrays(sets: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The .npz layout, in the order of names."""
    names = sorted(sets)
    boxes = np.concatenate([np.zeros((0, 4)), *(sets[name] for name in names)]).astype(np.float32)
    return {"names": np.array(names), "counts": np.array([len(sets[name]) for name in names], np.int64), "boxes": boxes}


def name_of(sets: Mapping[str, np.ndarray]) -> str:
    """What the proposals are called: the same for the same names and boxes, whatever file they came from."""
    arrays = _arrays(sets)
    digest = hashlib.sha256("\n".join(arrays["names"].tolist()).encode())
    digest.update(arrays["counts"].astype("<i8").tobytes())
    digest.update(arrays["boxes"].astype("<f4").tobytes())
    return f"imported-{digest.hexdigest()[:16]}"


def keep(folder: Path, paths: Sequence[Path]) -> str:
    """Bring the proposals of files, together, into a folder; returns their name.

    Raises:
        DataError: see :func:`read`; or two files have proposals of the same image.
        StoreError: the folder cannot be written.
    """
    sets: Sets = {}
    for path in paths:
        of_file = read(path)
        if both := sets.keys() & of_file.keys():
            raise DataError(f"{path} has proposals of {min(both)}, as a file before it has: import one of them.")
        sets |= of_file
    name = name_of(sets)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_atomically(folder / f"{name}.npz", lambda temporary: _save(temporary, sets))
    except (OSError, StoreError) as error:
        raise StoreError(f"cannot write into {folder} ({files.os_reason(error)}): choose another --root.") from error
    return name


def _save(path: Path, sets: Sets) -> None:
    with path.open("wb") as file:  # np.savez would add .npz to the temporary name
        np.savez(file, **_arrays(sets))  # type: ignore[arg-type]


def load(folder: Path, name: str) -> Sets:
    """The proposals of a name that :func:`keep` returned.

    Raises:
        ConfigError: it is no such name.
        DataError: they are not there, or are damaged.
    """
    if not IMPORTED.fullmatch(name):
        raise ConfigError(
            f"model.proposals.kind must be selective_search or a name such as imported-0123456789abcdef, not {name!r}."
        )
    path = folder / f"{name}.npz"
    if not path.exists():
        raise DataError(f"{path} is not there: run 'python -m tasks.od.fast_rcnn.proposals import FILE...' for it.")
    sets = read(path)
    if name_of(sets) != name:
        raise DataError(f"{path} does not hold what its name says: delete it and import its file again.")
    return sets
