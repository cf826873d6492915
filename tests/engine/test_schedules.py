"""Schedules that move after every update: their formulae, their product with others, and runs that are interrupted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import LinearLR, LRScheduler, MultiStepLR
from toy import STEPS, make_options, make_spec, task_maker
from whole_runs import Killed, history, kill_at, outcome

from tmsgd_bench.engine.optimizers import advance, build_schedulers
from tmsgd_bench.engine.runner import run
from tmsgd_bench.engine.schedules import WarmupPoly, WarmupSteps
from tmsgd_bench.engine.schema import check_schedule
from tmsgd_bench.engine.spec import RunSpec
from tmsgd_bench.errors import ConfigError

STEP_OPTIONS: dict[str, Any] = {"warmup_epochs": 2, "start_lr": 1e-6, "milestones": [3, 5], "gamma": 0.1}
POLY_OPTIONS: dict[str, Any] = {"epochs": 6, "warmup_epochs": 1, "start_factor": 0.01, "power": 0.9}


def sgd(*rates: float) -> torch.optim.SGD:
    """An optimizer with a group for each learning rate."""
    return torch.optim.SGD([{"params": [torch.zeros(1)], "lr": rate} for rate in rates or (0.4,)])


def rates(optimizer: torch.optim.Optimizer, schedulers: list[LRScheduler], updates: int) -> list[list[float]]:
    """The learning rates of each update, by group."""
    found = []
    for _ in range(updates):
        found.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return [list(one) for one in zip(*found, strict=True)]


def steps_by_hand(
    lr: float, update: int, per_epoch: int, warmup_epochs: float, start_lr: float, milestones: list[float], gamma: float
) -> float:
    """RFBNet's rule: in the first updates start + (lr − start) · i / n, then lr · gamma^(milestones passed)."""
    passed = len([milestone for milestone in milestones if update >= milestone * per_epoch])
    warmup = warmup_epochs * per_epoch
    base = lr if update >= warmup else start_lr + (lr - start_lr) * update / warmup
    return base * gamma**passed


def poly_by_hand(
    lr: float, update: int, per_epoch: int, epochs: float, warmup_epochs: float, start_factor: float, power: float
) -> float:
    """torchvision's reference: LinearLR for n updates, then PolynomialLR for the rest."""
    warmup, total = warmup_epochs * per_epoch, epochs * per_epoch
    if update < warmup:
        return lr * (start_factor + (1 - start_factor) * update / warmup)
    return lr * max(0.0, 1 - (update - warmup) / (total - warmup)) ** power


# --- formulae ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)  # the first call imports much
@given(
    per_epoch=st.integers(1, 7),
    warmup_epochs=st.sampled_from([0, 0.5, 1, 2.5]),
    start_lr=st.floats(1e-6, 1.0),
    milestones=st.lists(st.integers(0, 6), max_size=3),
    gamma=st.sampled_from([0.1, 0.5, 1.0]),
)
def test_warmup_and_steps_follow_the_formula_at_every_update(
    per_epoch: int, warmup_epochs: float, start_lr: float, milestones: list[int], gamma: float
) -> None:
    options: Any = {"warmup_epochs": warmup_epochs, "start_lr": start_lr, "milestones": milestones, "gamma": gamma}
    optimizer = sgd(0.4, 0.004)
    found = rates(optimizer, [WarmupSteps(optimizer, per_epoch, **options)], 7 * per_epoch)
    for lr, group in zip((0.4, 0.004), found, strict=True):
        expected = [steps_by_hand(lr, update, per_epoch, **options) for update in range(7 * per_epoch)]
        assert group == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=50)  # the first call imports much
