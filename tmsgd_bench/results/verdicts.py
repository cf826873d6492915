"""The rule that makes a paired comparison a verdict on "A is better than B".

The rule and the margins (``margins.yaml``) are fixed before the runs.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from tmsgd_bench.results.statistics import ALPHA, FEW_SEEDS, POWER, Comparison, t_test_power

Verdict = Literal["supported", "contradicted", "no such difference", "undecided", "not yet tested"]
MOST_SEEDS = 1000
"""No larger number of seeds is looked for."""
DRAWS = 512
"""Quantiles of the spread that a power is averaged over."""
RULE = (
    "Verdict on “A is better than B”, by a rule fixed before the runs. Supported: p after Holm is below "
    f"{ALPHA:g} and the difference points to A. Contradicted: the same, and it points to B. No such difference: "
    "otherwise, if two one-sided paired t-tests at 5 % show that the true difference is within ± the margin (that is, "
    "the 90 % t interval lies within it). The margin is half of the printed difference; where none is printed, it is "
    "0.25 points of accuracy, mAP or mIoU, 0.001 of AUC, 2 % of MSE, FID or random-features distance. Undecided: "
    f"otherwise, with the number of seeds that would decide it with probability {POWER:g} if the true mean and spread "
    "are those seen. "
    f"Fewer than {FEW_SEEDS} seeds decide nothing: so few say little about the spread. "
    "Not yet tested: no seed has both runs."
)


@dataclass(frozen=True)
class Judgement:
    """A verdict, and what it rests on besides the comparison.

    Args:
        verdict: by the rule.
        margin: the largest difference that does not matter, in the metric's unit; NaN without one.
        p_equivalence: that the true difference is not within ± margin; NaN where it cannot be tested.
        seeds: that would decide an undecided claim; infinite above MOST_SEEDS, NaN if unknown or not undecided.
    """

    verdict: Verdict
    margin: float = math.nan
    p_equivalence: float = math.nan
    seeds: float = math.nan

    @property
    def text(self) -> str:
        """The verdict in words, with the number of seeds that would decide it."""
        if math.isnan(self.seeds):
            return self.verdict
        seeds = f"over {MOST_SEEDS}" if math.isinf(self.seeds) else f"{self.seeds:.0f}"
        return f"undecided ({seeds} seeds would decide)"


NOT_TESTED = Judgement("not yet tested")


def judge(comparison: Comparison, margin: float, better: Literal["max", "min"]) -> Judgement:
    """What a comparison says about "ours is better than the reference".

    Where a run diverged the runs that are left are a selection, so that nothing shows equivalence. Fewer than
    FEW_SEEDS pairs decide nothing.

    Args:
        comparison: after :func:`tmsgd_bench.results.statistics.correct`.
        margin: the largest difference that does not matter; NaN if there is none.
        better: the metric's direction.
    """
    difference, selected = comparison.difference, comparison.diverged or comparison.void
    usable = math.nan if selected else margin
    p = float(equivalence_p(difference.mean, comparison.spread, difference.n, usable))
    word = verdict(comparison.direction, comparison.p_holm, p, better)
    if word != "not yet tested" and comparison.pairs < FEW_SEEDS:
        word = "undecided"
    seeds = seeds_to_decide(comparison, usable) if word == "undecided" else math.nan
    return Judgement(word, margin, p, seeds)


def verdict(direction: float, p_adjusted: float, p_equivalence: float, better: Literal["max", "min"]) -> Verdict:
    """The rule.

    Args:
        direction: of ours − reference; its sign counts. NaN without a pair.
        p_adjusted: after :func:`tmsgd_bench.results.statistics.holm`; NaN decides nothing.
        p_equivalence: from :func:`equivalence_p`; NaN decides nothing.
        better: the metric's direction.
    """
    if math.isnan(direction):
        return "not yet tested"
    if p_adjusted < ALPHA and direction != 0.0:
        return "supported" if (direction > 0.0) == (better == "max") else "contradicted"
    return "no such difference" if p_equivalence < ALPHA else "undecided"


def equivalence_p(mean: Any, spread: Any, pairs: Any, margin: Any) -> Any:
    """The larger p of the two one-sided paired t-tests (Schuirmann 1987) against a true difference of ± margin.

    It is below 0.05 exactly where the 90 % t interval lies within ± margin. NaN without spread or margin, and below
    two pairs. Numbers or arrays.

    Args:
        mean, spread: of the differences; the spread is their sample standard deviation.
        pairs: their number.
        margin: in the unit of the mean.
    """
    from scipy import stats

    return stats.t.sf((margin - np.abs(mean)) * np.sqrt(pairs) / spread, np.subtract(pairs, 1))


def equivalence_power(mean: float, margin: float, pairs: int) -> float:
    """Probability that two one-sided t-tests show equivalence, for a true mean and a margin in standard deviations.

    P(|Z/√n + mean| < margin − t S/√n) with Z normal and S² = χ²/(n − 1) independent, averaged over quantiles of S.
    """
    from scipy import stats

    critical, spreads = _critical_and_spreads(pairs)
    room = math.sqrt(pairs) * margin - critical * spreads
    shift = math.sqrt(pairs) * mean
    inside = stats.norm.cdf(room - shift) - stats.norm.cdf(-room - shift)
    return float(np.where(room > 0.0, inside, 0.0).mean())


@cache
def _critical_and_spreads(pairs: int) -> tuple[float, np.ndarray]:
    """Student's t at 5 %, and equally likely sample standard deviations of normal values."""
    from scipy import stats

    quantiles = (np.arange(DRAWS) + 0.5) / DRAWS
    return float(stats.t.isf(ALPHA, pairs - 1)), np.sqrt(stats.chi2.ppf(quantiles, pairs - 1) / (pairs - 1))


def seeds_to_decide(comparison: Comparison, margin: float) -> float:
    """The smallest number of seeds that decides with probability POWER, if the true mean and spread are those seen.

    It is at least FEW_SEEDS. Decided is: different at Holm's strictest level, ALPHA over the number of tests, or
    equivalent. Where a run diverged the pairs fall to either side as often as seen. NaN without spread, infinite above
    MOST_SEEDS.

    Args:
        comparison: after :func:`tmsgd_bench.results.statistics.correct`.
        margin: the largest difference that does not matter; NaN if there is none, or nothing can show equivalence.
    """
    alpha = ALPHA / max(comparison.family, 1)
    if comparison.diverged:
        return _pairs_to_decide(max(comparison.above, comparison.below) / comparison.pairs, alpha)
    if math.isnan(comparison.spread):
        return math.nan
    mean, bound = abs(comparison.difference.mean) / comparison.spread, margin / comparison.spread
    candidates = range(FEW_SEEDS, MOST_SEEDS + 1)
    power = lambda n: max(t_test_power(mean, n, alpha), equivalence_power(mean, bound, n))  # noqa: E731
    place = bisect_left(candidates, POWER, key=power)
    return float(candidates[place]) if place < len(candidates) else math.inf


def _pairs_to_decide(share: float, alpha: float) -> float:
    """Pairs that the sign test needs if such a share of them falls to one side."""
    from scipy import stats

    pairs = np.arange(1, MOST_SEEDS + 1)
    largest_undecided = stats.binom.isf(alpha / 2.0, pairs, 0.5)
    enough = stats.binom.sf(largest_undecided, pairs, share) >= POWER
    return float(max(pairs[enough][0], FEW_SEEDS)) if enough.any() else math.inf
