"""When TM-SGD in automatic mode switches, and that it does so once."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tmsgd_bench.optim import TMSGD, AutoSwitch, MultistepScheme, Sharpness


def waiting(lr: float = 0.1, **options: Any) -> TMSGD:
    return TMSGD([nn.Parameter(torch.ones(3))], lr=lr, switch_step="auto", **options)


def take_steps(optimizer: TMSGD, count: int) -> None:
    for _ in range(count):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()


@settings(deadline=None)
@given(
    values=st.lists(st.floats(-10.0, 20.0), max_size=30),
    margin=st.floats(0.05, 1.0),
    patience=st.integers(1, 6),
)
def test_it_switches_at_the_first_run_of_measurements_below_the_margin(
    values: list[float], margin: float, patience: int
) -> None:
    """With lr = 0.1: below is 0.1 λ < margin × limit."""
    auto = AutoSwitch(waiting(), margin=margin, patience=patience)
    answers = [auto.observe(value) for value in values]
    limit = MultistepScheme.resolve("taylor3").stability_limit()
    below = [0.1 * value < margin * limit for value in values]
    expected = next((k for k in range(patience - 1, len(values)) if all(below[k - patience + 1 : k + 1])), None)
    assert [k for k, answer in enumerate(answers) if answer] == ([] if expected is None else [expected])
    assert [decision.below for decision in auto.decisions] == below
    assert auto.waiting is (expected is None)


def test_the_next_step_is_the_first_multistep_step() -> None:
    """The switch is the step count at the decision; a run that switches there by itself is no different."""
    auto = AutoSwitch(waiting(), patience=2)
    take_steps(auto.optimizer, 4)
    assert not auto.observe(1.0)
    take_steps(auto.optimizer, 3)
    assert auto.observe(1.0)
    take_steps(auto.optimizer, 5)
    fixed = TMSGD([nn.Parameter(torch.ones(3))], lr=0.1, switch_step=7)
    take_steps(fixed, 12)
    assert auto.optimizer.param_groups[0]["switch_step"] == 7
    assert torch.equal(auto.optimizer.param_groups[0]["params"][0], fixed.param_groups[0]["params"][0])
    assert [decision.step for decision in auto.decisions] == [4, 7]


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({}, 1.0),
        ({"scheme": "nine_eighths"}, None),
        ({"scheme": "euler"}, 2.0),
        ({"momentum": 0.9}, None),
    ],
)
def test_the_limit_is_that_of_the_groups_scheme_and_momentum(options: dict[str, Any], limit: float | None) -> None:
    scheme, momentum = options.get("scheme", "taylor3"), options.get("momentum", 0.0)
    theory = MultistepScheme.resolve(scheme).stability_limit(momentum)
    auto = AutoSwitch(waiting(lr=1.0, **options), margin=0.5, patience=1)
    assert not auto.observe(0.501 * theory)
    assert auto.observe(0.499 * theory)
    assert auto.decisions[0].limit == theory == pytest.approx(limit or theory)


def test_of_several_groups_the_one_nearest_to_its_limit_decides() -> None:
    """Euler's limit is 2: its share at lr = 0.15 is less than that of taylor3 at 0.1."""
    groups = [
        {"params": [nn.Parameter(torch.ones(1))], "lr": 0.1},
        {"params": [nn.Parameter(torch.ones(1))], "lr": 0.15, "scheme": "euler"},
    ]
    auto = AutoSwitch(TMSGD(groups, lr=0.0, switch_step="auto"), margin=0.5, patience=1)
    assert not auto.observe(6.0)
    assert (auto.decisions[0].lr_times_sharpness, auto.decisions[0].limit) == pytest.approx((0.6, 1.0))
    auto.optimizer.param_groups[1]["lr"] = 0.3
    assert auto.observe(3.0)
    assert (auto.decisions[1].lr_times_sharpness, auto.decisions[1].limit) == pytest.approx((0.9, 2.0))
    assert [group["switch_step"] for group in auto.optimizer.param_groups] == [0, 0]


def test_weight_decay_adds_to_the_curvature() -> None:
    auto = AutoSwitch(waiting(weight_decay=2.0), patience=1)
    assert not auto.observe(3.5)
    assert auto.decisions[0].lr_times_sharpness == pytest.approx(0.55)