@given(
    per_epoch=st.integers(1, 7),
    epochs=st.sampled_from([3, 5]),
    warmup_epochs=st.sampled_from([0, 0.5, 1, 2]),
    start_factor=st.floats(0.001, 1.0),
    power=st.sampled_from([0.5, 0.9, 1.0, 2.0]),
)
def test_warmup_and_polynomial_follow_the_formula_at_every_update(
    per_epoch: int, epochs: int, warmup_epochs: float, start_factor: float, power: float
) -> None:
    """And it is 0 from the end of the run on."""
    options: Any = {
        "epochs": epochs,
        "warmup_epochs": warmup_epochs,
        "start_factor": start_factor,
        "power": power,
    }
    optimizer = sgd(0.4, 0.004)
    updates = (epochs + 1) * per_epoch
    found = rates(optimizer, [WarmupPoly(optimizer, per_epoch, **options)], updates)
    for lr, group in zip((0.4, 0.004), found, strict=True):
        expected = [poly_by_hand(lr, update, per_epoch, **options) for update in range(updates)]
        assert group == pytest.approx(expected, rel=1e-9, abs=1e-15 * lr)
        assert group[epochs * per_epoch :] == [0.0] * per_epoch


def test_warmup_and_polynomial_are_torchvisions_schedulers() -> None:
    """SequentialLR of LinearLR and PolynomialLR, as the reference for segmentation builds them."""
    per_epoch, epochs, power = 5, 4, 0.9
    one, other = sgd(), sgd()
    warmup = LinearLR(other, start_factor=0.01, total_iters=per_epoch)
    main = torch.optim.lr_scheduler.PolynomialLR(other, total_iters=per_epoch * (epochs - 1), power=power)
    reference = torch.optim.lr_scheduler.SequentialLR(other, [warmup, main], milestones=[per_epoch])
    own = WarmupPoly(one, per_epoch, epochs=epochs, warmup_epochs=1, start_factor=0.01, power=power)
    updates = per_epoch * epochs
    assert rates(one, [own], updates)[0] == pytest.approx(rates(other, [reference], updates)[0], rel=1e-9)


SCHEDULES: dict[str, tuple[type[LRScheduler], dict[str, Any], Callable[..., float]]] = {
    "steps": (WarmupSteps, STEP_OPTIONS, steps_by_hand),
    "poly": (WarmupPoly, POLY_OPTIONS, poly_by_hand),
}


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("first", [True, False], ids=["linear first", "linear last"])
@pytest.mark.parametrize("per_epoch", [1, 4])
def test_with_an_optimizers_own_warm_up_the_factors_are_multiplied(kind: str, first: bool, per_epoch: int) -> None:
    """Whichever is built first: each begins by scaling what it finds."""
    schedule, options, by_hand = SCHEDULES[kind]
    optimizer = sgd(0.4)
    builds: list[Callable[[], LRScheduler]] = [
        lambda: LinearLR(optimizer, 0.001, total_iters=9),
        lambda: schedule(optimizer, per_epoch, **options),
    ]
    schedulers = [build() for build in (builds if first else builds[::-1])]
    updates = 6 * per_epoch
    linear = [0.001 + 0.999 * min(update, 9) / 9 for update in range(updates)]
    expected = [factor * by_hand(0.4, update, per_epoch, **options) for update, factor in enumerate(linear)]
    assert rates(optimizer, schedulers, updates)[0] == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_with_a_schedule_in_epochs_the_factors_are_multiplied() -> None:
    optimizer = sgd(1.0)
    steps, poly = MultiStepLR(optimizer, [1, 2], gamma=0.5), WarmupPoly(optimizer, 3, **POLY_OPTIONS)
    for epoch in range(3):
        found = rates(optimizer, [poly], 3)[0]
        expected = [0.5**epoch * poly_by_hand(1.0, 3 * epoch + step, 3, **POLY_OPTIONS) for step in range(3)]
        assert found == pytest.approx(expected, rel=1e-9)
        steps.step()


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("at", [0, 3, 8, 13, 20])
def test_a_schedule_goes_on_from_its_state(kind: str, at: int) -> None:
    """To the last bit, from within the warm-up, at its end, and between milestones."""
    schedule, options, _ = SCHEDULES[kind]
    whole, torn, later = sgd(0.4), sgd(0.4), sgd(0.4)
    expected = rates(whole, [schedule(whole, 4, **options)], 24)[0]
    before = schedule(torn, 4, **options)
    found = rates(torn, [before], at)[0] if at else []
    after = schedule(later, 4, **options)
    later.load_state_dict(torn.state_dict())
    after.load_state_dict(before.state_dict())
    assert [*found, *rates(later, [after], 24 - at)[0]] == expected
    assert all(isinstance(value, int | float | list) for value in before.state_dict().values())


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        *(("steps", change) for change in ({"warmup_epochs": -1}, {"start_lr": 0.0}, {"start_lr": -1}, {"gamma": 0})),
        *(("poly", change) for change in ({"warmup_epochs": -0.5}, {"start_factor": 0}, {"start_factor": 1.01})),
        ("poly", {"power": 0}),
        ("poly", {"power": -0.9}),
    ],
    ids=str,
)
def test_a_value_out_of_its_range_is_refused(kind: str, change: dict[str, Any]) -> None:
    schedule, options, _ = SCHEDULES[kind]
    with pytest.raises(ValueError, match=next(iter(change))):
        schedule(sgd(), 4, **options | change)


