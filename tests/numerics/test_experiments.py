"""The measurements, against formulae: what the shipped optimizer does is what the theory of its coefficients says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tmsgd_bench.numerics import experiments
from tmsgd_bench.numerics.experiments import METHODS
from tmsgd_bench.numerics.problems import DESCENTS, FLOWS, powers_of_two
from tmsgd_bench.optim import MultistepScheme

DECAY, LOGISTIC = FLOWS[0], FLOWS[1]
QUIET = tuple(problem for problem in DESCENTS if problem.noise == 0.0)


# ---------------------------------------------------------------- order


@pytest.mark.parametrize("c", [1 / 8, 1 / 3, 3 / 8, 1 / 2, 3 / 4])
def test_the_error_on_linear_decay_has_the_leading_term_that_theory_gives(c: float) -> None:
    """τ² e^{−T} [T C₃ / b − 3/4]: C₃ / b from truncation; 3/4, for every c, from the two Euler steps of the start."""
    scheme, steps = MultistepScheme.family(c), 1500
    tau = DECAY.end / steps
    expected = tau**2 * math.exp(-DECAY.end) * (DECAY.end * scheme.error_constant / scheme.gain - 3 / 4)
    measured = experiments.end_error(DECAY, scheme, steps, DECAY.reference())
    assert measured == pytest.approx(abs(expected), rel=50 * tau)


def test_eulers_error_on_linear_decay_has_the_leading_term_that_theory_gives() -> None:
    tau = DECAY.end / 2000
    measured = experiments.end_error(DECAY, METHODS["euler"], 2000, DECAY.reference())
    assert measured == pytest.approx(tau / 2 * DECAY.end * math.exp(-DECAY.end), rel=5 * tau)


def test_the_fitted_orders_are_those_of_the_rules() -> None:
    flow = replace(LOGISTIC, steps=powers_of_two(6, 9))
    fitted = experiments.order((flow,))["order_fitted"]
    assert list(fitted["rule"]) == list(METHODS)
    np.testing.assert_allclose(fitted["fitted"], fitted["expected"], atol=0.04)


def test_the_fit_recovers_the_exponent_of_a_power_law_in_its_finest_steps() -> None:
    tau = 0.5 ** np.arange(8)
    error = np.where(tau > 0.1, 1e9, 3.0 * tau**1.7)
    frame = pd.DataFrame({"problem": "power", "rule": "taylor3", "tau": tau, "error": error})
    row = experiments.fit_orders(frame).iloc[0]
    assert (row["expected"], row["fitted"]) == (2, pytest.approx(1.7, rel=1e-12))


def test_a_step_beyond_the_stability_limit_shows_as_an_error_that_is_not_small() -> None:
    stiff = next(flow for flow in FLOWS if flow.name == "stiff")
    end, reference = stiff.end, stiff.reference()
    curvature = 25.0
    for name in ("euler", "taylor3"):
        limit = METHODS[name].stability_limit()
        stable, unstable = (math.ceil(end * curvature / (limit * factor)) for factor in (0.8, 1.5))
        assert experiments.end_error(stiff, METHODS[name], stable, reference) < 0.01
        assert experiments.end_error(stiff, METHODS[name], unstable, reference) > 100.0


def test_a_rule_that_overflows_has_an_infinite_error() -> None:
    assert experiments.end_error(replace(DECAY, end=1e6), METHODS["euler"], 300, DECAY.reference()) == math.inf


# ---------------------------------------------------------------- stability


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_stability_region_of_sgd_with_momentum_is_an_ellipse(momentum: float) -> None:
    """h = 1 + μ − z − μ/z on |z| = 1: centre 1 + μ, half-axes 1 + μ and 1 − μ; all of the locus bounds the region."""
    points = experiments.regions(angles=60, momenta=(momentum,))["regions"]
    euler = points[points["rule"] == "euler"]
    radii = ((euler["re"] - 1 - momentum) / (1 + momentum)) ** 2 + (euler["im"] / (1 - momentum)) ** 2
    np.testing.assert_allclose(radii, 1.0, rtol=1e-9)
    assert euler["boundary"].all()


@pytest.mark.parametrize(
    ("rule", "momentum"), [("euler", 0.0), ("taylor3", 0.0), ("taylor3", 0.9), ("c=1/8", 0.6), ("nine_eighths", 0.3)]
)
def test_the_optimizer_begins_to_diverge_where_theory_says(rule: str, momentum: float) -> None:
    observed = experiments.observed_limit(METHODS[rule], momentum, tolerance=0.002)
    assert abs(observed - METHODS[rule].stability_limit(momentum)) <= 0.002


def test_the_limits_are_tabulated_with_their_bracket() -> None:
    found = experiments.limits(momenta=(0.9,), tolerance=0.05)["limits"]
    assert list(found["rule"]) == [*METHODS, "c=3/4"]
    assert (found["observed"] - found["predicted"]).abs().max() <= 0.05
    assert set(found["tolerance"]) == {0.05}


# ---------------------------------------------------------------- frequency response


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_optimizers_impulse_response_is_the_predicted_one(momentum: float) -> None:
    found = experiments.frequency(momenta=(momentum,))["frequency"]
    assert set(found["rule"]) == set(METHODS)
    assert found["deviation"].max() < 1e-12
    at_rest = found[found["omega"] == 0.0]
    np.testing.assert_allclose(at_rest["gain"], 1.0 / (1.0 - momentum), rtol=1e-12)
    np.testing.assert_allclose(at_rest["phase"], 0.0, atol=1e-12)


# ---------------------------------------------------------------- the early phase


@pytest.fixture(scope="module")
def early() -> dict[str, pd.DataFrame]:
    return experiments.early(tuple(replace(problem, steps=min(problem.steps, 150)) for problem in QUIET))


def test_the_loss_rises_with_equation_8_from_the_start_and_not_with_sgd_or_after_the_switch(
    early: dict[str, pd.DataFrame],
) -> None:
    rises = early["early"].pivot(index="problem", columns="start", values="rises")
    assert set(rises.index) == {problem.name for problem in QUIET}
    assert (rises["TM-SGD from the start"] > 0).all()
    assert (rises["SGD"] == 0).all()
    assert (rises["TM-SGD after the switch"] == 0).all()


def test_up_to_the_switch_the_path_is_that_of_sgd(early: dict[str, pd.DataFrame]) -> None:
    paths = early["early_paths"].set_index(["problem", "start", "step"]).sort_index()
    for problem in QUIET:
        sgd, switched = (paths.loc[(problem.name, start)] for start in ("SGD", "TM-SGD after the switch"))
        # Two more steps are Euler's, and the one after them is the first of the rule.
        assert sgd.loc[: problem.switch_step + 2].equals(switched.loc[: problem.switch_step + 2])
        assert not sgd.loc[problem.switch_step + 3].equals(switched.loc[problem.switch_step + 3])


def test_the_switch_table_and_the_summary_tell_the_same(early: dict[str, pd.DataFrame]) -> None:
    from_start = early["early"].set_index("start").loc["TM-SGD from the start"].set_index("problem")
    at_zero = early["early_switch"].set_index("switch_step").loc[0].set_index("problem")
    assert at_zero["rises"].equals(from_start["rises"])
    assert at_zero["total_rise"].equals(from_start["total_rise"])
    assert at_zero["h"].equals(from_start["h_first"].rename("h"))


def test_the_fluctuation_counts_rises_alone() -> None:
    path = pd.DataFrame({"loss": [4.0, 2.0, 3.0, 1.0, 1.0, 1.5], "h": [1.8, 1.9, 0.7, 1.2, 0.9, 0.4]})
    found = experiments.fluctuation(path)
    assert found == {
        "h_first": 1.8,
        "h_later": 1.2,
        "h_last": 0.4,
        "rises": 2,
        "total_rise": (1.0 + 0.5) / 4.0,
        "first_loss": 4.0,
        "last_loss": 1.5,
    }


def test_every_start_sees_the_same_noise() -> None:
    noisy = replace(next(problem for problem in DESCENTS if problem.noise > 0.0), steps=20)
    sgd, late = experiments.follow(noisy, scheme="euler"), experiments.follow(noisy, switch_step=20)
    assert sgd.equals(late)
    assert not sgd.equals(experiments.follow(replace(noisy, noise=0.0), scheme="euler"))


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize(("rule", "h", "momentum"), [("euler", 0.5, 0.0), ("taylor3", 0.5, 0.0), ("c=1/3", 0.2, 0.9)])
def test_the_measured_stationary_variance_lies_within_its_error_of_the_predicted_one(
    rule: str, h: float, momentum: float
) -> None:
    measured, error = experiments.measure_variance(METHODS[rule], h, momentum, chains=1000, length=300)
    predicted = METHODS[rule].stationary_variance(h, momentum)
    assert error < 0.02 * predicted
    assert abs(measured - predicted) < 4.0 * error


def test_a_measurement_of_noise_is_repeatable() -> None:
    first, again = (experiments.measure_variance(METHODS["taylor3"], 0.5, 0.0, 10, 20) for _ in range(2))
    assert first == again
