"""States that do not fit, and histories that are out of date."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from tmsgd_bench.optim import TMSGD, sharpness

IMPLEMENTATIONS = [{"fused": True}, {"fused": False, "foreach": False}, {"foreach": True}]


def stepped(size: int, count: int = 4, **options: Any) -> TMSGD:
    weight = Parameter(torch.zeros(size))
    optimizer = TMSGD([weight], 0.1, **options)
    for _ in range(count):
        weight.grad = torch.ones(size)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("options", IMPLEMENTATIONS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_state_of_another_size_is_refused_and_moves_nothing_outside(options: dict[str, Any], momentum: float) -> None:
    weight = Parameter(torch.zeros(100_000))
    optimizer = TMSGD([weight], 0.1, momentum=momentum, **options)
    optimizer.load_state_dict(stepped(10, momentum=momentum).state_dict())
    weight.grad = torch.ones_like(weight)
    with pytest.raises(RuntimeError, match="size"):
        optimizer.step()


@pytest.mark.parametrize(
    "change",
    [
        {"step": -4},
        {"switch_step": -1},
        {"scheme": (9.0, 9.0, 9.0, 9.0)},
        {"lr": float("nan")},
        {"restart_every": 0},
        {"nesterov": True},
    ],
)
def test_a_loaded_option_out_of_its_range_is_refused_and_nothing_is_changed(change: dict[str, Any]) -> None:
    optimizer = stepped(3)
    before, broken = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    broken["param_groups"][0].update(change)
    with pytest.raises(ValueError):
        optimizer.load_state_dict(broken)
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]


def test_a_state_of_adam_is_refused() -> None:
    weight = Parameter(torch.zeros(3))
    adam = torch.optim.Adam([weight])
    weight.grad = torch.ones(3)
    adam.step()
    with pytest.raises(ValueError, match="exp_avg"):
        TMSGD([weight], 0.1).load_state_dict(adam.state_dict())


def test_a_scheme_may_be_set_by_name_between_steps() -> None:
    optimizer = stepped(1)
    optimizer.param_groups[0]["scheme"] = "euler"
    weight = optimizer.param_groups[0]["params"][0]
    before = float(weight)
    optimizer.step()
    assert float(weight) == pytest.approx(before - 0.1)


def test_a_group_added_after_an_automatic_switch_has_switched_too() -> None:
    optimizer = stepped(1, switch_step="auto")
    optimizer.switch()
    optimizer.add_param_group({"params": [Parameter(torch.zeros(2))]})
    assert [group["switch_step"] for group in optimizer.param_groups] == [4, 4]


@pytest.mark.parametrize("options", IMPLEMENTATIONS)
def test_a_history_from_before_a_pause_is_forgotten(options: dict[str, Any]) -> None:
    optimizer = stepped(1, count=5, **options)
    group = optimizer.param_groups[0]
    group["switch_step"] = 8
    for _ in range(6):  # three steps of SGD, two that start the history again, one of the rule
        group["params"][0].grad = torch.zeros(1)
        before = float(group["params"][0])
        optimizer.step()
        assert float(group["params"][0]) == before


@pytest.mark.parametrize(("bulk", "top"), [(-1.0, 2.0), (1.0, 5.0), (1e-3, 5e-3)])
def test_the_sharpness_is_not_that_of_a_constant_bulk(bulk: float, top: float) -> None:
    curvatures = torch.full((200_000,), bulk)
    curvatures[7] = top
    weight = Parameter(torch.ones(200_000))
    assert float(sharpness(lambda: 0.5 * (curvatures * weight**2).sum(), [weight])) == pytest.approx(top, rel=1e-2)