# --- through the engine --------------------------------------------------------------------------------------------

NAMES = {"steps": "WarmupSteps", "poly": "WarmupPoly"}


def described(kind: str, every: str | None = "update", **changes: Any) -> dict[str, Any]:
    """A schedule as a YAML has it."""
    own = {} if every is None else {"every": every}
    return {"_target_": f"tmsgd_bench.engine.schedules.{NAMES[kind]}", **own, **SCHEDULES[kind][1], **changes}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_schedule_of_updates_is_told_how_many_an_epoch_has(kind: str) -> None:
    per_update, per_epoch = build_schedulers({"lr": 0.4}, described(kind), sgd(), 7)
    (schedule,) = per_update
    assert per_epoch == [] and isinstance(schedule, SCHEDULES[kind][0])
    assert schedule.steps_per_epoch == 7  # type: ignore[attr-defined]


def test_torchs_schedules_are_stepped_after_epochs_unless_told_otherwise() -> None:
    spec = {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.5}
    for own in ({}, {"every": "epoch"}):
        per_update, per_epoch = build_schedulers({}, {**spec, **own}, sgd(), 7)
        assert per_update == [] and len(per_epoch) == 1


def test_the_warm_up_of_an_optimizer_comes_beside_a_schedule_of_updates() -> None:
    warmup = {"updates": 5, "start_factor": 0.1}
    per_update, per_epoch = build_schedulers({"warmup": warmup}, described("poly"), sgd(), 7)
    assert [type(one) for one in per_update] == [LinearLR, WarmupPoly] and per_epoch == []


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (described("poly", every="batch"), "schedule.every .*epoch, update"),
        (described("poly", every="true"), "schedule.every .*epoch, update"),
        (described("poly", every=None), "schedule .*steps_per_epoch"),
        (described("poly", power=0), "schedule .*power > 0"),
        (described("steps", start_lr=0), "schedule .*start_lr > 0"),
        (described("steps", wrong=1), "schedule .*wrong"),
        (
            {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.5, "every": "update"},
            "schedule .*steps_per_epoch",
        ),
    ],
)
def test_a_schedule_that_cannot_be_built_is_refused_in_one_sentence(schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        build_schedulers({}, schedule, sgd(), 7)
    assert "\n" not in str(raised.value)


def toy(kind: str, optimizer: str) -> RunSpec:
    return replace(make_spec(optimizer), schedule=described(kind))


@pytest.mark.parametrize("kind", SCHEDULES)
def test_a_run_follows_its_schedule(tmp_path: Path, kind: str) -> None:
    """The learning rate that the history tells is that of the update after the epoch."""
    spec = toy(kind, "sgd")
    run(spec, make_options(tmp_path), task_maker())
    lrs = history(tmp_path, spec)["lr"].tolist()
    by_hand = SCHEDULES[kind][2]
    expected = [by_hand(0.05, (epoch + 1) * STEPS, STEPS, **SCHEDULES[kind][1]) for epoch in range(6)]
    assert lrs == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("optimizer", ["tmsgd", "adam", "apollo"])
def test_a_killed_run_goes_on_with_the_same_bits(tmp_path: Path, kind: str, optimizer: str) -> None:
    """Within the warm-up and later; Apollo has a warm-up of its own beside it."""
    spec = toy(kind, optimizer)
    run(spec, make_options(tmp_path / "whole"), task_maker())

    for epoch, step in ((1, 2), (3, 0), (5, 3)):
        with pytest.raises(Killed):
            run(spec, make_options(tmp_path / "torn"), task_maker(on_step=kill_at(epoch, step)))
    run(spec, make_options(tmp_path / "torn"), task_maker())
    assert outcome(tmp_path / "torn", spec) == outcome(tmp_path / "whole", spec)
    assert all(math.isfinite(loss) for loss in history(tmp_path / "whole", spec)["loss"])


@pytest.mark.parametrize("kind", SCHEDULES)
def test_runs_that_share_their_beginning_have_the_bits_of_runs_alone(tmp_path: Path, kind: str) -> None:
    specs = [toy(kind, name) for name in ("sgd", "tmsgd")]
    saved = 0
    for spec in specs:
        run(spec, make_options(tmp_path / "alone"), task_maker())
        saved += run(spec, make_options(tmp_path / "shared", share_prefix=True, keep_trunks=True), task_maker()).saved
    for spec in specs:
        assert outcome(tmp_path / "shared", spec) == outcome(tmp_path / "alone", spec)
    assert saved == 3


@pytest.mark.parametrize("change", [{"power": 1.0}, {"every": "epoch"}, {"warmup_epochs": 2}], ids=str)
def test_every_option_of_a_schedule_is_part_of_the_identity(change: dict[str, Any]) -> None:
    spec = toy("poly", "sgd")
    assert replace(spec, schedule=described("poly") | change).identity != spec.identity


@pytest.mark.parametrize(
    "options", [{"step_size": 0}, {"name": "ReduceLROnPlateau"}], ids=["by zero", "wants a metric"]
)
def test_a_schedule_that_cannot_be_stepped_is_told(options: dict[str, Any]) -> None:
    kind = options.pop("name", "StepLR")
    per_update, per_epoch = build_schedulers({}, {"_target_": f"torch.optim.lr_scheduler.{kind}", **options}, sgd(), 7)
    assert per_update == []
    with pytest.raises(ConfigError, match=rf"^the learning-rate schedule {kind} cannot go on \(.+\): "):
        for _ in range(2):
            advance(per_epoch)


@pytest.mark.parametrize("kind", ["CyclicLR", "OneCycleLR"])
def test_a_schedule_changes_the_momentum_only_if_it_says_so(kind: str) -> None:
    """By torch's default it would make SGD with momentum of SGD."""
    options: dict[str, Any] = {"max_lr": 0.4} | ({"base_lr": 0.1} if kind == "CyclicLR" else {"total_steps": 9})
    spec = {"_target_": f"torch.optim.lr_scheduler.{kind}", **options}
    with pytest.raises(ConfigError, match=rf"^{kind} changes the momentum .+: add cycle_momentum: "):
        check_schedule("schedule", spec)
    optimizer, spec = sgd(), spec | {"cycle_momentum": False}
    check_schedule("schedule", spec)
    _, per_epoch = build_schedulers({}, spec, optimizer, 7)
    advance(per_epoch)
    assert optimizer.param_groups[0]["momentum"] == sgd().param_groups[0]["momentum"]
