"""What both VOC tasks read: which images are trained on and which are tested on, their pixels, boxes and masks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tmsgd_bench.checks import choice
from tmsgd_bench.data import cache
from tmsgd_bench.data.packed import Chosen, Packed, pack
from tmsgd_bench.errors import ConfigError, DataError
from tmsgd_bench.task import TaskSettings
from tmsgd_bench.voc import Objects, read_objects, read_split

Lists = Literal["Main", "Segmentation"]
SPLITS = ("trainval/test", "train/val")
SPLIT = choice(*SPLITS)
"""What ``task.splits`` may be: the list trained on, and the one tested on."""
IGNORED = 255
"""What a mask's pixels at the border of an object hold."""
CLASSES_AND_BACKGROUND = 21
VERSION = 1  # to be raised when what is made of a file changes: it was kept on disk


@dataclass(frozen=True)
class Images:
    """Some images of one VOC year.

    Args:
        year: "2007" or "2012".
        folder: ``VOCdevkit/VOC2007``.
        lists: whose lists the images are from.
        split: the list they are from.
        names: of all images of that list, or of a subset of it; what is decoded.
        chosen: int64: which of them are used.
        subset: what a subset of the list is called where its images are kept, "subset" or "validation"; empty for the
            whole list.
    """

    year: str
    folder: Path
    lists: Lists
    split: str
    names: tuple[str, ...]
    chosen: Tensor
    subset: str = ""

    @property
    def chosen_names(self) -> list[str]:
        """Names of the images that are used, in their order."""
        return [self.names[number] for number in self.chosen.tolist()]

    @property
    def fix(self) -> str:
        """What to do about a bad file, as the end of a sentence."""
        root = self.folder.parents[2]
        if root.name == "synthetic":
            return f"delete {root / f'voc{self.year}'}: the synthetic data are made anew."
        command = f"python -m tmsgd_bench data prepare voc{self.year} --root {shlex.quote(str(root))}"
        return f"mend it if the data are your own, or delete it and run '{command}'."


@dataclass(frozen=True)
class ImageSplit:
    """One side of a task's data: the images trained on, or those tested on.

    Args:
        settings: the run's.
        images: of each year.
    """

    settings: TaskSettings
    images: tuple[Images, ...]

    @property
    def names(self) -> list[str]:
        """Of every image, in the order of its number."""
        return [name for images in self.images for name in images.chosen_names]

    def __len__(self) -> int:
        return sum(len(images.chosen) for images in self.images)

    @cached_property
    def photos(self) -> Chosen:
        """The images, uint8, (3, height, width) each; decoded once and then kept on disk."""
        return _choose(self._photo_packs, self.images)

    @cached_property
    def _photo_packs(self) -> list[Packed]:
        """Of each year; read once, since reading checks them."""
        return [_kept(self.settings, images, "photos", 3) for images in self.images]

    @cached_property
    def masks(self) -> Chosen:
        """A class for every pixel, uint8, (1, height, width) each: 0 for background, 255 for not counted."""
        packs = [_kept(self.settings, images, "masks", 1) for images in self.images]
        for masks, photos, images in zip(packs, self._photo_packs, self.images, strict=True):
            _check_sizes(masks, photos, images)
        return _choose(packs, self.images)

    @cached_property
    def objects(self) -> list[Objects]:
        """The annotated objects of each image.

        Raises:
            DataError: an annotation is missing or damaged, or a box leaves its image; names the file.
        """
        annotations: list[Objects] = []
        for images in self.images:
            for name in images.chosen_names:
                path = images.folder / "Annotations" / f"{name}.xml"
                annotated = read_objects(path, images.fix)
                self._check_boxes(annotated, len(annotations), path, images.fix)
                annotations.append(annotated)
        return annotations

    def _check_boxes(self, annotated: Objects, number: int, path: Path, fix: str) -> None:
        height, width = self.photos[number].shape[1:]
        if (annotated.boxes > torch.tensor([width, height, width, height])).any():
            raise DataError(f"{path} has a box outside the {width} × {height} pixels of its image: {fix}")


def image_splits(settings: TaskSettings, lists: Lists, splits: str) -> tuple[ImageSplit, ImageSplit]:
    """The images to train on and those to evaluate on.

    Several years are trained on together, and tested on the first one's list. A run that validates does so on images of
    all years, and reads no list named test.

    Raises:
        ConfigError: the year has no such lists.
        DataError: a list is missing or damaged; names it.
    """
    SPLIT("task.splits", splits)
    train, test = splits.split("/")
    years = _years(settings)
    spares_test = settings.validates and test == "test"
    if years[0] != "2007" and test == "test" and not spares_test:
        raise ConfigError(f"VOC{years[0]} has no public annotations of its test images: use task.splits=train/val.")
    tested = None if spares_test else _list(settings, years[0], lists, test)
    listed = _without_twins([_list(settings, year, lists, train) for year in years], tested)
    numbers, validation = settings.split(sum(len(images.chosen) for images in listed))
    trained = ImageSplit(settings, _of_numbers(listed, numbers, "subset"))
    if validation is not None:
        return trained, ImageSplit(settings, _of_numbers(listed, validation, "validation"))
    assert tested is not None
    evaluated = settings.evaluated_of(len(tested.chosen))
    return trained, ImageSplit(settings, _of_numbers((tested,), evaluated, "subset"))


