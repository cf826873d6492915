"""Stability, frequency response and noise of the rules, against recursions written out here.

The references know nothing of characteristic polynomials' crossings or Lyapunov equations: they are the recursion
x⁺ = Σ a_j x_{−j} − b ε v⁺, v⁺ = μ v + g itself, in float64.
"""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmsgd_bench.optim import SCHEMES, MultistepScheme, theory

FAST = settings(max_examples=60, deadline=None, derandomize=True, database=None)
INSIDE = st.floats(0.02, 0.98)
MOMENTA = st.sampled_from([0.0, 0.3, 0.9, 0.99])


@st.composite
def schemes(draw: st.DrawFn) -> MultistepScheme:
    """A convergent rule over one to six instants, made from its spurious roots."""
    real = draw(st.lists(st.floats(-0.85, 0.85), max_size=3))
    polar = draw(st.lists(st.tuples(st.floats(0.1, 0.85), st.floats(0.1, 3.0)), max_size=1))
    roots = [*real, *(r * np.exp(sign * 1j * angle) for r, angle in polar for sign in (1, -1))]
    weights = -np.real(np.poly([1.0, *roots]))[1:]
    return MultistepScheme(tuple(weights.tolist()), float(np.real(np.prod(1.0 - np.array(roots)))))


def response(scheme: MultistepScheme, step: float, momentum: float, curvature: float, length: int) -> np.ndarray:
    """x₁, x₂, … after a gradient impulse of 1 at rest, at learning rate ``step`` on ½ curvature x²."""
    past, velocity, visited = [0.0] * len(scheme.weights), 0.0, []
    for n in range(length):
        velocity = momentum * velocity + curvature * past[0] + (1.0 if n == 0 else 0.0)
        x = sum(a * old for a, old in zip(scheme.weights, past, strict=True)) - scheme.gain * step * velocity
        past = [x, *past[:-1]]
        visited.append(x)
    return np.array(visited)


def radius(scheme: MultistepScheme, step: float, momentum: float) -> float:
    """Largest growth factor, from the matrix of the recursion on (x, x₋₁, …, v)."""
    k = len(scheme.weights)
    matrix = np.zeros((k + 1, k + 1))
    matrix[1:k, : k - 1] = np.eye(k - 1)
    matrix[k, 0], matrix[k, k] = step, momentum  # v⁺ = μ v + h x
    matrix[0, :k] = scheme.weights
    matrix[0] -= scheme.gain * matrix[k]
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def first_loss(stable: Callable[[float], bool], upper: float, cells: int = 400) -> float:
    """Scan (0, upper] for the first unstable step, then bisect."""
    high = next(step for step in np.linspace(0.0, upper, cells + 1)[1:] if not stable(float(step)))
    low = high - upper / cells
    for _ in range(40):
        middle = (low + high) / 2.0
        low, high = (middle, high) if stable(middle) else (low, middle)
    return float(low)


# ---------------------------------------------------------------- roots


@FAST
@given(scheme=schemes(), step=st.floats(0.01, 3.0), momentum=MOMENTA)
def test_powers_of_a_characteristic_root_solve_the_recursion(
    scheme: MultistepScheme, step: float, momentum: float
) -> None:
    """With x = zⁿ the velocity is h zⁿ / (z − μ), and one step of the recursion must give zⁿ⁺¹."""
    roots = scheme.roots(step, momentum)
    assert len(roots) == scheme.instants + 1
    assert sum(roots) == pytest.approx(momentum + scheme.weights[0] - scheme.gain * step, abs=1e-9)
    k = scheme.instants
    for z in roots:
        past = sum(a * z ** (k - 1 - j) for j, a in enumerate(scheme.weights[:k]))  # times z^{k−1}
        defect = (z**k - past) * (z - momentum) + scheme.gain * step * z**k
        assert abs(defect) < 1e-9 * (1.0 + scheme.gain * step) * (1.0 + abs(z)) ** (k + 1)


