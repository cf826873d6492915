"""The exact area under the ROC curve."""

from __future__ import annotations

import math

from torch import Tensor


def area_under_curve(scores: Tensor, labels: Tensor) -> float:
    """The share of (click, no click) pairs whose click has the higher score; a tie counts one half.

    This is the Mann-Whitney statistic over the mean ranks of tied scores (Hanley and McNeil 1982), which equals the
    area under the ROC curve. Ranks are summed as whole numbers, so that the order of rows does not matter.

    Args:
        scores: any real type, shape (rows,); needs about 40 bytes a row beside them.
        labels: 0 or 1, shape (rows,).

    Returns:
        A number from 0 to 1; NaN if a score is NaN or if all labels are the same.
    """
    clicks = int(labels.sum())
    others = len(labels) - clicks
    if not clicks or not others or bool(scores.isnan().any()):
        return math.nan
    _, groups, sizes = scores.unique(return_inverse=True, return_counts=True)
    doubled = 2 * sizes.cumsum(0) - sizes + 1  # twice the mean rank, counted from 1, of each group of ties
    total = int(doubled[groups[labels.bool()]].sum())
    return (total - clicks * (clicks + 1)) / (2 * clicks * others)
