"""The multistep rules: which coefficients are accepted, and what the accepted ones do.

Consistency and zero-stability are decided here a second time, from the roots of the whole characteristic
polynomial z³ − a₀ z² − a₁ z − a₂ and from exact rational arithmetic.
"""

from __future__ import annotations

import doctest
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tmsgd_bench.optim import SCHEMES, TMSGD, MultistepScheme, schemes

FAST = settings(max_examples=100, deadline=None, derandomize=True, database=None)
# Multiples of 1/64 are exact in binary, so a rule built from them is consistent without rounding.
SIXTY_FOURTHS = st.integers(-128, 128).map(lambda numerator: numerator / 64.0)
INSIDE = st.floats(0.01, 0.99)
Coefficients = tuple[tuple[float, float, float], float]


def consistent(a1: float, a2: float) -> Coefficients:
    """The weights and the gain that consistency leaves once a₁ and a₂ are chosen."""
    return (1.0 - a1 - a2, a1, a2), 1.0 + a1 + 2.0 * a2


@st.composite
def zero_stable(draw: st.DrawFn) -> Coefficients:
    """A rule in 64ths whose z² − α z − β has its roots inside the unit circle: |β| < 1 and |α| < 1 − β."""
    beta = draw(st.integers(-63, 63))
    alpha = draw(st.integers(beta - 63, 63 - beta))
    return consistent((beta - alpha) / 64.0, -beta / 64.0)


def with_spurious_roots(roots: Sequence[complex]) -> tuple[tuple[float, ...], float]:
    """Weights and gain of the consistent rule with ρ(z) = (z − 1) q(z), q(z) = Π (z − rᵢ), whose gain is q(1)."""
    polynomial = np.real(np.poly([1.0, *roots]))
    return tuple((-polynomial[1:]).tolist()), float(np.real(np.prod(1.0 - np.array(roots))))


Rule = tuple[list[complex], MultistepScheme]


