"""Average precision by the official rules of PASCAL VOC, in numpy, without a loop over detections or images.

Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 88, 2010, section 4.2, and ``VOCevaldet.m``
and ``VOCap.m`` of the development kits: detections of a class are taken by descending score, over all images. Each is
assigned to the object of its class and image with the largest IoU, whether that is taken already or not. It is a true
positive if that IoU reaches the threshold and the object is not taken; it does not count at all if the object is
difficult; otherwise it is a false positive. Boxes are those of :mod:`tmsgd_bench.voc.devkit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Points = Literal["11", "all"]


@dataclass(frozen=True)
class Truth:
    """The annotated objects of a split.

    Args:
        images: int, shape (objects,): number of the image that each is in.
        labels: int, shape (objects,): from 0.
        boxes: float, shape (objects, 4): x1, y1, x2, y2 in pixels.
        difficult: bool, shape (objects,).

    Raises:
        ValueError: a shape or a kind of number is another, or a box is not finite.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray

    def __post_init__(self) -> None:
        _check("truth", images=self.images, labels=self.labels, boxes=self.boxes, difficult=self.difficult)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Detections:
    """Boxes found in a split, in any order.

    Args:
        images: int, shape (detections,): number of the image that each is in.
        labels: int, shape (detections,): from 0.
        boxes: float, shape (detections, 4): x1, y1, x2, y2 in pixels.
        scores: float, shape (detections,): the larger, the surer; compared within a class only.

    Raises:
        ValueError: a shape or a kind of number is another, or a box or a score is not finite.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def __post_init__(self) -> None:
        _check("detections", images=self.images, labels=self.labels, boxes=self.boxes, scores=self.scores)

    def __len__(self) -> int:
        return len(self.labels)


ELEVEN = np.arange(0.0, 1.1, 0.1)
"""0, 0.1, …, 1 in the reference program's floating-point numbers: 3 of 10 objects, 0.3, do not reach its fourth,
0.30000000000000004."""
KINDS = {"images": "iu", "labels": "iu", "boxes": "f", "difficult": "b", "scores": "f"}
WORDS = {"iu": "integers", "f": "floating-point numbers", "b": "booleans"}


def _check(what: str, **columns: np.ndarray) -> None:
    count = len(columns["labels"])
    for name, column in columns.items():
        shape = (count, 4) if name == "boxes" else (count,)
        if column.shape != shape or column.dtype.kind not in KINDS[name]:
            raise ValueError(
                f"{name} of {what} must be {WORDS[KINDS[name]]} of shape {shape}, not {column.dtype} of shape "
                f"{column.shape}."
            )
        if KINDS[name] == "f" and not np.isfinite(column).all():
            raise ValueError(f"{name} of {what} must be finite, but {np.argwhere(~np.isfinite(column))[0, 0]} is not.")


@dataclass(frozen=True)
class Curve:
    """Precision against recall of one class, a point for each detection that counts, by descending score.

    Args:
        hits: int64, shape (points,): true positives up to and with each.
        positives: objects of the class that are not difficult.
    """

    hits: np.ndarray
    positives: int

    @property
    def recall(self) -> np.ndarray:
        """float64, shape (points,): share of the objects found; NaN where there is none to find."""
        return self.hits / self.positives if self.positives else np.full(len(self.hits), np.nan)

    @property
    def precision(self) -> np.ndarray:
        """float64, shape (points,): share of the detections that are right."""
        return self.hits / np.arange(1, len(self.hits) + 1)

    def average(self, points: Points = "11") -> float:
        """Average precision, 0 to 1; NaN where there is no object to find.

        The precision at a recall is the largest at that recall or above. "11", the rule up to VOC2009, is its mean at
        the recalls 0, 0.1, …, 1; "all", the rule from VOC2010 on, is the area below it. Both give the bits of the
        reference program in Python, ``voc_eval`` of py-faster-rcnn, where a perfect "11" is 1 + 2e-16.
        """
        if points not in ("11", "all"):
            raise ValueError(f"points must be '11' or 'all', not {points!r}.")
        if not self.positives:
            return float("nan")
        envelope = np.append(np.maximum.accumulate(self.precision[::-1])[::-1], 0.0)  # 0: a recall not reached
        if points == "all":
            widths = np.diff(self.recall, prepend=0.0, append=1.0)
            steps = np.flatnonzero(widths)
            return float(np.sum(widths[steps] * envelope[steps]))
        first = np.searchsorted(self.recall, ELEVEN)
        return float(sum(envelope[first] / 11.0))  # one after the other, as in the reference program


def average_precisions(
    detections: Detections, truth: Truth, classes: int, threshold: float = 0.5, points: Points = "11"
) -> np.ndarray:
    """Average precision of each class.

    Args:
        detections: detections; of equal scores the first in order comes first.
        truth: objects; of equal IoU the first in order is taken.
        classes: labels are below this.
        threshold: the least IoU of a true positive, above 0, at most 1.
        points: see :meth:`Curve.average`.

    Returns:
        float64, shape (classes,): 0 to 1; NaN for a class without an object that is not difficult.

    Raises:
        ValueError: a label is out of range, or an option is none of the above.
    """
    for labels in (detections.labels, truth.labels):
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(f"labels must be from 0 to {classes - 1}, not from {labels.min()} to {labels.max()}.")
    return np.array([precision_recall(detections, truth, label, threshold).average(points) for label in range(classes)])


def mean_average_precision(precisions: np.ndarray) -> float:
    """The mean over the classes that have one; NaN if none has."""
    present = precisions[~np.isnan(precisions)]
    return float(present.mean()) if len(present) else float("nan")


def precision_recall(detections: Detections, truth: Truth, label: int, threshold: float = 0.5) -> Curve:
    """Precision against recall of one class.

    Raises:
        ValueError: the threshold is not above 0 and at most 1.
    """
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"the threshold of IoU must be above 0 and at most 1, not {threshold}.")
    chosen = np.flatnonzero(detections.labels == label)
    chosen = chosen[np.argsort(-detections.scores[chosen], kind="stable")]
    objects = np.flatnonzero(truth.labels == label)
    objects = objects[np.argsort(truth.images[objects], kind="stable")]
    difficult = truth.difficult[objects]
    nearest, overlap = _assign(
        detections.images[chosen], detections.boxes[chosen], truth.images[objects], truth.boxes[objects]
    )
    right = overlap >= threshold
    first = np.zeros(len(chosen), dtype=bool)
    candidates = np.flatnonzero(right)
    first[candidates[np.unique(nearest[candidates], return_index=True)[1]]] = True
    counts = np.ones(len(chosen), dtype=bool)
    counts[candidates] = ~difficult[nearest[candidates]]
    return Curve(np.cumsum(first[counts], dtype=np.int64), int((~difficult).sum()))


def _assign(
    images: np.ndarray, boxes: np.ndarray, object_images: np.ndarray, object_boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each detection's object of largest IoU in its image (−1 where none overlaps), and that IoU.

    The objects are sorted by image. The loop is over the first, second, … object of every image at once: as many rounds
    as the fullest image has objects, and no more memory than the detections take.
    """
    boxes, object_boxes = boxes.astype(np.float64), object_boxes.astype(np.float64)
    start = np.searchsorted(object_images, images, side="left")
    end = np.searchsorted(object_images, images, side="right")
    nearest, overlap = np.full(len(images), -1), np.zeros(len(images))
    rows = np.flatnonzero(start < end)
    turn = 0
    while len(rows):
        candidate = start[rows] + turn
        iou = _iou(boxes[rows], object_boxes[candidate])
        better = iou > overlap[rows]
        nearest[rows[better]], overlap[rows[better]] = candidate[better], iou[better]
        turn += 1
        rows = rows[start[rows] + turn < end[rows]]
    return nearest, overlap


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union, row by row; 0 where there is no intersection, so an empty box does no harm."""
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    shared = np.where((sides > 0.0).all(1), sides[:, 0] * sides[:, 1], 0.0)
    union = _area(first) + _area(second) - shared
    return np.divide(shared, union, out=np.zeros(len(first)), where=shared > 0.0)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
