"""The mean of the primary metric over the last epochs of long runs, which varies less than the last epoch alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from tmsgd_bench.results import selection, store
from tmsgd_bench.results.paper import Experiment
from tmsgd_bench.results.statistics import Comparison, compare
from tmsgd_bench.results.status import Status

LONG = 100
"""Epochs from which on a run is long."""


def compared(better: pd.DataFrame, than: pd.DataFrame, experiment: Experiment) -> Comparison | None:
    """Two optimizers by their means over the last epochs, paired by seed; None without a pair.

    A diverged run is worse than any number. It is part of no family: the last epoch alone decides a claim.

    Args:
        better, than: runs of one optimizer each.
        experiment: says how many epochs are the last ones; none of them is compared if it does not.

    Raises:
        StoreError: a history cannot be read.
    """
    if experiment.last_epochs is None:
        return None
    comparison = compare(*(_outcomes(runs, experiment, experiment.last_epochs) for runs in (better, than)))
    return comparison if comparison.pairs else None


def _outcomes(runs: pd.DataFrame, experiment: Experiment, last: int) -> pd.Series:
    recorded = runs[(runs["epochs"].astype(float) >= LONG) & runs["folder"].notna()]
    if recorded.empty:  # as in all protocols of short runs
        return pd.Series(dtype=float)
    means = [_mean(row, experiment.metric, last) for _, row in recorded.iterrows()]
    with_means = recorded.assign(final=pd.Series(means, index=recorded.index, dtype=float))
    known = with_means["final"].notna() | (with_means["status"] == Status.DIVERGED)
    return selection.outcomes(with_means[known], experiment.direction)


def _mean(run: pd.Series, metric: str, last: int) -> float | None:
    """None without a history that has the metric."""
    history = store.history(Path(run["folder"])) if run["status"] == Status.DONE else None
    if history is None or metric not in history:
        return None
    return float(history[metric].astype(float).iloc[-last:].mean())
