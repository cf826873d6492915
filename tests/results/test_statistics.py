"""Means, intervals and tests, against scipy, against definitions, and against their own claims."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from tmsgd_bench.results.statistics import (
    ALPHA,
    BOOTSTRAP_FROM,
    POWER,
    Comparison,
    compare,
    correct,
    detectable_difference,
    holm,
    interval,
    paired_difference,
    paired_p_value,
    sign_p_value,
    summarise,
    t_test_power,
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


def test_differences_that_are_all_equal_have_no_interval() -> None:
    difference = paired_difference(by_seed(90.5, 91.5, 92.5), by_seed(90.0, 91.0, 92.0))
    assert (difference.mean, difference.n) == (0.5, 3)
    assert math.isnan(difference.low) and math.isnan(difference.high)


FEW = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=2, max_size=12, unique=True)
MANY = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=BOOTSTRAP_FROM, max_size=24, unique=True)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(values=FEW)
def test_below_twenty_pairs_interval_and_test_agree(values: list[float]) -> None:
    """The interval is Student's, and excludes zero exactly where p is below the level."""
    difference, n = paired_difference(by_seed(*values), zeros(len(values))), len(values)
    half = stats.t.isf(0.025, n - 1) * np.std(values, ddof=1) / math.sqrt(n)
    expected = [np.mean(values) - half, np.mean(values) + half]
    assert [difference.low, difference.high] == pytest.approx(expected, rel=1e-9, abs=1e-9)
    excluded = difference.low > 0.0 or difference.high < 0.0
    assert excluded == (paired_p_value(by_seed(*values), zeros(n)) < ALPHA)


def test_from_twenty_pairs_on_the_interval_is_a_bootstraps() -> None:
    """One far value makes it lopsided, as a t interval never is, and it lies within the range of the data."""
    values = by_seed(*np.linspace(0.0, 1.0, BOOTSTRAP_FROM - 1), 50.0)
    difference = paired_difference(values, zeros(BOOTSTRAP_FROM))
    assert 0.0 < difference.low < difference.mean < difference.high < 50.0
    assert difference.high - difference.mean > 1.2 * (difference.mean - difference.low)
    fewer = paired_difference(values[1:], zeros(BOOTSTRAP_FROM))
    assert fewer.high - fewer.mean == pytest.approx(fewer.mean - fewer.low)


def test_a_bootstrap_is_reproducible() -> None:
    values = np.random.default_rng(0).normal(size=BOOTSTRAP_FROM)
    first = interval(values)
    np.random.default_rng().random()
    assert interval(values) == first


@pytest.mark.parametrize("values", [FEW, MANY], ids=["t", "bootstrap"])
def test_the_interval_contains_the_mean_and_moves_and_stretches_with_the_data(values: st.SearchStrategy) -> None:
    @settings(max_examples=8, deadline=None, derandomize=True)
    @given(values=values, shift=st.floats(-100, 100), scale=st.floats(0.1, 10))
    def check(values: list[float], shift: float, scale: float) -> None:
        before = paired_difference(by_seed(*values), zeros(len(values)))
        assert before.low <= before.mean <= before.high
        after = paired_difference(by_seed(*values) * scale + shift, zeros(len(values)))
        expected = [x * scale + shift for x in (before.mean, before.low, before.high)]
        assert [after.mean, after.low, after.high] == pytest.approx(expected, rel=1e-9, abs=1e-6)

    check()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(values=VALUES)
def test_what_two_optimizers_share_cancels(values: list[float]) -> None:
    """A seed that is good for both changes nothing: that is what pairing is for."""
    common = by_seed(*np.arange(len(values)) * 64.0)
    before = paired_difference(by_seed(*values), zeros(len(values)))
    after = paired_difference(by_seed(*values) + common, common)
    expected = [before.mean, before.low, before.high]
    assert [after.mean, after.low, after.high] == pytest.approx(expected, abs=1e-9, nan_ok=True)


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


@pytest.mark.parametrize(("pairs", "spread"), [(3, 1.0), (8, 1.0)])
def test_whole_documents_are_told_apart_as_rarely_as_the_docstring_says(pairs: int, spread: float) -> None:
    """The second case is the worst of 168 (2 to 20 pairs, spreads from a quarter to four documents), 6.1 % in 100,000
    simulations. The tolerance is three standard errors of this one."""
    rng, simulations = np.random.default_rng(pairs), 5000
    differences = np.round(spread * rng.standard_normal((simulations, pairs)))
    sampled = differences[np.ptp(differences, axis=1) > 0.0]
    decided = (stats.ttest_1samp(sampled, 0.0, axis=1).pvalue < ALPHA).sum() / simulations
    assert decided < 0.062 + 3 * math.sqrt(0.062 * 0.938 / simulations)


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
    families = 2000
    values = np.random.default_rng(11).standard_normal((families, 5, 5))
    every = stats.ttest_1samp(values[:, 1:] - values[:, :1], 0.0, axis=2).pvalue
    wrong = sum(min(holm(list(p))) < ALPHA for p in every)
    uncorrected = (every.min(axis=1) < ALPHA).sum()
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
    spread, simulations = 0.7, 5000
    differences = detectable_difference(spread, pairs, alpha) + spread * rng.standard_normal((simulations, pairs))
    decided = (stats.ttest_1samp(differences, 0.0, axis=1).pvalue < alpha).mean()
    assert abs(decided - POWER) < 4 * math.sqrt(POWER * (1 - POWER) / simulations)


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
    assert found.base == 2.0


def test_the_base_is_the_references_mean_over_the_pairs_alone() -> None:
    ours, reference = by_seed(2.0, 4.0, NAN), by_seed(1.0, 2.0, 30.0, 40.0)
    assert compare(ours.dropna(), reference).base == 1.5
    assert compare(by_seed(math.inf, 4.0), by_seed(1.0, 2.0)).base == 2.0


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


def test_such_a_pair_does_not_turn_the_direction_round() -> None:
    """The mean is above zero, and the majority of pairs below. The t-test is of the mean."""
    worst, differences = -math.inf, [-0.001] * 6 + [1.0] * 5
    found = compare(by_seed(worst, *differences), by_seed(worst, *[0.0] * 11))
    assert found.void == 1 and found.above < found.below
    assert found.direction == found.difference.mean > 0.0


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


@pytest.mark.parametrize(("pairs", "known"), [(4, False), (5, True)])
def test_too_few_pairs_to_decide_anything_detect_nothing(pairs: int, known: bool) -> None:
    (one,) = correct([compare(by_seed(*range(pairs)), zeros(pairs))])
    assert math.isnan(one.detectable) != known


def test_nothing_is_said_of_what_a_sign_test_could_detect() -> None:
    (found,) = correct([compare(by_seed(1.0, 2.0, 4.0, math.inf), zeros(4))])
    assert math.isnan(found.detectable) and not math.isnan(found.p_holm)