@st.composite
def rules(draw: st.DrawFn, least: int = 1) -> Rule:
    """A rule over ``least`` to seven instants, and its spurious roots: real ones and pairs, well inside the circle."""
    real = draw(st.lists(st.floats(-0.9, 0.9).filter(lambda x: abs(x) > 0.01), max_size=2, min_size=min(least - 1, 1)))
    pairs = st.tuples(st.floats(0.05, 0.9), st.floats(0.1, 3.0))
    polar = draw(st.lists(pairs, max_size=2, min_size=max(0, least // 2 - 1)))
    roots = [*real, *(r * np.exp(sign * 1j * angle) for r, angle in polar for sign in (1, -1))]
    return roots, MultistepScheme(*with_spurious_roots(roots))


def spurious_roots(weights: Sequence[float]) -> np.ndarray:
    """Roots of the characteristic polynomial without the one nearest to 1."""
    a0, a1, a2 = weights
    roots = np.roots([1.0, -a0, -a1, -a2])
    return np.delete(roots, np.argmin(np.abs(roots - 1.0)))


def accepts(weights: tuple[float, float, float], gain: float) -> bool:
    try:
        MultistepScheme(weights, gain)
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------- which rules are accepted


@FAST
@given(a1=SIXTY_FOURTHS, a2=SIXTY_FOURTHS)
def test_a_consistent_rule_is_accepted_exactly_if_its_spurious_roots_lie_inside_the_unit_circle(
    a1: float, a2: float
) -> None:
    weights, gain = consistent(a1, a2)
    modulus = float(np.abs(spurious_roots(weights)).max())
    assume(abs(modulus - 1.0) > 1e-4)  # numpy finds a double root only to about the square root of its precision
    assert accepts(weights, gain) == (modulus < 1.0)


@FAST
@given(rule=zero_stable())
def test_the_spurious_modulus_is_the_largest_root_besides_the_principal_one(rule: Coefficients) -> None:
    weights, gain = rule
    expected = float(np.abs(spurious_roots(weights)).max())
    assert MultistepScheme(weights, gain).spurious_modulus == pytest.approx(expected, rel=1e-6, abs=1e-6)


@FAST
@given(rule=zero_stable())
def test_an_accepted_rule_steps_along_the_derivative_and_not_against_it(rule: Coefficients) -> None:
    """b is the value of z² − α z − β at z = 1, positive once both roots lie inside the unit circle."""
    weights, gain = rule
    alpha, beta, factor = MultistepScheme(weights, gain).displacement
    assert factor == gain == 1.0 - alpha - beta > 0.0


@FAST
@given(c=INSIDE, offset=st.floats(1e-9, 1e3), sign=st.sampled_from([-1.0, 1.0]), place=st.integers(0, 2))
def test_weights_that_do_not_sum_to_one_are_refused(c: float, offset: float, sign: float, place: int) -> None:
    scheme = MultistepScheme.family(c)
    weights = list(scheme.weights)
    weights[place] += sign * offset
    with pytest.raises(ValueError, match="not consistent: its weights sum to"):
        MultistepScheme((weights[0], weights[1], weights[2]), scheme.gain)


@FAST
@given(c=INSIDE, offset=st.floats(1e-9, 1e3), sign=st.sampled_from([-1.0, 1.0]))
def test_a_gain_other_than_one_plus_a1_plus_two_a2_is_refused(c: float, offset: float, sign: float) -> None:
    scheme = MultistepScheme.family(c)
    with pytest.raises(ValueError, match=r"not consistent: its gain must be 1 \+ a1 \+ 2 a2"):
        MultistepScheme(scheme.weights, scheme.gain + sign * offset)


@FAST
@given(c=INSIDE, ulps=st.tuples(*[st.integers(-4, 4)] * 4))
def test_coefficients_off_by_a_few_roundings_are_still_accepted(c: float, ulps: tuple[int, int, int, int]) -> None:
    scheme = MultistepScheme.family(c)
    exact = (*scheme.weights, scheme.gain)
    a0, a1, a2, gain = (value + count * math.ulp(value) for value, count in zip(exact, ulps, strict=True))
    assert accepts((a0, a1, a2), gain)


@pytest.mark.parametrize(
    ("weights", "gain"),
    [
        ((2.0, -1.0, 0.0), 0.0),  # a double root at 1
        ((0.0, 1.0, 0.0), 2.0),  # leapfrog: a root at −1, bounded but never forgotten
        ((1.0, -1.0, 1.0), 2.0),  # c = 1 in other words: roots ±i
        ((-4.0, 5.0, 0.0), 6.0),  # third order and explosive
    ],
)
def test_a_rule_whose_history_never_dies_out_is_refused(weights: tuple[float, float, float], gain: float) -> None:
    with pytest.raises(ValueError, match="not zero-stable: its spurious roots have modulus"):
        MultistepScheme(weights, gain)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_coefficient_that_is_not_finite_is_refused(place: int, value: float) -> None:
    coefficients = [1.5, -1.0, 0.5, 1.0]
    coefficients[place] = value
    with pytest.raises(ValueError, match="needs finite weights, at least one, and a finite gain"):
        MultistepScheme.resolve(coefficients)


def test_a_rule_needs_a_weight() -> None:
    with pytest.raises(ValueError, match="needs finite weights, at least one"):
        MultistepScheme((), 1.0)


@pytest.mark.parametrize(
    ("roots", "modulus"),
    [
        ([0.5, 0.5, 0.5, 0.5], 0.5),
        ([-1.0, -1.0, 0.3], 1.0),  # a double root on the circle, which rounding splits
        ([1j, -1j, 1j, -1j, 0.1], 1.0),
        ([0.6 + 0.8j, 0.6 - 0.8j, 0.9], 1.0),
        ([0.2, -0.3, 0.1, 1.01], 1.01),
    ],
)
def test_rules_over_more_than_three_instants_are_judged_by_the_same_roots(roots: list[complex], modulus: float) -> None:
    weights, gain = with_spurious_roots(roots)
    if modulus < 1.0:
        # A root of multiplicity m is found to about the m-th root of the precision.
        assert MultistepScheme(weights, gain).spurious_modulus == pytest.approx(modulus, rel=1e-3)
    else:
        with pytest.raises(ValueError, match="not zero-stable"):
            MultistepScheme(weights, gain)


def test_the_one_rule_of_third_order_over_three_instants_is_refused() -> None:
    """Its spurious roots solve z² + 5/2 z − 1/2 = 0."""
    with pytest.raises(ValueError, match=f"modulus {(2.5 + math.sqrt(8.25)) / 2:.6g}, not below 1"):
        MultistepScheme((-3 / 2, 3.0, -1 / 2), 3.0)


# ---------------------------------------------------------------- any number of instants


@FAST
@given(rule=rules())
def test_the_spurious_roots_are_the_ones_the_rule_was_made_of(rule: Rule) -> None:
    roots, scheme = rule
    assert len(scheme.spurious_roots) == scheme.instants - 1
    polynomial = np.poly(scheme.spurious_roots)  # compared as polynomials: near a double root the roots scatter
    np.testing.assert_allclose(polynomial, np.poly(roots), rtol=0, atol=1e-9)


@FAST
@given(rule=rules(), zeros=st.integers(1, 3))
def test_trailing_zeros_change_no_property_of_a_rule(rule: Rule, zeros: int) -> None:
    _, scheme = rule
    padded = MultistepScheme((*scheme.weights, *[0.0] * zeros), scheme.gain)
    assert padded.instants == scheme.instants
    assert padded.coefficients(12) == scheme.coefficients(12)
    assert (padded.order, padded.error_constant) == (scheme.order, scheme.error_constant)
    assert padded.spurious_modulus == scheme.spurious_modulus
    assert padded.roots(0.3, 0.9) == scheme.roots(0.3, 0.9)
    assert padded.stability_limit(0.9) == scheme.stability_limit(0.9)
    assert padded.noise_gain == scheme.noise_gain


@FAST
@given(rule=rules())
def test_the_flat_coefficients_resolve_to_the_rule(rule: Rule) -> None:
    _, scheme = rule
    assert scheme.coefficients(scheme.instants) == (*scheme.weights, scheme.gain)
    assert MultistepScheme.resolve(scheme.coefficients(scheme.instants)) == scheme
    padded = scheme.coefficients(scheme.instants + 2)
    assert padded == (*scheme.weights, 0.0, 0.0, scheme.gain)


@FAST
@given(rule=rules(least=4))
def test_a_rule_that_reaches_further_back_than_the_optimizer_is_refused(rule: Rule) -> None:
    _, scheme = rule
    with pytest.raises(ValueError, match=f"looks at {scheme.instants} instants: choose one of at most 3"):
        scheme.coefficients(3)


def test_euler_fills_three_instants_however_it_is_written() -> None:
    for weights in [(1.0,), (1.0, 0.0), (1.0, 0.0, 0.0, 0.0, 0.0)]:
        assert MultistepScheme(weights, 1.0).coefficients(3) == (1.0, 0.0, 0.0, 1.0)


# ---------------------------------------------------------------- the family and the names


@pytest.mark.parametrize(
    ("name", "weights", "gain"),
    [
        ("euler", (1.0, 0.0, 0.0), 1.0),
        ("taylor3", (1.5, -1.0, 0.5), 1.0),
        ("nine_eighths", (9 / 8, -1 / 2, 3 / 8), 5 / 4),
    ],
)
def test_a_name_stands_for_its_published_coefficients(
    name: str, weights: tuple[float, float, float], gain: float
) -> None:
    assert (SCHEMES[name].weights, SCHEMES[name].gain) == (weights, gain)
    assert MultistepScheme.resolve(name) is SCHEMES[name]


@FAST
@given(c=INSIDE)
def test_the_family_has_its_published_coefficients_for_every_c(c: float) -> None:
    scheme = MultistepScheme.family(c)
    assert (*scheme.weights, scheme.gain) == pytest.approx((3 * c, 1 - 4 * c, c, 2 - 2 * c), rel=1e-15, abs=1e-15)
    _, a1, a2 = scheme.weights
    assert scheme.gain == pytest.approx(1 + a1 + 2 * a2, rel=1e-14)


@FAST
@given(c=INSIDE)
def test_the_difference_form_of_the_family_is_the_one_the_paper_notes_state(c: float) -> None:
    assert MultistepScheme.family(c).displacement == pytest.approx((3 * c - 1, -c, 2 - 2 * c), rel=1e-14, abs=1e-15)


def test_the_spurious_roots_of_equation_8_are_a_complex_pair_of_modulus_one_over_root_two() -> None:
    scheme = SCHEMES["taylor3"]
    assert scheme.spurious_modulus == pytest.approx(math.sqrt(0.5), rel=1e-15)
    expected = [0.25 - 1j * math.sqrt(7) / 4, 0.25 + 1j * math.sqrt(7) / 4]
    np.testing.assert_allclose(np.sort_complex(spurious_roots(scheme.weights)), expected, rtol=1e-12)


@pytest.mark.parametrize("c", [0.0, 1.0, 1.2, -0.1, 2.0, -3.0, math.nan, math.inf, -math.inf])
def test_the_family_ends_at_zero_and_one(c: float) -> None:
    with pytest.raises(ValueError, match=r"zero-stable|finite"):
        MultistepScheme.family(c)


def test_the_family_takes_a_number_alone() -> None:
    with pytest.raises(ValueError, match="c must be a number between 0 and 1, not 'x'"):
        MultistepScheme.family("x")  # type: ignore[arg-type]


@FAST
@given(c=st.floats(min_value=-5.0, max_value=5.0))
def test_the_family_is_zero_stable_exactly_between_zero_and_one(c: float) -> None:
    assume(min(abs(c), abs(c - 1.0)) > 1e-6)
    assert accepts((3 * c, 1 - 4 * c, c), 2 - 2 * c) == (0.0 < c < 1.0)


# ---------------------------------------------------------------- resolve


def test_a_scheme_resolves_to_itself_and_its_coefficients_to_its_equal() -> None:
    scheme = MultistepScheme.family(0.25)
    assert MultistepScheme.resolve(scheme) is scheme
    assert MultistepScheme.resolve((*scheme.weights, scheme.gain)) == scheme
    assert hash(MultistepScheme.resolve([*scheme.weights, scheme.gain])) == hash(scheme)
    assert MultistepScheme.resolve(np.array([1, 0, 0, 1])) == SCHEMES["euler"]


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ("adams", "unknown scheme 'adams': choose one of euler, taylor3, nine_eighths"),
        ("", "unknown scheme ''"),
        ("TAYLOR3", "unknown scheme 'TAYLOR3'"),
        ((), "at least two coefficients, the weights a0, a1, … and the gain b, not 0"),
        ((1.0,), "at least two coefficients, .* not 1"),
        ((1.0, 2.0), "gain must be 1 = 1, not 2"),
        ((0.5, 0.5, 1.0), r"gain must be 1 \+ a1 = 1.5, not 1"),
        ((0.25, 0.25, 0.25, 0.25, 1.0), r"gain must be 1 \+ a1 \+ 2 a2 \+ 3 a3 = 2.5, not 1"),
        ((1.5, -1.0, 0.4, 1.0), "weights sum to 0.9, not 1"),
        ((1.5, -1.0, 0.5, 2.0), r"gain must be 1 \+ a1 \+ 2 a2 = 1, not 2"),
        ((3.0, -3.0, 1.0, 0.0), "not zero-stable"),
    ],
)
def test_what_is_no_convergent_rule_is_refused_with_its_reason(scheme: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultistepScheme.resolve(scheme)


# ---------------------------------------------------------------- what an accepted rule does


def weights_form(scheme: MultistepScheme, start: list[Fraction], slopes: list[Fraction]) -> list[Fraction]:
    a0, a1, a2 = (Fraction(value) for value in scheme.weights)
    x = list(start)
    for slope in slopes:
        x.append(a0 * x[-1] + a1 * x[-2] + a2 * x[-3] + Fraction(scheme.gain) * slope)
    return x[3:]


def difference_form(scheme: MultistepScheme, start: list[Fraction], slopes: list[Fraction]) -> list[Fraction]:
    alpha, beta, gain = (Fraction(value) for value in scheme.displacement)
    x, older, newest = start[2], start[1] - start[0], start[2] - start[1]
    visited = []
    for slope in slopes:
        older, newest = newest, alpha * newest + beta * older + gain * slope
        x += newest
        visited.append(x)
    return visited


@FAST
@given(rule=zero_stable(), data=st.lists(st.integers(-9, 9), min_size=6, max_size=12))
def test_the_difference_form_is_the_weights_form_exactly(rule: Coefficients, data: list[int]) -> None:
    weights, gain = rule
    scheme = MultistepScheme(weights, gain)
    numbers = [Fraction(value) for value in data]
    start, slopes = numbers[:3], numbers[3:]
    assert difference_form(scheme, start, slopes) == weights_form(scheme, start, slopes)


def one_step_error(scheme: MultistepScheme, polynomial: Sequence[Fraction], start: Fraction, tau: Fraction) -> Fraction:
    """Exact value minus computed value after one step of size τ from exact history, for a polynomial of t."""

    def value(t: Fraction) -> Fraction:
        return sum((c * t**n for n, c in enumerate(polynomial)), Fraction(0))

    slope = sum((n * c * start ** (n - 1) for n, c in enumerate(polynomial) if n > 0), Fraction(0))
    past = sum((Fraction(a) * value(start - j * tau) for j, a in enumerate(scheme.weights)), Fraction(0))
    return value(start + tau) - past - Fraction(scheme.gain) * tau * slope


EXACT_RULES = [
    ((1.0,), 1.0, 1, Fraction(1, 2)),
    ((0.5, 0.5), 1.5, 1, Fraction(1, 4)),
    ((1.5, -1.0, 0.5), 1.0, 2, Fraction(2, 3)),
    ((9 / 8, -1 / 2, 3 / 8), 5 / 4, 2, Fraction(7, 12)),
    ((-1 / 8, 6 / 8, 5 / 8, -2 / 8), 18 / 8, 3, Fraction(7, 16)),
]


@pytest.mark.parametrize(("weights", "gain", "order", "constant"), EXACT_RULES, ids=lambda value: str(value))
def test_order_and_error_constant_of_rules_worked_out_by_hand(
    weights: tuple[float, ...], gain: float, order: int, constant: Fraction
) -> None:
    scheme = MultistepScheme(weights, gain)
    assert (scheme.order, scheme.error_constant) == (order, float(constant))


@FAST
@given(
    rule=st.sampled_from(EXACT_RULES),
    numbers=st.lists(st.fractions(-5, 5, max_denominator=9), min_size=6, max_size=6),
    tau=st.fractions(Fraction(1, 9), 2, max_denominator=9),
)
def test_one_step_misses_a_polynomial_by_the_error_constant_and_nothing_more(
    rule: tuple[tuple[float, ...], float, int, Fraction], numbers: list[Fraction], tau: Fraction
) -> None:
    """On degree p + 1 the derivative x^(p+1) is constant, so the leading term of the local error is all of it."""
    weights, gain, order, constant = rule
    polynomial, start = numbers[: order + 2], numbers[-1]
    expected = constant * tau ** (order + 1) * math.factorial(order + 1) * polynomial[-1]
    assert one_step_error(MultistepScheme(weights, gain), polynomial, start, tau) == expected


@FAST
@given(c=INSIDE)
def test_the_family_is_of_second_order_with_error_constant_one_third_plus_two_thirds_of_c(c: float) -> None:
    """Also where c is no binary fraction and the conditions hold only up to rounding."""
    scheme = MultistepScheme.family(c)
    assert scheme.order == 2
    assert scheme.error_constant == pytest.approx((1 + 2 * c) / 3, rel=1e-12)


@FAST
@given(rule=zero_stable())
def test_a_rule_over_three_instants_is_of_second_order_exactly_if_a1_plus_4_a2_is_1(rule: Coefficients) -> None:
    weights, gain = rule
    assert MultistepScheme(weights, gain).order == (2 if weights[1] + 4 * weights[2] == 1 else 1)


def global_error(scheme: MultistepScheme, steps: int) -> float:
    """Error at t = 1 for x' = −x, x(0) = 1, with two Euler steps to start."""
    tau = 1.0 / steps
    x = [1.0, 1.0 - tau, (1.0 - tau) ** 2]
    a0, a1, a2 = scheme.weights
    while len(x) <= steps:
        x.append(a0 * x[-1] + a1 * x[-2] + a2 * x[-3] - scheme.gain * tau * x[-1])
    return abs(x[-1] - math.exp(-1.0))


@pytest.mark.parametrize(
    ("scheme", "order"),
    [("euler", 1), ("taylor3", 2), ("nine_eighths", 2), (MultistepScheme.family(0.1), 2)],
)
def test_the_global_error_falls_with_the_order_of_the_rule(scheme: str | MultistepScheme, order: int) -> None:
    """Started with Euler steps, as the optimizer starts: they cost accuracy but not the order."""
    rule = MultistepScheme.resolve(scheme)
    assert round(math.log2(global_error(rule, 512) / global_error(rule, 1024)), 1) == order


def size_after(steps: int, curvatures: Sequence[float], **options: Any) -> list[float]:
    """|w| after gradient steps of rate 1 on ½ λ w² from w = 1, for each λ."""
    curvature = torch.tensor(curvatures, dtype=torch.float64)
    weight = torch.nn.Parameter(torch.ones_like(curvature))
    optimizer = TMSGD([weight], lr=1.0, **options)
    for _ in range(steps):
        weight.grad = curvature * weight.detach()
        optimizer.step()
    return weight.detach().abs().tolist()


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"scheme": "taylor3"}, 1.0),
        ({"scheme": "euler"}, 2.0),
        ({"scheme": "taylor3", "momentum": 0.9}, 0.5),
        ({"scheme": "euler", "momentum": 0.9}, 3.8),
    ],
    ids=["TM-SGD", "SGD", "TM-SGD-M", "SGD-M"],
)
def test_steps_on_a_quadratic_converge_below_the_stability_limit_and_diverge_above_it(
    options: dict[str, Any], limit: float
) -> None:
    below, above = size_after(6000, [limit - 0.01, limit + 0.01], **options)
    assert below < 1e-2
    assert above > 1e2


@pytest.mark.parametrize("c", [0.1, 0.25, 1 / 3, 3 / 8, 1 / 2, 2 / 3])
def test_the_stability_limit_of_the_family_is_the_smaller_of_two_ratios(c: float) -> None:
    """Jury's test of z³ − (3c − (2−2c) ελ) z² − (1−4c) z − c gives ελ < min((1−c)/c, 4c/(1−c))."""
    limit = min((1 - c) / c, 4 * c / (1 - c))
    below, above = size_after(3000, [0.98 * limit, 1.02 * limit], scheme=MultistepScheme.family(c))
    assert below < 1e-2
    assert above > 1e2


def test_the_examples_in_the_documentation_are_true() -> None:
    results = doctest.testmod(schemes)
    assert results.attempted > 0
    assert results.failed == 0
