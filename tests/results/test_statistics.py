"""Means, intervals, tests and verdicts, against scipy, against definitions, and against their own claims."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from tmsgd_bench.results import statistics
from tmsgd_bench.results.statistics import (
    ALPHA,
    POWER,
    RESAMPLES,
    Comparison,
    compare,
    correct,
    detectable_difference,
    holm,
    paired_difference,
    paired_p_value,
    sign_p_value,
    summarise,
    t_test_power,
    verdict,
)

NAN = math.nan
VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12)


def by_seed(*values: float) -> pd.Series:
    """Values of seeds 0, 1, 2 …"""
    return pd.Series(values, dtype=float)


def zeros(n: int) -> pd.Series:
    return by_seed(*[0.0] * n)


# --- summaries -----------------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True)
@given(values=VALUES)
def test_a_summary_is_the_mean_and_the_sample_standard_deviation(values: list[float]) -> None:
    summary = summarise(by_seed(*values))
    assert summary.n == len(values)
    assert summary.mean == pytest.approx(np.mean(values), rel=1e-12, abs=1e-9)
    assert summary.std == pytest.approx(np.std(values, ddof=1), rel=1e-9, abs=1e-9)


def test_a_summary_by_hand() -> None:
    """(1 + 2 + 6)/3 = 3; √((4 + 1 + 9)/2) = √7."""
    summary = summarise(by_seed(1.0, 2.0, 6.0))
    assert (summary.mean, summary.std, summary.n) == (3.0, pytest.approx(math.sqrt(7)), 3)


def test_missing_values_do_not_count() -> None:
    assert summarise(by_seed(1.0, NAN, 3.0)) == summarise(by_seed(1.0, 3.0))
    assert summarise(pd.Series([1.0, None, 3.0], dtype=object)) == summarise(by_seed(1.0, 3.0))


def test_one_value_has_no_spread() -> None:
    summary = summarise(by_seed(4.0))
    assert (summary.mean, summary.n) == (4.0, 1)
    assert math.isnan(summary.std)


@pytest.mark.parametrize("values", [by_seed(), by_seed(NAN), pd.Series([], dtype=object)])
def test_no_value_has_no_mean(values: pd.Series) -> None:
    summary = summarise(values)
    assert summary.n == 0
    assert math.isnan(summary.mean) and math.isnan(summary.std)


# --- paired differences --------------------------------------------------------------------------------------------


def test_a_difference_is_the_mean_over_pairs() -> None:
    difference = paired_difference(by_seed(3.0, 5.0, 10.0), by_seed(1.0, 2.0, 3.0))
    assert (difference.mean, difference.n) == (4.0, 3)


def test_pairs_are_made_by_seed_and_not_by_position() -> None:
    ours = pd.Series([10.0, 20.0, 30.0], index=[2, 0, 1])
    reference = pd.Series([19.0, 28.0, 7.0], index=[0, 1, 2])
    assert paired_difference(ours, reference) == paired_difference(by_seed(1.0, 2.0, 3.0), zeros(3))


def test_seeds_that_only_one_of_the_two_has_do_not_count() -> None:
    ours = pd.Series([1.0, 2.0, 4.0, NAN, 9.0], index=[0, 1, 2, 3, 7])
    reference = pd.Series([0.0, 0.0, 0.0, 0.0, 5.0], index=[0, 1, 2, 3, 8])
    assert paired_difference(ours, reference) == paired_difference(by_seed(1.0, 2.0, 4.0), zeros(3))


def test_seeds_without_a_partner_leave_no_difference() -> None:
    difference = paired_difference(pd.Series([1.0], index=[0]), pd.Series([1.0], index=[1]))
    assert difference.n == 0
    assert all(math.isnan(value) for value in (difference.mean, difference.low, difference.high))


def test_one_pair_has_a_difference_without_an_interval() -> None:
    difference = paired_difference(by_seed(3.0), by_seed(1.0))
    assert (difference.mean, difference.n) == (2.0, 1)
    assert math.isnan(difference.low) and math.isnan(difference.high)


def test_the_interval_is_reproducible_and_its_seed_is_used() -> None:
    rng = np.random.default_rng(0)
    ours, reference = by_seed(*rng.normal(size=8)), by_seed(*rng.normal(size=8))
    first = paired_difference(ours, reference)
    np.random.default_rng().random()
    assert paired_difference(ours, reference) == first
    other = paired_difference(ours, reference, seed=1)
    assert other.mean == first.mean
    assert (other.low, other.high) != (first.low, first.high)


@pytest.mark.parametrize("n", [2, 3])
def test_with_two_or_three_pairs_the_interval_is_their_range(n: int) -> None:
    """A resample holds the smallest pair alone in 1/nⁿ ≥ 3.7 % of cases, more than the 2.5 % cut off."""
    values = [0.3, -1.2, 2.5][:n]
    difference = paired_difference(by_seed(*values), zeros(n))
    assert (difference.low, difference.high) == (pytest.approx(min(values)), pytest.approx(max(values)))


@pytest.mark.parametrize("n", [4, 5, 6])
def test_the_interval_is_the_exact_bootstraps_up_to_resampling_error(n: int) -> None:
    """The exact bootstrap lists all nⁿ resamples; 10,000 drawn ones miss a quantile's level by at most four
    standard errors."""
    values = np.random.default_rng(n).normal(size=n)
    exact = np.array([np.mean(resample) for resample in itertools.product(values, repeat=n)])
    error = 4 * math.sqrt(0.025 * 0.975 / RESAMPLES)
    difference = paired_difference(by_seed(*values), zeros(n))
    for found, level in ((difference.low, 0.025), (difference.high, 0.975)):
        low, high = np.quantile(exact, [level - error, level + error])
        assert low - 1e-12 <= found <= high + 1e-12


@settings(max_examples=40, deadline=None, derandomize=True)
@given(values=VALUES)
def test_the_interval_contains_the_mean(values: list[float]) -> None:
    difference = paired_difference(by_seed(*values), zeros(len(values)))
    tiny = 1e-9 * max(1.0, *map(abs, values))
    assert difference.low - tiny <= difference.mean <= difference.high + tiny
    assert min(values) - tiny <= difference.low
    assert difference.high <= max(values) + tiny


@settings(max_examples=20, deadline=None, derandomize=True)
@given(values=VALUES, shift=st.floats(-100, 100), scale=st.floats(0.1, 10))
def test_the_interval_moves_and_stretches_with_the_data(values: list[float], shift: float, scale: float) -> None:
    before = paired_difference(by_seed(*values), zeros(len(values)))
    after = paired_difference(by_seed(*values) * scale + shift, zeros(len(values)))
    expected = [x * scale + shift for x in (before.mean, before.low, before.high)]
    assert [after.mean, after.low, after.high] == pytest.approx(expected, rel=1e-9, abs=1e-8)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(values=VALUES)
def test_what_two_optimizers_share_cancels(values: list[float]) -> None:
    """A seed that is good for both changes nothing: that is what pairing is for."""
    common = by_seed(*np.arange(len(values)) * 64.0)
    before = paired_difference(by_seed(*values), zeros(len(values)))
    after = paired_difference(by_seed(*values) + common, common)
    assert [after.mean, after.low, after.high] == pytest.approx([before.mean, before.low, before.high], abs=1e-9)


# --- what the docstring claims -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pairs", "claimed"), [(3, 0.75), (5, 0.84), (10, 0.90)])
def test_the_interval_covers_the_true_mean_as_often_as_the_docstring_says(
    monkeypatch: pytest.MonkeyPatch, pairs: int, claimed: float
) -> None:
    """For normal differences. The tolerance is four standard errors of the simulation and half of a percent, to
    which the claim is rounded. 30,000 to 50,000 simulations with all resamples gave 74.9, 83.8 and 90.1 %."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    simulations, reference = 2000, zeros(pairs)
    rng = np.random.default_rng(2024 + pairs)
    hits = 0
    for _ in range(simulations):
        difference = paired_difference(pd.Series(rng.standard_normal(pairs)), reference)
        hits += difference.low <= 0.0 <= difference.high
    error = math.sqrt(claimed * (1 - claimed) / simulations)
    assert abs(hits / simulations - claimed) < 4 * error + 0.005


