"""Means over seeds and paired differences with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

FEW_SEEDS = 5
"""Below this many seeds a number is marked: its spread and its interval are hardly known."""
RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (NaN below two values) of n values."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of n paired differences with its bootstrap interval (NaN below two pairs)."""

    mean: float
    low: float
    high: float
    n: int


def summarise(values: pd.Series) -> Summary:
    """Mean ± sample standard deviation (n − 1 in the denominator); missing values do not count."""
    present = values.dropna().astype(float)
    return Summary(float(present.mean()), float(present.std(ddof=1)), len(present))


def paired_difference(ours: pd.Series, reference: pd.Series, seed: int = 0) -> Difference:
    """Mean of ``ours − reference`` over the seeds that both have, with a percentile bootstrap interval.

    The pairs are resampled with replacement (Efron 1979) by a seeded generator, so tables are reproducible.
    The interval is too narrow for few pairs: for normal differences it covers the true mean in about 75 % of cases
    with 3 pairs, 84 % with 5 and 90 % with 10 (tests/results/test_statistics.py simulates it).

    Args:
        ours, reference: values indexed by seed.
    """
    pairs = (ours - reference).dropna().to_numpy(dtype=float)
    if len(pairs) < 2:
        mean = float(pairs[0]) if len(pairs) else float("nan")
        return Difference(mean, float("nan"), float("nan"), len(pairs))
    rng = np.random.default_rng(seed)
    means = pairs[rng.integers(len(pairs), size=(RESAMPLES, len(pairs)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(float(pairs.mean()), float(low), float(high), len(pairs))