def test_the_learning_rate_is_the_one_at_the_moment_of_the_measurement() -> None:
    auto = AutoSwitch(waiting(lr=1.0), patience=1)
    assert not auto.observe(1.0)
    auto.optimizer.param_groups[0]["lr"] = torch.tensor(0.25)
    assert auto.observe(Sharpness(1.0, 0.0, 5, True))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_measurement_that_is_not_finite_starts_the_count_again(bad: float) -> None:
    auto = AutoSwitch(waiting(), patience=2)
    assert [auto.observe(value) for value in (1.0, bad, 1.0, 1.0)] == [False, False, False, True]


def test_after_a_switch_measurements_are_recorded_and_change_nothing() -> None:
    auto = AutoSwitch(waiting(), patience=1)
    assert auto.observe(1.0)
    take_steps(auto.optimizer, 2)
    assert not auto.observe(1.0)
    assert [decision.switched for decision in auto.decisions] == [True, False]
    assert auto.optimizer.param_groups[0]["switch_step"] == 0


def test_a_switch_by_hand_is_respected() -> None:
    auto = AutoSwitch(waiting(), patience=1)
    take_steps(auto.optimizer, 2)
    auto.optimizer.switch()
    take_steps(auto.optimizer, 2)
    assert not auto.observe(1.0) and not auto.waiting
    assert auto.optimizer.param_groups[0]["switch_step"] == 2


@pytest.mark.parametrize("saved_after", range(6))
def test_a_restored_one_goes_on_as_if_undisturbed(saved_after: int) -> None:
    """Saved before, between and after the decision, through a file that may hold plain values only."""
    values = [4.0, 6.0, 4.0, 3.0, 2.0]
    whole = AutoSwitch(waiting(), patience=2)
    for value in values:
        whole.observe(value)
    first = AutoSwitch(waiting(), patience=2)
    for value in values[:saved_after]:
        first.observe(value)
    file = io.BytesIO()
    torch.save([first.state_dict(), first.optimizer.state_dict()], file)
    file.seek(0)
    own, optimizers = torch.load(file, weights_only=True)
    second = AutoSwitch(waiting(), patience=2)
    second.load_state_dict(own)
    second.optimizer.load_state_dict(optimizers)
    for value in values[saved_after:]:
        second.observe(value)
    assert second.decisions == whole.decisions
    assert [decision.switched for decision in second.decisions] == [False, False, False, True, False]


@pytest.mark.parametrize("margin", [0.0, -0.1, 1.01, math.nan, True, "half", None])
def test_a_margin_outside_its_range_is_refused(margin: Any) -> None:
    with pytest.raises(ValueError, match=r"Invalid margin: .*, must be a number in \(0, 1\]"):
        AutoSwitch(waiting(), margin=margin)


def test_a_momentum_with_which_no_step_is_stable_is_refused_before_training() -> None:
    optimizer = TMSGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=1.5, switch_step="auto")
    with pytest.raises(ValueError, match=r"momentum is 1\.5: it must be at least 0 and below 1"):
        AutoSwitch(optimizer)


@pytest.mark.parametrize("patience", [0, -1, 1.5, True, "3", None])
def test_a_patience_that_is_not_a_count_is_refused(patience: Any) -> None:
    with pytest.raises(ValueError, match=r"Invalid patience: .*, must be an integer >= 1"):
        AutoSwitch(waiting(), patience=patience)


def test_only_a_tmsgd_that_waits_is_accepted() -> None:
    weight = nn.Parameter(torch.ones(1))
    half = [{"params": [weight]}, {"params": [nn.Parameter(torch.ones(1))], "switch_step": 3}]
    for optimizer in (
        torch.optim.SGD([weight], lr=0.1),
        TMSGD([weight], lr=0.1, switch_step=3),
        TMSGD(half, lr=0.1, switch_step="auto"),
    ):
        with pytest.raises(ValueError, match='build it with switch_step="auto"'):
            AutoSwitch(optimizer)  # type: ignore[arg-type]


def test_an_ascent_is_refused() -> None:
    with pytest.raises(ValueError, match="maximize=False"):
        AutoSwitch(waiting(maximize=True))