# --- the paired test -----------------------------------------------------------------------------------------------

P_VALUES = st.lists(st.floats(0.0, 1.0) | st.just(NAN), max_size=6)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(values=st.lists(st.integers(-1000, 1000).map(lambda n: n / 64), min_size=2, max_size=12, unique=True))
def test_p_is_that_of_scipys_paired_test(values: list[float]) -> None:
    reference = by_seed(*np.linspace(90.0, 91.0, len(values)))
    ours = reference + by_seed(*values)
    assert paired_p_value(ours, reference) == pytest.approx(stats.ttest_rel(ours, reference).pvalue, rel=1e-9)


def test_p_by_hand() -> None:
    """Differences 1, 2, 3: t = 2/(1/√3) = √12 with 2 degrees of freedom, where P(|T| > t) = 1 − t/√(t² + 2)."""
    expected = 1 - math.sqrt(12 / 14)
    assert paired_p_value(by_seed(2.0, 4.0, 6.0), by_seed(1.0, 2.0, 3.0)) == pytest.approx(expected)


def test_p_pairs_by_seed() -> None:
    ours = pd.Series([10.0, 20.0, 30.0, 5.0], index=[2, 0, 1, 7])
    reference = pd.Series([19.0, 28.0, 7.0, 5.0], index=[0, 1, 2, 8])
    assert paired_p_value(ours, reference) == pytest.approx(paired_p_value(by_seed(1.0, 2.0, 3.0), zeros(3)))


