"""Synthetic data for VOC2007: 72 pictures of drawn shapes of four of the classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tmsgd_bench.data.synthetic import _voc

VERSION = 1
SIZES = {"train": 40, "val": 16, "test": 16}
MASKED = {"train": 32, "val": 12, "test": 8}
"""How many of each split have a mask."""
YEAR = 2007


def write(folder: Path) -> None:
    """Write ``VOCdevkit/VOC2007``; see :func:`tmsgd_bench.data.synthetic._voc.write`.

    In the training split, one image is gray, one has an object of a single pixel, and one, without a mask, has no
    object at all.
    """
    names = splits()
    main = {**names, "trainval": names["train"] + names["val"]}
    masked = masks()
    segmentation = {**masked, "trainval": masked["train"] + masked["val"]}
    pictures = {name: picture(name) for split in names.values() for name in split}
    _voc.write(folder, YEAR, pictures, {"Main": main, "Segmentation": segmentation})


def splits() -> dict[str, list[str]]:
    """Names of the images of "train", "val" and "test", which are mixed as in the real data."""
    order = np.random.default_rng(YEAR).permutation(sum(SIZES.values())) + 1
    names = iter(f"{number:06}" for number in order)
    return {split: [next(names) for _ in range(size)] for split, size in SIZES.items()}


def masks() -> dict[str, list[str]]:
    """Names of the images of each split that have a mask."""
    return {split: names[: MASKED[split]] for split, names in splits().items()}


def picture(name: str) -> _voc.Picture:
    """The picture of a name."""
    train = splits()["train"]
    special = {train[0]: "gray", train[1]: "speck", train[-1]: "empty"}
    return _voc.draw((YEAR, int(name)), special.get(name, ""))
