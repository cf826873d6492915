"""The annotations and the lists of images of a VOC year, as the development kit lays them out.

Boxes are (x1, y1, x2, y2) in continuous coordinates, in pixels from the image's upper left corner: x1 = xmin − 1,
y1 = ymin − 1, x2 = xmax, y2 = ymax. VOC numbers pixels from 1 and counts both ends of a box, so a box of one pixel has
area 1 here, and the plain IoU of such boxes is VOC's own one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
import torch
from torch import Tensor

from tmsgd_bench.errors import DataError
from tmsgd_bench.voc.average_precision import Truth

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The classes in VOC's order; a label is a position in it."""
FIX = "unpack it again from the archive of its VOC year."
NAME = re.compile(r"\w[\w.-]*")
"""Of an image or a list: no path, for it becomes part of one."""


@dataclass(frozen=True)
class Objects:
    """The annotated objects of one image, in the order of its file.

    Args:
        boxes: float32, shape (objects, 4): x1, y1, x2, y2 in pixels, see the module.
        labels: int64, shape (objects,): 0 to 19, see :data:`CLASSES`.
        difficult: bool, shape (objects,): hard to recognise, so neither required nor punished in an evaluation.
    """

    boxes: Tensor
    labels: Tensor
    difficult: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def read_objects(path: Path, fix: str = FIX) -> Objects:
    """The objects of an annotation in VOC's XML; an image may have none.

    A box that leaves the image is cut off at its border. Parts of objects (VOC2012 has heads, hands and feet) are not
    read. An object without ``difficult`` is not difficult.

    Args:
        path: a file of ``Annotations``.
        fix: what to do about a bad file, as the end of a sentence.

    Raises:
        DataError: the file is missing or damaged, declares a document type (which can make a small file expand without
            bound), or has an object of an unknown class, without a box, or with an inverted or empty one; names the
            file.
    """
    try:
        root = _parse(path)
        size = _numbers(root, "size", ("width", "height"))
        if min(size) <= 0:
            raise ValueError(f"its size is {size[0]:g} × {size[1]:g} pixels")
        objects = [_object(element, size) for element in root.findall("object")]
    except (OSError, ValueError, ElementTree.ParseError, LookupError) as error:  # LookupError: an unknown encoding
        raise DataError(f"cannot use {path} ({getattr(error, 'strerror', None) or error}): {fix}") from error
    return Objects(
        boxes=torch.tensor([box for box, _, _ in objects], dtype=torch.float32).view(-1, 4),
        labels=torch.tensor([label for _, label, _ in objects], dtype=torch.int64),
        difficult=torch.tensor([difficult for _, _, difficult in objects], dtype=torch.bool),
    )


class _Builder(ElementTree.TreeBuilder):
    """Refuses a document type, before any entity it declares can be expanded or fetched."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, which no annotation of VOC does")


def _parse(path: Path) -> Element:
    parser = ElementTree.XMLParser(target=_Builder())
    parser.feed(path.read_bytes())
    root: Element = parser.close()
    if root.tag != "annotation":
        raise ValueError(f"its outermost element is <{root.tag}>, not <annotation>")
    return root


def _object(element: Element, size: tuple[float, ...]) -> tuple[tuple[float, ...], int, bool]:
    """An object's box, cut off at the image's border, its label, and whether it is difficult."""
    name = _text(element, "name")
    if name not in CLASSES:
        raise ValueError(f"it has an object of the class {name!r}, which is none of VOC's 20")
    xmin, ymin, xmax, ymax = _numbers(element, "bndbox", ("xmin", "ymin", "xmax", "ymax"))
    box = (max(xmin - 1.0, 0.0), max(ymin - 1.0, 0.0), min(xmax, size[0]), min(ymax, size[1]))
    numbers = f"{xmin:g} {ymin:g} {xmax:g} {ymax:g}"
    if xmax < xmin or ymax < ymin:  # in VOC's own numbers: a box with xmax = xmin − ½ would still have an extent
        raise ValueError(f"its {name} has the inverted box {numbers}, with xmax < xmin or ymax < ymin")
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"its {name} has the box {numbers}, which is empty in its image")
    difficult = "0" if element.find("difficult") is None else _text(element, "difficult")
    if difficult not in ("0", "1"):
        raise ValueError(f"its {name} is {difficult!r} difficult, which is neither 0 nor 1")
    return box, CLASSES.index(name), difficult == "1"


def _numbers(element: Element, within: str, names: tuple[str, ...]) -> tuple[float, ...]:
    """Finite numbers, by their names within a child; only children count, because parts of objects have boxes too."""
    child = element.find(within)
    if child is None:
        raise ValueError(f"its <{element.tag}> has no <{within}>")
    values = []
    for name in names:
        text = _text(child, name)
        try:
            values.append(finite(text))
        except ValueError:
            raise ValueError(f"its <{within}> has {text!r} as {name}, which is no number") from None
    return tuple(values)


def finite(text: str) -> float:
    """A finite number as VOC's files write it; Python alone would take 1_0, and the digits of any script, as well.

    Raises:
        ValueError: it is none.
    """
    number = float(text)
    if "_" in text or not text.isascii() or not math.isfinite(number):
        raise ValueError(f"{text!r} is no finite number")
    return number


def _text(element: Element, name: str) -> str:
    child = element.find(name)
    if child is None or not (child.text or "").strip():
        raise ValueError(f"its <{element.tag}> has no {name}")
    return str(child.text).strip()


def as_truth(images: Sequence[Objects]) -> Truth:
    """The objects of a split's images, to measure average precision by; an image's number is its position."""
    counts = [len(objects) for objects in images]
    boxes = [objects.boxes.numpy() for objects in images]
    labels = [objects.labels.numpy() for objects in images]
    difficult = [objects.difficult.numpy() for objects in images]
    return Truth(
        images=np.repeat(np.arange(len(images)), counts),
        labels=np.concatenate([np.zeros(0, np.int64), *labels]),
        boxes=np.concatenate([np.zeros((0, 4)), *boxes]),
        difficult=np.concatenate([np.zeros(0, bool), *difficult]),
    )


def read_split(folder: Path, part: Literal["Main", "Segmentation"], split: str, fix: str = FIX) -> list[str]:
    """The names of a split's images, in the order of its list.

    Args:
        folder: that of the year, ``VOCdevkit/VOC2007``.
        part: which lists.
        split: "train", "val", "trainval" or "test".
        fix: what to do about a bad list, as the end of a sentence.

    Raises:
        DataError: the list is missing, empty, has a line that is no image's name, or a name twice; names it.
    """
    path = folder / "ImageSets" / part / f"{split}.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({getattr(error, 'strerror', None) or error}): {fix}") from error
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not NAME.fullmatch(name):
            raise DataError(f"{path}, line {number}, is not the name of one image: {fix}")
        if seen.setdefault(name, number) != number:
            raise DataError(f"{path}, line {number}, lists {name} again after line {seen[name]}: {fix}")
    if not seen:
        raise DataError(f"{path} lists no images: {fix}")
    return list(seen)