@pytest.mark.parametrize("values", [(), (1.0,)])
def test_fewer_than_two_pairs_have_no_p(values: tuple[float, ...]) -> None:
    assert math.isnan(paired_p_value(by_seed(*values), zeros(len(values))))


@pytest.mark.parametrize("value", [0.0, 90.0, -3.5])
def test_optimizers_that_never_differ_have_p_one(value: float) -> None:
    assert paired_p_value(by_seed(value, value + 1.0, value), by_seed(value, value + 1.0, value)) == 1.0


@pytest.mark.parametrize("document", [100.0 / 2189, -1.0, 30.0])
def test_differences_that_are_all_equal_have_no_p(document: float) -> None:
    reference = by_seed(90.1, 90.4, 91.3)
    assert math.isnan(paired_p_value(reference + document, reference))


def test_rounding_to_float32_is_no_spread() -> None:
    """One test document more for each of four seeds: exactly the same difference, but for the metric's precision. A
    t-test of these numbers alone would be certain."""
    right = np.array([1960, 1975, 1983, 1991])
    ours, reference = (
        by_seed(*(np.float32(100) * (n / np.float32(2189)).astype(np.float32))) for n in (right + 1, right)
    )
    assert 0.0 < np.ptp(ours - reference) < 1e-4
    assert stats.ttest_rel(ours, reference).pvalue < 1e-9
    assert math.isnan(paired_p_value(ours, reference))
    assert math.isnan(compare(ours, reference).spread)


def test_one_document_between_the_differences_is_a_spread() -> None:
    document = 100.0 / 2189
    assert 0.0 < paired_p_value(by_seed(90.0, 91.0, 92.0 + document), by_seed(90.0, 91.0, 92.0)) < 1.0


def share_decided(noise: Callable[[], np.ndarray], simulations: int) -> float:
    """How often equal optimizers are told apart."""
    reference = np.full(len(noise()), 90.0)
    p = [paired_p_value(pd.Series(noise() + reference), pd.Series(reference)) for _ in range(simulations)]
    return float(np.mean(np.array(p) < ALPHA))


