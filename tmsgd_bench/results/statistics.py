"""Means over seeds, and paired differences with their intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

FEW_SEEDS = 5
"""Below this many seeds a number is marked: its spread and its interval are hardly known."""
BOOTSTRAP_FROM = 20
"""From this many pairs on an interval is a bootstrap's, which needs no normal differences; below it is Student's t."""
RESAMPLES = 10_000
LEVEL = 0.95
ALPHA = 0.05
"""A claim is decided only by a Holm-corrected p below this."""
POWER = 0.8
TIE = 8 * 2.0**-24
"""Spread of paired differences, relative to the largest value, below which they count as all equal.

Metrics come in float32, so a difference that is the same for every seed still varies by a few roundings (two in each of
four values). Without this bound such pairs would pass for a tiny spread, and a t-test for all but certain.
"""


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (NaN below two values) of n values."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of n paired differences with its 95 % interval (NaN below two pairs, or if they are all equal)."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """Two optimizers over the seeds that both have.

    Args:
        difference: ours − reference, over the pairs in which both have a number.
        spread: sample standard deviation of these differences; NaN below two, or if they are all equal.
        above, below: pairs in which ours lies above or below the reference. A diverged run lies on the wrong side of
            every number.
        diverged: pairs in which one of the two diverged, and the other did not.
        void: pairs in which both diverged, which say nothing.
        p: two-sided; of the paired t-test, or of the sign test if a pair diverged. NaN where neither can be made.
        p_holm: p after Holm's correction over the family of comparisons it belongs to.
        detectable: the smallest true difference that would have been decided with probability POWER; NaN where
            nothing is known of it, and below FEW_SEEDS pairs, which decide nothing. In units of the values.
        family: tests in that family.
        base: mean of the reference over the pairs with two numbers.
    """

    difference: Difference
    spread: float
    above: int
    below: int
    diverged: int
    void: int
    p: float
    p_holm: float = math.nan
    detectable: float = math.nan
    family: int = 0
    base: float = math.nan

    @property
    def pairs(self) -> int:
        """Pairs that say something: those with two numbers, and those in which one run diverged."""
        return self.difference.n + self.diverged

    @property
    def direction(self) -> float:
        """A number with the sign of ours − reference: of what p tests, the mean or the majority of pairs.

        Zero if both runs of every pair diverged, and NaN if there is no pair at all.
        """
        if self.diverged:
            return float(self.above - self.below)
        return 0.0 if self.void and not self.difference.n else self.difference.mean


def summarise(values: pd.Series) -> Summary:
    """Mean ± sample standard deviation (n − 1 in the denominator); missing values do not count."""
    present = values.dropna().astype(float)
    return Summary(float(present.mean()), float(present.std(ddof=1)), len(present))


def paired_difference(ours: pd.Series, reference: pd.Series) -> Difference:
    """Mean of ``ours − reference`` over the seeds that both have, with its interval.

    Differences that are all equal have no interval: their noise was not sampled.

    Args:
        ours, reference: finite values indexed by seed.
    """
    pairs = _pairs(ours, reference)
    if not len(pairs):
        return Difference(math.nan, math.nan, math.nan, 0)
    unknown = len(pairs) < 2 or _tied(ours, reference)
    low, high = (math.nan, math.nan) if unknown else interval(pairs)
    return Difference(float(pairs.mean()), low, high, len(pairs))


def interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % interval of a mean: Student's t below BOOTSTRAP_FROM differences, a percentile bootstrap from there on.

    The t interval excludes zero exactly where the paired t-test has p < 0.05. The bootstrap (Efron 1979) draws its
    resamples with a fixed seed, so tables are reproducible.

    Args:
        differences: at least two, not all equal.
    """
    from scipy import stats

    if len(differences) < BOOTSTRAP_FROM:
        low, high = stats.ttest_1samp(differences, 0.0).confidence_interval(LEVEL)
    else:
        low, high = stats.bootstrap(
            (differences,),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            method="percentile",
            random_state=np.random.default_rng(0),
        ).confidence_interval
    return float(low), float(high)


def compare(ours: pd.Series, reference: pd.Series) -> Comparison:
    """The paired comparison of two optimizers, before correction for other comparisons.

    Where no run diverged the test is the paired t-test. Where one did, the runs that are left are a selection, so
    their mean tests nothing; the exact sign test then counts the pairs.

    Args:
        ours, reference: values indexed by seed; a diverged run is infinite, towards the worse side. A pair in which
            both diverged says nothing and does not count.
    """
    pairs = _pairs(ours, reference)
    void = len(ours.index.intersection(reference.index)) - len(pairs)
    finite = np.isfinite(pairs)
    above, below, diverged = int((pairs > 0.0).sum()), int((pairs < 0.0).sum()), int((~finite).sum())
    numbers, others = ours[np.isfinite(ours)], reference[np.isfinite(reference)]
    tied = finite.sum() < 2 or _tied(numbers, others)
    return Comparison(
        difference=paired_difference(numbers, others),
        spread=math.nan if tied else float(pairs[finite].std(ddof=1)),
        above=above,
        below=below,
        diverged=diverged,
        void=void,
        p=sign_p_value(above, below) if diverged else paired_p_value(numbers, others),
        base=float(others[others.index.isin(numbers.index)].mean()),
    )


