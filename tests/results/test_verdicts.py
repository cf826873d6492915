"""The rule of the verdicts, against scipy and against its own words."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from tmsgd_bench.results import margins
from tmsgd_bench.results.statistics import ALPHA, POWER, Comparison, compare, correct
from tmsgd_bench.results.verdicts import (
    MOST_SEEDS,
    RULE,
    Judgement,
    equivalence_p,
    equivalence_power,
    judge,
    seeds_to_decide,
    verdict,
)

NAN = math.nan
VALUES = st.lists(st.floats(-10, 10).map(lambda x: round(x, 2)), min_size=2, max_size=12, unique=True)


def comparison(values: list[float]) -> Comparison:
    """Of such differences, alone in its family."""
    series = pd.Series(values, dtype=float)
    return correct([compare(series, pd.Series([0.0] * len(values)))])[0]


# --- the rule ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "p", "p_equivalence", "higher", "lower"),
    [
        (0.3, 0.01, 0.5, "supported", "contradicted"),
        (-0.3, 0.01, 0.5, "contradicted", "supported"),
        (0.3, ALPHA, NAN, "undecided", "undecided"),
        (0.3, math.nextafter(ALPHA, 0.0), NAN, "supported", "contradicted"),
        (-5.0, 0.2, ALPHA, "undecided", "undecided"),
        (-5.0, 0.2, math.nextafter(ALPHA, 0.0), "no such difference", "no such difference"),
        (0.3, 0.01, 0.01, "supported", "contradicted"),
        (5.0, NAN, NAN, "undecided", "undecided"),
        (0.0, 1.0, 0.01, "no such difference", "no such difference"),
        (0.0, 0.0, NAN, "undecided", "undecided"),
        (NAN, NAN, NAN, "not yet tested", "not yet tested"),
        (NAN, 0.01, 0.01, "not yet tested", "not yet tested"),
    ],
)
def test_the_rule(direction: float, p: float, p_equivalence: float, higher: str, lower: str) -> None:
    assert verdict(direction, p, p_equivalence, "max") == higher
    assert verdict(direction, p, p_equivalence, "min") == lower


@settings(max_examples=50, deadline=None, derandomize=True)
@given(values=VALUES, margin=st.floats(0.01, 20.0))
def test_equivalence_is_two_one_sided_tests_and_the_ninety_percent_interval(values: list[float], margin: float) -> None:
    p = equivalence_p(np.mean(values), np.std(values, ddof=1), len(values), margin)
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    assert p == pytest.approx(max(above, below), rel=1e-6)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.90)
    assume(abs(p - ALPHA) > 1e-9)
    assert (p < ALPHA) == (-margin < low and high < margin)


def test_equivalence_cannot_be_shown_without_margin_spread_or_after_divergence() -> None:
    close = [0.01, -0.01, 0.02, -0.02, 0.0]
    assert judge(comparison(close), 1.0, "max").verdict == "no such difference"
    assert judge(comparison(close), NAN, "max").verdict == "undecided"
    assert judge(comparison([0.01] * 5), 1.0, "max").verdict == "undecided"
    diverged = comparison([*close, math.inf])
    assert (diverged.diverged, judge(diverged, 1.0, "max").verdict) == (1, "undecided")
    worst = pd.Series([*close, -math.inf])
    (void,) = correct([compare(worst, pd.Series([0.0] * 5 + [-math.inf]))])
    judged = judge(void, 1.0, "max")
    assert (void.void, judged.verdict) == (1, "undecided")
    assert judged.seeds == seeds_to_decide(comparison(close), NAN), "no margin helps where both runs of a pair diverged"


def test_a_smaller_margin_is_never_easier_to_show() -> None:
    p = [float(equivalence_p(0.2, 0.5, 6, margin)) for margin in (0.1, 0.2, 0.4, 0.8)]
    assert p == sorted(p, reverse=True)


# --- how many seeds would decide -----------------------------------------------------------------------------------


def decided(differences: np.ndarray, margin: float, alpha: float) -> np.ndarray:
    """Which rows of differences lead to a verdict."""
    mean, spread, n = differences.mean(axis=1), differences.std(axis=1, ddof=1), differences.shape[1]
    different = stats.ttest_1samp(differences, 0.0, axis=1).pvalue < alpha
    return different | (equivalence_p(mean, spread, n, margin) < ALPHA)


@pytest.mark.parametrize(("mean", "margin"), [(0.0, 1.0), (0.3, 1.0), (1.0, 0.5), (0.5, 0.1)])
def test_so_many_seeds_decide_with_the_stated_probability(mean: float, margin: float) -> None:
    """And one seed fewer does not, by either test alone. The tolerance is four standard errors of the simulation."""
    simulations, alpha = 4000, ALPHA / 3
    spread = 1.0
    values = np.array([-1.0, 1.0]) * spread / math.sqrt(2) + mean
    one = replace(comparison(list(values)), family=3)
    seeds = int(seeds_to_decide(one, margin))
    differences = mean + spread * np.random.default_rng(seeds).standard_normal((simulations, seeds))
    error = 4 * math.sqrt(POWER * (1 - POWER) / simulations)
    assert decided(differences, margin, alpha).mean() > POWER - error
    fewer = differences[:, :-1]
    by_test = stats.ttest_1samp(fewer, 0.0, axis=1).pvalue < alpha
    equivalent = equivalence_p(fewer.mean(axis=1), fewer.std(axis=1, ddof=1), seeds - 1, margin) < ALPHA
    assert max(by_test.mean(), equivalent.mean()) < POWER + error


@settings(max_examples=25, deadline=None, derandomize=True)
@given(values=VALUES, margin=st.floats(0.1, 5.0))
def test_an_undecided_claim_needs_more_seeds_than_it_has(values: list[float], margin: float) -> None:
    judgement = judge(comparison(values), margin, "max")
    if judgement.verdict == "undecided":
        assert judgement.seeds > len(values)
        assert "seeds would decide" in judgement.text
    else:
        assert math.isnan(judgement.seeds) and judgement.text == judgement.verdict


def test_the_number_grows_with_the_spread_and_ends() -> None:
    values = np.array([-1.0, 0.5, 1.0, -0.4])
    seeds = [seeds_to_decide(comparison(list(values * scale)), 1.0) for scale in (1.0, 2.0, 4.0, 1e3)]
    assert seeds == sorted(seeds) and math.isinf(seeds[-1])
    assert f"over {MOST_SEEDS}" in Judgement("undecided", 1.0, 0.5, math.inf).text


def test_where_runs_diverged_the_number_is_the_sign_tests() -> None:
    """All pairs on one side: 2/2⁶ is the first p below 0.05. Half of them on each: no number of pairs decides."""
    assert seeds_to_decide(comparison([math.inf] * 5), NAN) == 6
    assert seeds_to_decide(comparison([math.inf, -math.inf] * 2), NAN) == math.inf


def test_without_a_spread_the_number_is_unknown() -> None:
    assert math.isnan(seeds_to_decide(comparison([0.25]), 1.0))
    assert Judgement("undecided").text == "undecided"


@pytest.mark.parametrize("pairs", [2, 3, 10, 50])
def test_the_power_to_show_equivalence_is_that_of_simulations(pairs: int) -> None:
    simulations, margin = 4000, 1.2
    for mean in (0.0, 0.6):
        values = mean + np.random.default_rng(pairs).standard_normal((simulations, pairs))
        shown = equivalence_p(values.mean(axis=1), values.std(axis=1, ddof=1), pairs, margin) < ALPHA
        power = equivalence_power(mean, margin, pairs)
        assert abs(shown.mean() - power) < 4 * math.sqrt(max(power * (1 - power), 1e-3) / simulations) + 0.002


def test_the_printed_rule_has_the_margins_of_the_yaml() -> None:
    rules = margins.rules()
    points = {name: rule["points"] for name, rule in rules["metrics"].items() if "points" in rule}
    shares = {rule["share"] for rule in rules["metrics"].values() if "share" in rule}
    assert rules["printed_share"] == 0.5 and "half of the printed difference" in RULE
    assert points["accuracy"] == points["map"] == points["miou"] and points.keys() == {"accuracy", "map", "miou", "auc"}
    assert f"{points['accuracy']:g} points of accuracy, mAP or mIoU, {points['auc']:g} of AUC" in RULE
    assert [f"{100 * share:g} % of MSE, FID or random-features distance" in RULE for share in shares] == [True]