@pytest.mark.parametrize("pairs", [3, 5])
def test_equal_optimizers_are_told_apart_in_five_percent(pairs: int) -> None:
    """The tolerance is four standard errors of the simulation."""
    rng = np.random.default_rng(7 + pairs)
    found = share_decided(lambda: rng.standard_normal(pairs), 1500)
    assert abs(found - ALPHA) < 4 * math.sqrt(ALPHA * (1 - ALPHA) / 1500)


@pytest.mark.parametrize(("pairs", "spread"), [(3, 1.0), (8, 1.0)])
def test_whole_documents_are_told_apart_as_rarely_as_the_docstring_says(pairs: int, spread: float) -> None:
    """The second case is the worst of 168 (2 to 20 pairs, spreads from a quarter to four documents), 6.1 % in 100,000
    simulations. The tolerance is three standard errors of this one."""
    rng = np.random.default_rng(pairs)
    found = share_decided(lambda: np.round(spread * rng.standard_normal(pairs)), 1500)
    assert found < 0.062 + 3 * math.sqrt(0.062 * 0.938 / 1500)


# --- the sign test -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("above", "below"), [(1, 0), (0, 5), (3, 3), (9, 2), (4, 3), (12, 0)])
def test_the_sign_test_is_scipys(above: int, below: int) -> None:
    expected = stats.binomtest(above, above + below).pvalue
    assert sign_p_value(above, below) == sign_p_value(below, above) == pytest.approx(expected)


def test_no_pair_no_sign_test() -> None:
    assert math.isnan(sign_p_value(0, 0))


# --- Holm ----------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, derandomize=True)
@given(values=P_VALUES)
def test_holm_is_the_closure_of_bonferroni(values: list[float]) -> None:
    """A hypothesis is rejected if every set of hypotheses with it is, each by the smallest p times the set's size."""
    real = [index for index, p in enumerate(values) if not math.isnan(p)]
    sets = [chosen for size in range(1, len(real) + 1) for chosen in itertools.combinations(real, size)]
    for index, adjusted in enumerate(holm(values)):
        if index not in real:
            assert math.isnan(adjusted)
            continue
        bonferroni = [min(1.0, len(one) * min(values[member] for member in one)) for one in sets if index in one]
        assert adjusted == pytest.approx(max(bonferroni))


def test_holm_by_hand() -> None:
    """0.01·4, then 0.02·3, then 0.03·2 which may not fall below it, then 0.04."""
    assert holm([0.03, 0.01, NAN, 0.04, 0.02]) == pytest.approx([0.06, 0.04, NAN, 0.06, 0.06], nan_ok=True)
    assert holm([]) == []


def test_any_wrong_decision_among_equals_has_at_most_five_percent() -> None:
    """Four optimizers, all equal, compared with a fifth on the same seeds. Uncorrected, the same decisions are wrong
    more often than the simulation's error allows, so this test can fail."""
    rng = np.random.default_rng(11)
    families, wrong, uncorrected = 600, 0, 0
    for _ in range(families):
        values = rng.standard_normal((5, 5))
        p = [paired_p_value(pd.Series(row), pd.Series(values[0])) for row in values[1:]]
        wrong += min(holm(p)) < ALPHA
        uncorrected += min(p) < ALPHA
    bound = ALPHA + 4 * math.sqrt(ALPHA * (1 - ALPHA) / families)
    assert wrong / families < bound < uncorrected / families


# --- what could have been detected ---------------------------------------------------------------------------------


