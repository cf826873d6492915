"""How well pixels are told apart: everything from one confusion matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.voc import IGNORED


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """How often a class of the truth (row) is predicted as another (column): int64, shape (classes, classes).

    Args:
        predicted, truth: integers of the same shape; pixels whose truth is 255 do not count.
    """
    counted = truth != IGNORED
    pairs = classes * truth[counted].long() + predicted[counted].long()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def intersections_over_unions(matrix: Tensor) -> Tensor:
    """IoU of each class, float64, shape (classes,): |predicted and true| / |predicted or true|; NaN where neither is.

    Everingham et al. 2015, The PASCAL Visual Object Classes Challenge: A Retrospective, equation 4.
    """
    hits = matrix.diagonal().double()
    return hits / (matrix.sum(0) + matrix.sum(1) - matrix.diagonal())


def accuracy(matrix: Tensor) -> float:
    """Share of pixels that are told right; NaN if there are none."""
    return float(matrix.diagonal().sum().double() / matrix.sum())
