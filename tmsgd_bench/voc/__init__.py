"""PASCAL VOC: annotations, lists of images, average precision, and the official files of detections."""

from __future__ import annotations

from tmsgd_bench.voc.average_precision import (
    Curve,
    Detections,
    Truth,
    average_precisions,
    mean_average_precision,
    precision_recall,
)
from tmsgd_bench.voc.colours import colour_map
from tmsgd_bench.voc.devkit import CLASSES, Objects, as_truth, read_objects, read_split

__all__ = [
    "CLASSES",
    "Curve",
    "Detections",
    "Objects",
    "Truth",
    "as_truth",
    "average_precisions",
    "colour_map",
    "mean_average_precision",
    "precision_recall",
    "read_objects",
    "read_split",
]