@FAST
@given(scheme=schemes(), momentum=MOMENTA)
def test_at_step_zero_the_roots_are_1_the_spurious_roots_and_the_momentum(
    scheme: MultistepScheme, momentum: float
) -> None:
    expected = np.poly([1.0, *scheme.spurious_roots, momentum])
    np.testing.assert_allclose(np.poly(scheme.roots(0.0, momentum)), expected, atol=1e-7)


@FAST
@given(scheme=schemes(), theta=st.floats(0.05, 2 * math.pi - 0.05), momentum=MOMENTA)
def test_every_step_on_the_boundary_locus_has_its_root_on_the_unit_circle(
    scheme: MultistepScheme, theta: float, momentum: float
) -> None:
    step = complex(scheme.stability_boundary(theta, momentum))
    on_circle = np.exp(1j * theta)
    value = np.polyval(np.poly(scheme.roots(step, momentum)), on_circle)
    assert abs(value) < 1e-9 * (1.0 + abs(step) * scheme.gain) * 2 ** (scheme.instants + 1)


# ---------------------------------------------------------------- the stability interval


@settings(FAST, max_examples=40)
@given(scheme=schemes(), momentum=MOMENTA)
def test_the_stability_limit_is_where_a_scan_with_bisection_first_loses_stability(
    scheme: MultistepScheme, momentum: float
) -> None:
    expected = first_loss(
        lambda step: radius(scheme, step, momentum) < 1.0, upper=8.0 * scheme.stability_limit(momentum)
    )
    assert scheme.stability_limit(momentum) == pytest.approx(expected, rel=1e-6)


@FAST
@given(momentum=st.floats(0.0, 0.999))
def test_sgd_with_momentum_is_stable_up_to_twice_one_plus_momentum(momentum: float) -> None:
    assert SCHEMES["euler"].stability_limit(momentum) == pytest.approx(2.0 * (1.0 + momentum), rel=1e-14)


@FAST
@given(c=INSIDE)
def test_the_family_without_momentum_is_stable_up_to_the_smaller_of_two_ratios(c: float) -> None:
    expected = min((1 - c) / c, 4 * c / (1 - c))
    assert MultistepScheme.family(c).stability_limit() == pytest.approx(expected, rel=1e-9)


def test_momentum_0_9_leaves_equation_8_half_of_its_interval_where_it_nearly_doubles_that_of_sgd() -> None:
    scheme = SCHEMES["taylor3"]
    expected = first_loss(lambda step: radius(scheme, step, 0.9) < 1.0, upper=2.0)
    assert scheme.stability_limit(0.9) == pytest.approx(expected, rel=1e-9)
    assert round(scheme.stability_limit(0.9), 2) == 0.50
    assert scheme.stability_limit() == pytest.approx(1.0, rel=1e-14)
    assert SCHEMES["euler"].stability_limit(0.9) == pytest.approx(3.8, rel=1e-14)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, 2.0, math.nan, math.inf])
@pytest.mark.parametrize(
    "ask",
    [
        lambda scheme, momentum: scheme.stability_limit(momentum),
        lambda scheme, momentum: scheme.roots(0.1, momentum),
        lambda scheme, momentum: scheme.stability_boundary(1.0, momentum),
        lambda scheme, momentum: scheme.frequency_response(1.0, momentum),
        lambda scheme, momentum: scheme.stationary_variance(0.1, momentum),
    ],
    ids=["limit", "roots", "boundary", "response", "variance"],
)
def test_a_momentum_that_never_forgets_is_refused(
    ask: Callable[[MultistepScheme, float], Any], momentum: float
) -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        ask(SCHEMES["taylor3"], momentum)


# ---------------------------------------------------------------- frequency response


@FAST
@given(scheme=schemes(), momentum=MOMENTA)
def test_every_rule_answers_a_steady_gradient_like_sgd(scheme: MultistepScheme, momentum: float) -> None:
    assert complex(scheme.frequency_response(0.0, momentum)) == pytest.approx(1.0 / (1.0 - momentum), rel=1e-8)