def power_by_integration(effect: float, pairs: int, alpha: float) -> float:
    """P(|Z + √n effect| > t S), integrated over S, the other way round than the package does."""
    degrees, shift = pairs - 1, math.sqrt(pairs) * effect
    critical = stats.t.isf(alpha / 2, degrees)

    def density(s: float) -> float:
        beyond = stats.norm.sf(critical * s - shift) + stats.norm.cdf(-critical * s - shift)
        return float(beyond * stats.chi.pdf(s * math.sqrt(degrees), degrees) * math.sqrt(degrees))

    return integrate.quad(density, 0.0, 8.0, points=[min(shift / critical, 7.0)], limit=500)[0]


@pytest.mark.parametrize("pairs", [2, 3, 5, 10, 30])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_power_is_the_integral_and_scipys_where_scipy_has_one(pairs: int, alpha: float) -> None:
    for effect in (0.0, 0.4, 1.0, 3.0):
        found = t_test_power(effect, pairs, alpha)
        assert found == pytest.approx(power_by_integration(effect, pairs, alpha), abs=1e-6)
        critical, shift = stats.t.isf(alpha / 2, pairs - 1), effect * math.sqrt(pairs)
        scipys = stats.nct.sf(critical, pairs - 1, shift) + stats.nct.cdf(-critical, pairs - 1, shift)
        assert math.isnan(scipys) or found == pytest.approx(scipys, abs=1e-6)


@pytest.mark.parametrize(("pairs", "alpha"), [(3, 0.05), (5, 0.05 / 4), (10, 0.05)])
def test_a_true_difference_of_the_detectable_size_is_decided_in_eighty_percent(pairs: int, alpha: float) -> None:
    rng = np.random.default_rng(5 + pairs)
    spread, simulations = 0.7, 1500
    true = detectable_difference(spread, pairs, alpha)
    found = sum(
        paired_p_value(pd.Series(true + spread * rng.standard_normal(pairs)), zeros(pairs)) < alpha
        for _ in range(simulations)
    )
    assert abs(found / simulations - POWER) < 4 * math.sqrt(POWER * (1 - POWER) / simulations)


def test_the_detectable_difference_shrinks_with_seeds_and_grows_with_spread_and_strictness() -> None:
    by_pairs = [detectable_difference(1.0, pairs) for pairs in range(2, 12)]
    assert by_pairs == sorted(by_pairs, reverse=True)
    assert detectable_difference(3.0, 5) == pytest.approx(3 * detectable_difference(1.0, 5))
    assert detectable_difference(1.0, 5, alpha=0.01) > detectable_difference(1.0, 5, alpha=0.05)
    assert detectable_difference(1.0, 2, alpha=1e-6) > 1e3


@pytest.mark.parametrize(("spread", "pairs"), [(1.0, 0), (1.0, 1), (NAN, 5)])
def test_without_pairs_or_spread_nothing_is_known_of_it(spread: float, pairs: int) -> None:
    assert math.isnan(detectable_difference(spread, pairs))


# --- comparisons ---------------------------------------------------------------------------------------------------


def test_a_comparison_gathers_difference_spread_and_p() -> None:
    ours, reference = by_seed(2.0, 4.0, 7.0), by_seed(1.0, 2.0, 3.0)
    found = compare(ours, reference)
    assert found.difference == paired_difference(ours, reference)
    assert found.spread == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert (found.above, found.below, found.diverged, found.void, found.pairs) == (3, 0, 0, 0, 3)
    assert found.p == paired_p_value(ours, reference)
    assert found.direction == found.difference.mean


@settings(max_examples=30, deadline=None, derandomize=True)
@given(values=VALUES)
def test_a_comparison_turned_round_is_its_opposite(values: list[float]) -> None:
    one, other = compare(by_seed(*values), zeros(len(values))), compare(zeros(len(values)), by_seed(*values))
    assert one.direction == pytest.approx(-other.direction)
    assert (one.above, one.below) == (other.below, other.above)
    assert one.p == pytest.approx(other.p, nan_ok=True)
    assert one.spread == pytest.approx(other.spread, nan_ok=True)