def _without_twins(listed: Sequence[Images], tested: Images | None) -> list[Images]:
    """The training lists of several years without images of the first one under other names.

    VOC2012's lists for segmentation hold images of VOC2007 (2007_000032 is 000032). Left out are those that VOC2007's
    own two lists hold, so that none is counted twice, and none is both trained and tested on.

    Args:
        tested: the first year's list to test on; None if it is not to be read: then every twin is left out, since
            VOC2007's trainval and test hold them all.
    """
    first, *others = listed
    prefix = f"{first.year}_"
    if tested is None:
        twins = {name for images in others for name in images.names if name.startswith(prefix)}
    else:
        twins = {f"{prefix}{name}" for images in (tested, first) for name in images.names}
    return [first, *(_without(images, twins) for images in others)]


def _years(settings: TaskSettings) -> list[str]:
    return [name.removeprefix("voc") for name in settings.data_folder.name.split("+")]


def _list(settings: TaskSettings, year: str, lists: Lists, split: str) -> Images:
    folder = settings.data_folder.parent / f"voc{year}" / "VOCdevkit" / f"VOC{year}"
    images = Images(year, folder, lists, split, (), torch.arange(0))
    fix = images.fix
    if split == "test" and not (folder / "ImageSets" / lists / "test.txt").exists():
        fix = f"without test images use task.splits=train/val; or {fix}"
    names = read_split(folder, lists, split, fix)
    return replace(images, names=tuple(names), chosen=torch.arange(len(names)))


def _without(images: Images, names: set[str]) -> Images:
    chosen = [number for number, name in enumerate(images.names) if name not in names]
    return replace(images, chosen=torch.tensor(chosen).long())


def _of_numbers(years: Sequence[Images], numbers: Tensor, subset: str) -> tuple[Images, ...]:
    """Some images (int64, sorted) of several years, which are numbered one year after the other."""
    selected, first = [], 0
    for images in years:
        in_year = numbers[(numbers >= first) & (numbers < first + len(images.chosen))] - first
        selected.append(_subset(images, images.chosen[in_year], subset))
        first += len(images.chosen)
    return tuple(selected)


def _subset(images: Images, chosen: Tensor, name: str) -> Images:
    """Some images of a list, without the others: they are not even decoded. The list itself if none is left out."""
    if len(chosen) == len(images.chosen):
        return images
    names = tuple(images.names[number] for number in chosen.tolist())
    return replace(images, names=names, chosen=torch.arange(len(names)), subset=name)


def _choose(packs: Sequence[Packed], years: Sequence[Images]) -> Chosen:
    firsts = np.cumsum([0, *(len(pack) for pack in packs)])
    numbers = [images.chosen + int(first) for images, first in zip(years, firsts, strict=False)]
    return Chosen(packs, torch.cat(numbers))


def _kept(settings: TaskSettings, images: Images, what: Literal["photos", "masks"], channels: int) -> Packed:
    """Photos or masks of the images of a list, from the disk if they were decoded before.

    Those of a subset of a list have another name than those of all of it, which many small subsets are not to replace.
    """
    options = {"version": VERSION, "year": images.year, "lists": images.lists, "split": images.split, "what": what}
    name = f"{images.year}-{images.lists.lower()}-{images.split}-{what}"
    if images.subset:
        options, name = {**options, "names": images.names}, f"{name}-{images.subset}"
    decode = decode_photos if what == "photos" else decode_masks
    tensors = cache.tensors(_of_year(settings, images.year), name, options, lambda: decode(images).tensors(what))
    return Packed.of_tensors(tensors, what, channels)


def _of_year(settings: TaskSettings, year: str) -> TaskSettings:
    """The settings of a run on one of its years alone, with which it shares what is kept."""
    prints = dict(zip(_years(settings), settings.fingerprint.split("+"), strict=False))
    folder = settings.data_folder.parent / f"voc{year}"
    return replace(settings, data_folder=folder, fingerprint=prints.get(year, settings.fingerprint))


def decode_photos(images: Images) -> Packed:
    """The images in RGB, whatever its file's format and kind of colours.

    Raises:
        DataError: a file is missing or cannot be decoded; names it.
    """
    paths = [images.folder / "JPEGImages" / f"{name}.jpg" for name in images.names]
    return pack([_size(path, images.fix) for path in paths], (_photo(path, images.fix) for path in paths), 3)


def decode_masks(images: Images) -> Packed:
    """The mask of every image.

    Raises:
        DataError: a file is missing or cannot be decoded, or holds colours or other numbers in place of classes.
    """
    paths = [images.folder / "SegmentationClass" / f"{name}.png" for name in images.names]
    return pack([_size(path, images.fix) for path in paths], (_mask(path, images.fix) for path in paths), 1)


def _size(path: Path, fix: str) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise _unusable(path, error, fix) from error


def _photo(path: Path, fix: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:
        raise _unusable(path, error, fix) from error


def _mask(path: Path, fix: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            mode, classes = image.mode, np.asarray(image)
    except Exception as error:
        raise _unusable(path, error, fix) from error
    if mode not in ("P", "L") or (classes[classes != IGNORED] > 20).any():
        raise DataError(f"{path} is no mask: its pixels must be 0 to 20 or 255, with a palette or gray: {fix}")
    return classes


def _unusable(path: Path, error: Exception, fix: str) -> DataError:
    reason = getattr(error, "strerror", None) or "it is no image, or a damaged one"
    return DataError(f"cannot use {path} ({reason}): {fix}")


def _check_sizes(masks: Packed, photos: Packed, images: Images) -> None:
    differs = (masks.sizes != photos.sizes).any(dim=1)
    if differs.any():
        name = images.names[int(differs.nonzero()[0])]
        path = images.folder / "SegmentationClass" / f"{name}.png"
        raise DataError(f"{path} is not as large as its image: {images.fix}")