@FAST
@given(scheme=schemes(), omega=st.floats(-math.pi, math.pi), momentum=st.sampled_from([0.0, 0.5, 0.9]))
def test_the_frequency_response_is_the_fourier_transform_of_the_impulse_response(
    scheme: MultistepScheme, omega: float, momentum: float
) -> None:
    impulse = np.diff(response(scheme, 1.0, momentum, 0.0, 600), prepend=0.0)
    expected = -np.sum(impulse * np.exp(-1j * omega * np.arange(600)))
    assert complex(scheme.frequency_response(omega, momentum)) == pytest.approx(expected, rel=1e-7, abs=1e-7)


def test_a_frequency_response_has_the_shape_of_its_frequencies() -> None:
    omega = np.linspace(0.0, math.pi, 6).reshape(2, 3)
    assert SCHEMES["taylor3"].frequency_response(omega).shape == (2, 3)
    assert SCHEMES["taylor3"].stability_boundary(omega).shape == (2, 3)


# ---------------------------------------------------------------- noise


@FAST
@given(scheme=schemes())
def test_the_noise_gain_is_the_energy_of_the_impulse_response(scheme: MultistepScheme) -> None:
    impulse = np.diff(response(scheme, 1.0, 0.0, 0.0, 600), prepend=0.0)
    assert scheme.noise_gain == pytest.approx(float(np.sum(impulse**2)), rel=1e-8)


def test_white_noise_enters_the_step_of_equation_8_with_one_and_a_half_times_the_variance() -> None:
    assert SCHEMES["taylor3"].noise_gain == pytest.approx(1.5, rel=1e-14)
    assert SCHEMES["euler"].noise_gain == 1.0


@FAST
@given(scheme=schemes(), fraction=st.floats(0.2, 0.9), momentum=st.sampled_from([0.0, 0.5, 0.9]))
def test_the_stationary_variance_is_the_energy_of_the_response_on_a_quadratic(
    scheme: MultistepScheme, fraction: float, momentum: float
) -> None:
    step = fraction * scheme.stability_limit(momentum)
    decay = radius(scheme, step, momentum)
    length = math.ceil(math.log(1e-10) / math.log(max(decay, 0.01))) + 50
    expected = float(np.sum(response(scheme, step, momentum, 1.0, length) ** 2))
    assert scheme.stationary_variance(step, momentum) == pytest.approx(expected, rel=1e-5)


@FAST
@given(step=st.floats(1e-6, 1.999))
def test_the_stationary_variance_of_sgd_is_h_over_2_minus_h(step: float) -> None:
    assert SCHEMES["euler"].stationary_variance(step) == pytest.approx(step / (2.0 - step), rel=1e-9)


@pytest.mark.parametrize(
    ("step", "ratio", "decimals"), [(1e-3, 1.001, 3), (0.1, 1.14, 2), (0.5, 2.1, 1), (0.9, 10.0, 0)]
)
def test_the_stationary_variance_of_equation_8_against_sgd(step: float, ratio: float, decimals: int) -> None:
    """×1.001, ×1.14, ×2.1 and ×10, each to the digits given."""
    computed = SCHEMES["taylor3"].stationary_variance(step) / SCHEMES["euler"].stationary_variance(step)
    assert round(computed, decimals) == ratio


@pytest.mark.parametrize("step", [-0.1, 0.0, 1.0, 1.5, math.nan, math.inf])
def test_there_is_no_stationary_state_outside_the_stability_interval(step: float) -> None:
    with pytest.raises(ValueError, match=r"it must lie in the stability interval \(0, 1\)"):
        SCHEMES["taylor3"].stationary_variance(step)


def test_the_examples_in_the_documentation_are_true() -> None:
    assert doctest.testmod(theory).failed == 0
