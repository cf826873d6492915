"""The form in which a state travels by name; that torch carries it between processes is in test_distributed.py."""

from __future__ import annotations

import itertools
import sys
import types
import warnings
from typing import Any

import pytest
import torch
from optim_helpers import (
    IMPLEMENTATIONS,
    assert_same_bits,
    each_implementation,
    give_gradients,
    held,
    saved_and_loaded,
    skip_without,
    train,
    weights,
)
from torch.nn import Parameter
from torch.optim import SGD

from tmsgd_bench.optim import TMSGD, portable

SWITCH, STEPS = 3, 10
SHAPES: list[tuple[int, ...]] = [(5, 3), (), (4,)]


@pytest.fixture
def by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the program had imported the module; really importing it would change the tests that follow."""
    name = "torch.distributed.checkpoint.state_dict"
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))


def build(dtype: torch.dtype = torch.float64, **options: Any) -> tuple[list[Parameter], TMSGD]:
    params = weights(SHAPES, dtype)
    return params, TMSGD(params, **{"lr": 0.1, "switch_step": SWITCH, **options})


def initialise(optimizer: TMSGD) -> None:
    """What torch does with an optimizer that has neither state nor gradients."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optimizer.zero_grad()


def test_completing_loses_nothing_and_adds_nothing() -> None:
    param = Parameter(torch.ones(3))
    for count in range(4):
        for names in itertools.combinations(portable.TENSORS, count):
            state = {name: torch.zeros(3) for name in names}
            for momentum in (0.0, 0.9):
                again = portable.settled(portable.completed(param, state, momentum))
                assert set(again) == set(names)
                assert all(again[name] is state[name] for name in names)


@each_implementation
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "scheme": "nine_eighths", "restart_every": 4}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("by_name")
def test_a_state_has_the_same_tensors_at_any_step_and_goes_on_with_the_same_bits(
    dtype: torch.dtype, options: dict[str, Any], implementation: str
) -> None:
    skip_without(implementation)
    options = options | IMPLEMENTATIONS[implementation]
    expected, undisturbed = build(dtype, **options)
    train(undisturbed, expected, range(STEPS))
    names = set()
    for moment in range(STEPS):
        params, optimizer = build(dtype, **options)
        train(optimizer, params, range(moment))
        state = optimizer.state_dict()
        names |= {tuple(sorted(tensors)) for tensors in state["state"].values()}
        again = TMSGD([Parameter(p.detach().clone()) for p in params], lr=0.7, **IMPLEMENTATIONS[implementation])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again.load_state_dict(saved_and_loaded(state))
        for goes_on in (optimizer, again):
            train(goes_on, goes_on.param_groups[0]["params"], range(moment, STEPS))
            own = goes_on.param_groups[0]["params"]
            assert_same_bits(held(goes_on, own), held(undisturbed, expected))
    assert len(names) == 1


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.usefixtures("by_name")
def test_a_step_gives_the_places_back(momentum: float) -> None:
    params, optimizer = build(momentum=momentum)
    for moment in range(SWITCH):
        optimizer.state_dict()
        assert all("previous_displacement" in optimizer.state[p] for p in params)
        train(optimizer, params, range(moment, moment + 1))
        assert {name for state in optimizer.state.values() for name in state} <= {"momentum_buffer"}


@pytest.mark.parametrize("switch", [0, SWITCH])
@pytest.mark.usefixtures("by_name")
def test_being_initialised_is_no_step_and_changes_no_bit_of_training(switch: int) -> None:
    options = {"momentum": 0.9, "weight_decay": 0.1, "switch_step": switch}
    params, optimizer = build(**options)
    initialise(optimizer)
    assert optimizer.param_groups[0]["step"] == 0
    assert set(optimizer.state) == set(params)
    expected, undisturbed = build(**options)
    for goes_on, own in ((optimizer, params), (undisturbed, expected)):
        train(goes_on, own, range(STEPS))
    assert_same_bits(held(optimizer, params), held(undisturbed, expected))


@pytest.mark.usefixtures("by_name")
def test_a_first_step_of_a_warm_up_from_rate_zero_counts() -> None:
    params, optimizer = build(lr=0.0)
    give_gradients(params, 0)
    optimizer.step()
    assert optimizer.param_groups[0]["step"] == 1


def test_a_step_of_rate_and_gradients_zero_counts_where_states_do_not_travel_by_name() -> None:
    _, optimizer = build()
    initialise(optimizer)
    assert optimizer.param_groups[0]["step"] == 1


def test_nothing_is_kept_where_there_is_nothing_to_keep() -> None:
    """Not even an empty state: FSDP takes a parameter with a state for one whose tensors it may gather."""
    params, optimizer = build(switch_step=SWITCH)
    train(optimizer, params, range(SWITCH))
    assert not optimizer.state
    train(optimizer, params, range(SWITCH, STEPS))
    optimizer.param_groups[0]["switch_step"] = STEPS + 2
    train(optimizer, params, range(STEPS, STEPS + 1))
    assert not optimizer.state


@pytest.mark.parametrize(
    ("lost", "options"),
    [
        ("displacement", {}),
        ("previous_displacement", {}),
        ("momentum_buffer", {"momentum": 0.9}),
        ("momentum_buffer", {"momentum": 0.9, "switch_step": 50}),
    ],
)
def test_a_state_without_what_its_step_must_have_left_warns(lost: str, options: dict[str, Any]) -> None:
    params, optimizer = build(**options)
    train(optimizer, params, range(STEPS))
    state = optimizer.state_dict()
    for tensors in state["state"].values():
        del tensors[lost]
    with pytest.warns(RuntimeWarning, match=f"step {STEPS}, but holds no {lost}"):
        build()[1].load_state_dict(state)


@pytest.mark.parametrize("restart", [None, 1, 2, 4])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_whole_state_warns_at_no_step(momentum: float, restart: int | None) -> None:
    params, optimizer = build(momentum=momentum, restart_every=restart)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(STEPS):
            build()[1].load_state_dict(optimizer.state_dict())
            train(optimizer, params, range(step, step + 1))


def test_a_state_of_sgd_before_its_first_step_does_not_warn() -> None:
    params = weights(SHAPES, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(torch.float32)[1].load_state_dict(SGD(params, 0.1, 0.9).state_dict())


@pytest.mark.parametrize("moment", [SWITCH, SWITCH + 1])
@pytest.mark.usefixtures("by_name")
def test_zeros_that_lost_their_mark_are_no_history_where_no_step_can_have_made_them(moment: int) -> None:
    params, optimizer = build()
    train(optimizer, params, range(moment))
    state = optimizer.state_dict()
    for tensors in state["state"].values():
        del tensors["present"]
    again = TMSGD(params, 0.1)
    again.load_state_dict(saved_and_loaded(state))
    expected = {"displacement"} if moment > SWITCH else set()
    assert {name for tensors in again.state.values() for name in tensors} == expected
