"""Synthetic data for VOC2012: 20 pictures of its own, and 4 that are also in those for VOC2007."""

from __future__ import annotations

from pathlib import Path

from tmsgd_bench.data.synthetic import _voc, voc2007

VERSION = 1
SIZES = {"train": 12, "val": 8}
TWINS = {"train": ("train", "val", "test"), "val": ("val",)}
"""Splits of VOC2007 from which an image each is in a list of masks as well, under another name."""
YEAR = 2012


def write(folder: Path) -> None:
    """Write ``VOCdevkit/VOC2012``; see :func:`tmsgd_bench.data.synthetic._voc.write`.

    As in the real data, images of VOC2007 are in the lists of masks as ``2007_NNNNNN``, and not in those of boxes.
    Some of VOC2007's validation and test images are in the training list here, so that they must be left out of a
    training on both years.
    """
    new = _new_images()
    twins = _twins()
    masked = {split: names[: SIZES[split] - len(twins[split])] + list(twins[split]) for split, names in new.items()}
    pictures = {name: _voc.draw((YEAR, int(name[5:]))) for names in new.values() for name in names}
    pictures |= {name: voc2007.picture(old) for pairs in twins.values() for name, old in pairs.items()}
    lists = {
        folder_name: {**names, "trainval": names["train"] + names["val"]}
        for folder_name, names in (("Main", new), ("Segmentation", masked))
    }
    _voc.write(folder, YEAR, pictures, lists)


def _new_images() -> dict[str, list[str]]:
    """Names of the images that are not in VOC2007."""
    names = iter(f"2008_{number:06}" for number in range(1, sum(SIZES.values()) + 1))
    return {split: [next(names) for _ in range(size)] for split, size in SIZES.items()}


def _twins() -> dict[str, dict[str, str]]:
    """Names of the images of VOC2007 in each list: the name here → the name in VOC2007."""
    left = {split: iter(names) for split, names in voc2007.masks().items()}
    chosen = {split: [next(left[source]) for source in sources] for split, sources in TWINS.items()}
    return {split: {f"2007_{name}": name for name in names} for split, names in chosen.items()}