def test_where_a_run_diverged_the_pairs_are_counted() -> None:
    """A diverged run is worse than any number, however good the others of its optimizer are."""
    worst = -math.inf
    found = compare(by_seed(90.0, 91.0, 92.0, 99.0), by_seed(worst, worst, 91.0, worst))
    assert (found.above, found.below, found.diverged, found.pairs) == (4, 0, 3, 4)
    assert (found.difference.mean, found.difference.n) == (1.0, 1)
    assert found.p == sign_p_value(4, 0)
    assert found.direction > 0.0
    lower_is_better = compare(by_seed(math.inf, 0.5, 0.1), by_seed(0.2, 0.4, 0.2))
    assert (lower_is_better.above, lower_is_better.below) == (2, 1)


def test_the_runs_left_after_divergence_decide_nothing() -> None:
    """A's survivors are far better, but most of A's runs diverged."""
    ours = by_seed(*[-math.inf] * 8, 99.0, 99.1, 99.2)
    found = compare(ours, by_seed(*[50.0] * 11))
    assert found.difference.mean > 0.0 > found.direction


def test_pairs_in_which_both_diverged_say_nothing() -> None:
    worst = -math.inf
    found = compare(by_seed(worst, worst), by_seed(worst, worst))
    assert (found.pairs, found.void, found.direction) == (0, 2, 0.0)
    assert math.isnan(found.p)
    mixed = compare(by_seed(worst, 2.0, 4.0), by_seed(worst, 1.0, 1.0))
    assert (mixed.void, mixed.p) == (1, paired_p_value(by_seed(2.0, 4.0), by_seed(1.0, 1.0)))


def test_no_pair_no_direction() -> None:
    assert math.isnan(compare(pd.Series([1.0], index=[0]), pd.Series([1.0], index=[1])).direction)


def family() -> list[Comparison]:
    rng = np.random.default_rng(3)
    numbers = [compare(by_seed(*rng.normal(shift, 1.0, 6)), zeros(6)) for shift in (0.0, 1.0, 4.0)]
    return [*numbers, compare(by_seed(1.0), by_seed(2.0))]


def test_correcting_a_family_adds_holms_p_and_the_size_of_the_family() -> None:
    before = family()
    after = correct(before)
    assert [one.p for one in after] == pytest.approx([one.p for one in before], nan_ok=True)
    assert [one.p_holm for one in after] == pytest.approx(holm([one.p for one in before]), nan_ok=True)
    assert {one.family for one in after} == {3}


def test_the_detectable_difference_of_a_family_is_at_holms_strictest_level() -> None:
    """So that it is decided with that probability whatever the others show."""
    for one in correct(family()):
        expected = detectable_difference(one.spread, one.difference.n, ALPHA / 3)
        assert one.detectable == pytest.approx(expected, nan_ok=True)
        assert math.isnan(one.detectable) == (one.difference.n < 2)


def test_nothing_is_said_of_what_a_sign_test_could_detect() -> None:
    (found,) = correct([compare(by_seed(1.0, 2.0, 4.0, math.inf), zeros(4))])
    assert math.isnan(found.detectable) and not math.isnan(found.p_holm)


# --- verdicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "p", "higher", "lower"),
    [
        (0.3, 0.01, "supported", "contradicted"),
        (-0.3, 0.01, "contradicted", "supported"),
        (0.3, ALPHA, "undecided", "undecided"),
        (0.3, math.nextafter(ALPHA, 0.0), "supported", "contradicted"),
        (-5.0, 0.2, "undecided", "undecided"),
        (5.0, NAN, "undecided", "undecided"),
        (0.0, 1.0, "undecided", "undecided"),
        (0.0, 0.0, "undecided", "undecided"),
        (NAN, NAN, "not yet tested", "not yet tested"),
        (NAN, 0.01, "not yet tested", "not yet tested"),
    ],
)
def test_the_rule(direction: float, p: float, higher: str, lower: str) -> None:
    assert verdict(direction, p, "max") == higher
    assert verdict(direction, p, "min") == lower