def correct(holm_family: Sequence[Comparison], tests: int | None = None) -> list[Comparison]:
    """The comparisons of one family with Holm's p and the difference each could have detected.

    The detectable difference is taken at Holm's first and strictest level, ALPHA over the number of tests: a true
    difference of that size is decided with at least probability POWER, whatever the other comparisons show.

    Args:
        holm_family: before correction.
        tests: size of the family, if it is fixed beforehand; at least the number of those that have a p, which it is
            by default.
    """
    known = sum(not math.isnan(comparison.p) for comparison in holm_family)
    tests = known if tests is None else tests
    adjusted = holm([comparison.p for comparison in holm_family], tests)
    return [
        replace(
            comparison,
            p_holm=p,
            family=tests,
            detectable=math.nan
            if comparison.diverged or not known or comparison.difference.n < FEW_SEEDS
            else detectable_difference(comparison.spread, comparison.difference.n, ALPHA / tests),
        )
        for comparison, p in zip(holm_family, adjusted, strict=True)
    ]


def paired_p_value(ours: pd.Series, reference: pd.Series) -> float:
    """Two-sided p of the paired t-test (Student 1908) that the mean of ``ours − reference`` is zero.

    Exact for normal differences. Where they are a few whole test examples, it rejects between equals in at most 6.2 %
    of cases at level 5 % (8 pairs with a spread of one example; tests/results/test_statistics.py simulates it).

    NaN below two pairs. Pairs that all differ by the same amount have no spread to test against: p is 1 if that
    amount is zero, and NaN if it is not, because then n equal numbers show that the noise was not sampled.

    Args:
        ours, reference: finite values indexed by seed.
    """
    pairs = _pairs(ours, reference)
    if len(pairs) < 2:
        return math.nan
    if _tied(ours, reference):
        return 1.0 if np.abs(pairs).max() <= _rounding(ours, reference) else math.nan
    from scipy import stats  # takes half a second to import, which listing runs should not cost

    return float(stats.ttest_1samp(pairs, 0.0).pvalue)


def sign_p_value(above: int, below: int) -> float:
    """Two-sided p of the exact sign test (Arbuthnott 1710): pairs fall to either side like a fair coin.

    NaN without a pair.
    """
    if above + below == 0:
        return math.nan
    from scipy import stats

    return float(stats.binomtest(above, above + below).pvalue)


def holm(p_values: Sequence[float], tests: int | None = None) -> list[float]:
    """Holm's step-down correction (Holm 1979) of the p-values of one family; a NaN stays.

    Adjusted p_(i) = max over j ≤ i of min(1, (m − j + 1) p_(j)) in ascending order, m the number of tests. Tests that
    have no p yet count as if their p were 1.

    Args:
        p_values: NaN where there is none.
        tests: m; by default the number of p-values that are not NaN.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest, size = 0.0, len(order) if tests is None else tests
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (size - rank) * p))
        adjusted[index] = largest
    return adjusted


def detectable_difference(spread: float, pairs: int, alpha: float = ALPHA, power: float = POWER) -> float:
    """The smallest true mean difference that a two-sided paired t-test finds with probability ``power``.

    NaN below two pairs or without spread. In the unit of ``spread``.

    Args:
        spread: standard deviation of the differences; the sample's is taken for the true one.
        pairs: number of pairs.
        alpha: level of the test.
    """
    if pairs < 2 or math.isnan(spread):
        return math.nan
    from scipy import optimize

    shortfall = lambda effect: t_test_power(effect, pairs, alpha) - power  # noqa: E731
    upper = 1.0
    while shortfall(upper) < 0.0:
        upper *= 2.0
    return float(optimize.brentq(shortfall, 0.0, upper)) * spread


def t_test_power(effect: float, pairs: int, alpha: float) -> float:
    """Probability that a two-sided paired t-test rejects, for a true mean of ``effect`` standard deviations.

    P(|Z + √n effect| > t S) with Z normal and S² = χ²/(n − 1) independent, integrated over Z. (scipy's non-central t
    distribution returns NaN for few pairs and strict levels.)
    """
    from scipy import stats

    degrees = pairs - 1
    critical = float(stats.t.isf(alpha / 2.0, degrees))
    z, step = np.linspace(-9.0, 9.0, 4001, retstep=True)
    below = stats.chi2.cdf(degrees * ((z + math.sqrt(pairs) * effect) / critical) ** 2, degrees)
    return float((below * np.exp(-0.5 * z**2)).sum() * step / math.sqrt(2.0 * math.pi))


def _pairs(ours: pd.Series, reference: pd.Series) -> np.ndarray:
    return (ours - reference).dropna().to_numpy(dtype=float)


def _rounding(ours: pd.Series, reference: pd.Series) -> float:
    """What rounding may do to a difference of these values, seed by seed."""
    both = ours.index.intersection(reference.index)
    return TIE * float(max(ours[both].abs().max(), reference[both].abs().max()))


def _tied(ours: pd.Series, reference: pd.Series) -> bool:
    return bool(np.ptp(_pairs(ours, reference)) <= _rounding(ours, reference))
