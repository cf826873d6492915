"""What became of each run, as a number: the final metric, or the worst there can be."""

from __future__ import annotations

import math

import pandas as pd

from tmsgd_bench.results.status import FINISHED, Status


def outcomes(runs: pd.DataFrame, direction: str) -> pd.Series:
    """The final metric by seed; a diverged run is infinitely bad, and so is one whose metric is not finite.

    Runs without a result are not in it.
    """
    finished = runs[runs["status"].isin(FINISHED)]
    if finished.empty:
        return pd.Series(dtype=float)
    worst = -math.inf if direction == "max" else math.inf
    usable = (finished["status"] == Status.DONE) & finished["final"].notna()  # a metric that is not finite is no number
    finals = finished["final"].astype(float).where(usable, worst)
    return finals.set_axis(finished["seed"].astype(int))
