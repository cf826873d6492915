"""The official text files of detections, one for each class: ``comp4_det_test_aeroplane.txt`` and so on.

A line is ``image score xmin ymin xmax ymax`` in VOC's own coordinates, which count pixels from 1: see
:mod:`tmsgd_bench.voc.devkit`. "comp3" is VOC's name for detectors trained on its data alone, "comp4" for all others.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tmsgd_bench import files
from tmsgd_bench.errors import DataError
from tmsgd_bench.voc.average_precision import Detections
from tmsgd_bench.voc.devkit import CLASSES, finite

SHIFT = np.array([1.0, 1.0, 0.0, 0.0])
"""From our coordinates of a box to VOC's."""
FIX = "write the file again, with a line 'image score xmin ymin xmax ymax' for each detection."

Row = tuple[int, float, list[float]]


def write(folder: Path, split: str, names: Sequence[str], detections: Detections, competition: str = "comp4") -> None:
    """Write the files of all 20 classes, empty ones as well, into a folder that is made if missing.

    Numbers have all their digits, and detections keep their order within a class, so what :func:`read` returns has the
    same average precision. Boxes in single precision come back to the bit, or within 1e-15 pixels of the border.

    Args:
        folder: for the files; those of the same names are replaced.
        split: for their names.
        names: of the images that ``found.images`` numbers.
        detections: with labels in the order of :data:`~tmsgd_bench.voc.devkit.CLASSES`.
        competition: for their names.

    Raises:
        StoreError: the folder cannot be written.
        ValueError: an image or a label of ``detections`` has no name.
    """
    for numbers, known in ((detections.images, names), (detections.labels, CLASSES)):
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(known):
            raise ValueError(f"images and labels must be from 0 to {len(known) - 1}, not up to {numbers.max()}.")
    texts = {}
    for label, name in enumerate(CLASSES):
        chosen = np.flatnonzero(detections.labels == label)
        texts[f"{competition}_det_{split}_{name}.txt"] = "".join(_lines(detections, chosen, names))
    files.write_texts(folder, texts)


def _lines(detections: Detections, chosen: np.ndarray, names: Sequence[str]) -> Iterator[str]:
    scores = detections.scores[chosen].astype(np.float64).tolist()
    boxes = (detections.boxes[chosen].astype(np.float64) + SHIFT).tolist()
    for image, score, box in zip(detections.images[chosen].tolist(), scores, boxes, strict=True):
        yield f"{names[image]} {score!r} {box[0]!r} {box[1]!r} {box[2]!r} {box[3]!r}\n"


def read(folder: Path, split: str, names: Sequence[str]) -> Detections:
    """The detections of all files of a split, class after class, each in the order of its file.

    A class without a file has no detections. Whatever stands before ``_det_`` in the names must be the same in all.

    Args:
        folder: with the files.
        split: as in their names.
        names: of the split's images; a detection's image is the position here.

    Raises:
        DataError: there is no file, or files of several competitions; a file's class is unknown, or a line is not the
            name of an image of the split and five finite numbers, or has an inverted box; names the file and the line.
    """
    paths = _paths(folder, split)
    numbers = {name: number for number, name in enumerate(names)}
    by_class = [_read(paths[name], split, numbers) if name in paths else [] for name in CLASSES]
    rows = [row for of_class in by_class for row in of_class]
    boxes = np.array([box for _, _, box in rows], dtype=np.float64).reshape(-1, 4) - SHIFT
    return Detections(
        images=np.array([image for image, _, _ in rows], dtype=np.int64),
        labels=np.repeat(np.arange(len(CLASSES)), [len(of_class) for of_class in by_class]),
        boxes=boxes,
        scores=np.array([score for _, score, _ in rows], dtype=np.float64),
    )


def _paths(folder: Path, split: str) -> dict[str, Path]:
    """The file of each class that has one."""
    middle = f"_det_{split}_"
    paths = sorted(folder.glob(f"*{glob.escape(middle)}*.txt"))
    if not paths:
        raise DataError(
            f"{folder} has no file of detections comp4{middle}CLASS.txt: name the folder that has them, or their split."
        )
    prefixes = sorted({path.name.split(middle)[0] for path in paths})
    if len(prefixes) > 1:
        raise DataError(f"{folder} has detections of {' and '.join(prefixes)}: put each into a folder of its own.")
    by_class = {path.stem.split(middle, 1)[1]: path for path in paths}
    for name in by_class.keys() - set(CLASSES):
        raise DataError(f"{by_class[name]} is of {name!r}, which is no class of VOC: rename or delete it.")
    return by_class


def _read(path: Path, split: str, numbers: Mapping[str, int]) -> list[Row]:
    try:
        with path.open(encoding="utf-8") as file:
            lines = [*enumerate(file, 1)]
        while lines and not lines[-1][1].strip():  # blank lines at the end, which other tools leave
            lines.pop()
        return [_row(path, line, text, split, numbers) for line, text in lines]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path} ({getattr(error, 'strerror', None) or error}): {FIX}") from error


def _row(path: Path, line: int, text: str, split: str, numbers: Mapping[str, int]) -> Row:
    """A line's image, score, and box in VOC's coordinates.

    VOC's own program reads an inverted box like any other and counts it as wrong. What is inverted is seen by VOC's
    extents, xmax − xmin + 1: they are from 0 to 1 for what :func:`write` makes of a box narrower than a pixel.
    """
    try:
        name, *values = text.split()
        score, *box = map(finite, values)
        if len(box) != 4:
            raise ValueError
    except ValueError:
        raise DataError(f"{path}, line {line}, is not an image's name and five finite numbers: {FIX}") from None
    if any(last + 1.0 < first for first, last in zip(box[:2], box[2:], strict=True)):
        raise DataError(
            f"{path}, line {line}, has the inverted box {' '.join(values[1:])}, with xmax < xmin or ymax < ymin: {FIX}"
        )
    if name not in numbers:
        raise DataError(
            f"{path}, line {line}, is of {name!r}, which is no image of the split {split!r}: choose the split that the "
            "detections are of, or take the line out."
        )
    return numbers[name], score, box
