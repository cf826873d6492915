"""Differences that are too small to matter (``margins.yaml``)."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from tmsgd_bench.results.paper import Experiment, every_experiment, load


@cache
def rules() -> dict[str, Any]:
    """The contents of ``margins.yaml``."""
    return load("margins.yaml")


def margin(experiment: Experiment, better: str, than: str, base: float) -> float:
    """The largest difference between two optimizers that does not matter, in the unit of our metric.

    Args:
        experiment: what they were trained on.
        better, than: their names; one without a printed number has the metric's own margin.
        base: our mean of ``than``.

    Returns:
        NaN for a metric without a margin, or in another unit.
    """
    first, second = (experiment.printed.get(name) for name in (better, than))
    if first is not None and second is not None:
        share = float(rules()["printed_share"])
        return share * abs(first.value - second.value) * scale(experiment, than, base)
    rule = rules()["metrics"].get(experiment.metric, {})
    if "share" in rule:
        return float(rule["share"]) * abs(base)
    return float(rule["points"]) if "points" in rule and _in_the_papers_unit(experiment) else math.nan


def _in_the_papers_unit(experiment: Experiment) -> bool:
    """Whether points mean the same: an own task may have an accuracy from 0 to 1."""
    return any((known.metric, known.unit) == (experiment.metric, experiment.unit) for known in every_experiment())


def scale(experiment: Experiment, than: str, base: float) -> float:
    """What a printed difference to ``than`` is multiplied by before it is compared with ours: 1 for most metrics.

    Where the scale of a metric depends on how it is computed, it is our mean of ``than`` over the printed number.

    Args:
        experiment, than, base: as for :func:`margin`; ``than`` has a printed number.
    """
    return base / experiment.printed[than].value if "share" in rules()["metrics"][experiment.metric] else 1.0
