"""TMSGD in the ways people train: loss scaling, accumulation, schedulers, averages, going on from SGD, resuming."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import (
    IMPLEMENTATIONS,
    assert_same_bits,
    copies,
    each_implementation,
    give_gradients,
    held,
    recursion,
    saved_and_loaded,
    skip_without,
    train,
    weights,
)
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Optimizer, lr_scheduler
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

from tmsgd_bench.optim import TMSGD

SHAPES = [(4, 3), (5,), ()]
SWITCH = 4


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)


def batch(step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(16, 3, generator=generator).to(dtype)
    return inputs, inputs.sum(dim=1, keepdim=True).sin()


def loss_of(model: nn.Module, step: int) -> Tensor:
    inputs, targets = batch(step, next(model.parameters()).dtype)
    return nn.functional.mse_loss(model(inputs), targets)


def fit(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


# ---------------------------------------------------------------- loss scaling


def scaled_fit(
    model: nn.Module, optimizer: TMSGD, scaler: torch.amp.GradScaler, steps: Sequence[int], clip: float | None = None
) -> None:
    for step in steps:
        optimizer.zero_grad()
        scaler.scale(loss_of(model, step)).backward()
        if clip is not None:
            scaler.unscale_(optimizer)
            clip_grad_norm_(model.parameters(), clip)
        scaler.step(optimizer)
        scaler.update()


@each_implementation
@pytest.mark.parametrize("clip", [None, 0.1], ids=["as they are", "clipped"])
@pytest.mark.parametrize("exponent", [0, 10, 16])
def test_a_loss_scaled_by_a_power_of_two_trains_with_the_bits_of_the_loss(
    exponent: int, clip: float | None, implementation: str
) -> None:
    skip_without(implementation)
    ends = []
    for scale in (1.0, 2.0**exponent):
        model = network()
        optimizer = TMSGD(model.parameters(), 0.1, 0.5, switch_step=SWITCH, **IMPLEMENTATIONS[implementation])
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=3)
        scaled_fit(model, optimizer, scaler, range(12), clip)
        assert scaler.get_scale() == scale * 2.0 ** (12 // 3)
        ends.append(held(optimizer, list(model.parameters())))
    assert_same_bits(ends[0], ends[1])


@each_implementation
@pytest.mark.parametrize("overflow", [2, SWITCH, SWITCH + 1, SWITCH + 4])
def test_a_step_skipped_for_an_overflow_does_not_count_so_the_switch_comes_later(
    overflow: int, implementation: str
) -> None:
    """The run is the one that never saw the batch whose gradient was infinite."""
    skip_without(implementation)
    ends = []
    for skipped in (True, False):
        model = network()
        optimizer = TMSGD(model.parameters(), 0.1, 0.5, switch_step=SWITCH, **IMPLEMENTATIONS[implementation])
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        scaled_fit(model, optimizer, scaler, range(overflow))
        if skipped:
            loss = loss_of(model, overflow) * torch.inf
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            assert scaler.get_scale() == 2.0**7
            assert optimizer.param_groups[0]["step"] == overflow
        scaled_fit(model, optimizer, scaler, range(overflow + 1, 12))
        assert optimizer.param_groups[0]["step"] == 11
        ends.append(held(optimizer, list(model.parameters())))
    assert_same_bits(ends[0], ends[1])


# ---------------------------------------------------------------- accumulation, and steps within backward


def test_the_switch_counts_steps_of_the_optimizer_and_not_batches() -> None:
    """Four batches for each step, against a recursion on the sum of their gradients."""
    [param] = weights([(20,)], torch.float64)
    start = param.detach().clone()
    slopes = torch.randn(48, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    optimizer, visited = TMSGD([param], 0.1, switch_step=SWITCH), []
    for index, slope in enumerate(slopes):
        (param * slope).sum().div(4).backward()
        if index % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
            visited.append(param.detach().clone())
    sums = slopes.view(12, 4, 20).mean(dim=1)
    expected = recursion(start, lambda step: sums[step], [0.1] * 12, switch=SWITCH)
    torch.testing.assert_close(torch.stack(visited), expected, rtol=1e-13, atol=1e-13)


@each_implementation
def test_an_optimizer_for_each_parameter_may_step_within_backward(implementation: str) -> None:
    """Each gradient is used and freed as soon as it is there, which saves the memory of all gradients."""
    skip_without(implementation)
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.5, "switch_step": SWITCH, **IMPLEMENTATIONS[implementation]}
    model, within = network(), network()
    fit(model, TMSGD(model.parameters(), **options), range(12))
    own = {p: TMSGD([p], **options) for p in within.parameters()}

    def step_and_free(param: Tensor) -> None:
        own[param].step()  # type: ignore[index]
        own[param].zero_grad()  # type: ignore[index]

    for p in own:
        p.register_post_accumulate_grad_hook(step_and_free)
    for step in range(12):
        loss_of(within, step).backward()
        assert all(p.grad is None for p in own)
    assert_same_bits(list(model.parameters()), list(within.parameters()))


# ---------------------------------------------------------------- schedulers

Make = Callable[[Optimizer], Any]


def warm_up_then_decay(optimizer: Optimizer) -> Any:
    warm_up = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=SWITCH)
    decay = lr_scheduler.CosineAnnealingLR(optimizer, 20)
    return lr_scheduler.SequentialLR(optimizer, [warm_up, decay], [SWITCH])


def chained(optimizer: Optimizer) -> Any:
    parts = [lr_scheduler.ExponentialLR(optimizer, 0.95), lr_scheduler.ConstantLR(optimizer, 0.5, SWITCH + 1)]
    return lr_scheduler.ChainedScheduler(parts, optimizer)


SCHEDULERS: dict[str, Make] = {
    "StepLR at the switch": lambda o: lr_scheduler.StepLR(o, SWITCH, 0.5),
    "StepLR before the switch": lambda o: lr_scheduler.StepLR(o, SWITCH - 1, 0.5),
    "StepLR after the switch": lambda o: lr_scheduler.StepLR(o, SWITCH + 1, 0.5),
    "StepLR at the first multi-step": lambda o: lr_scheduler.StepLR(o, SWITCH + 2, 0.5),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda k: 1.0 / (1.0 + k)),
    "LambdaLR with a pause": lambda o: lr_scheduler.LambdaLR(o, lambda k: float(k not in (SWITCH, SWITCH + 3))),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda k: 0.9 + 0.2 * (k % 2)),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, SWITCH + 1),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1, factor=0.5),
    "SequentialLR": warm_up_then_decay,
    "ChainedScheduler": chained,
    "SWALR": lambda o: SWALR(o, swa_lr=0.02, anneal_epochs=SWITCH + 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=40, cycle_momentum=False),
    "OneCycleLR with momentum": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=40),
    "CyclicLR with momentum": lambda o: lr_scheduler.CyclicLR(o, 0.02, 0.2, step_size_up=3),
}


def visited_with(
    make: Make, optimizer: Optimizer, param: Tensor, steps: int
) -> tuple[Tensor, list[float], list[float]]:
    """The weights, and the rate and the momentum that the scheduler had set for each step."""
    scheduler, visited, rates, momenta = make(optimizer), [], [], []
    for step in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        momenta.append(float(optimizer.param_groups[0]["momentum"]))
        train(optimizer, [param], range(step, step + 1))
        visited.append(param.detach().clone())
        scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
    return torch.stack(visited), rates, momenta


@each_implementation
@pytest.mark.parametrize("tensor", [False, True], ids=["float lr", "tensor lr"])
@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_the_rate_and_the_momentum_of_each_step_are_those_the_scheduler_has_set(
    make: Make, tensor: bool, implementation: str
) -> None:
    """Before, at and after the switch, against the rule as the paper prints it with a rate for each step."""
    skip_without(implementation)
    [param] = weights([(20,)], torch.float64)
    start, steps = param.detach().clone(), 24
    probe = Parameter(start.clone())
    rate = torch.tensor(0.1, dtype=torch.float64) if tensor else 0.1
    optimizer = TMSGD([param], rate, 0.5, switch_step=SWITCH, **IMPLEMENTATIONS[implementation])
    visited, rates, momenta = visited_with(make, optimizer, param, steps)

    def gradient(step: int) -> Tensor:
        give_gradients([probe], step)
        assert probe.grad is not None
        return probe.grad

    assert len(set(rates)) > 1
    expected = recursion(start, gradient, rates, momenta, switch=SWITCH)
    torch.testing.assert_close(visited, expected, rtol=1e-12, atol=1e-12)


def test_one_cycle_and_cyclic_schedules_move_the_momentum() -> None:
    """So that the test above says something of the momentum."""
    for name in ("OneCycleLR with momentum", "CyclicLR with momentum"):
        [param] = weights([(2,)], torch.float64)
        _, _, momenta = visited_with(SCHEDULERS[name], TMSGD([param], 0.1, 0.5), param, 24)
        assert len(set(momenta)) > 3


# ---------------------------------------------------------------- averages of the weights


@pytest.mark.parametrize("moving", [False, True], ids=["mean", "exponential"])
def test_averaging_the_weights_averages_those_visited_and_leaves_training_alone(moving: bool) -> None:
    model, alone = network(torch.float64), network(torch.float64)
    optimizer, other = (TMSGD(m.parameters(), 0.1, switch_step=SWITCH) for m in (model, alone))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75) if moving else None)
    fit(alone, other, range(12))
    expected: list[Tensor] = []
    for step in range(12):
        fit(model, optimizer, range(step, step + 1))
        average.update_parameters(model)
        share = 1.0 if not expected else 0.25 if moving else 1.0 / (step + 1)
        now = [p.detach().clone() for p in model.parameters()]
        expected = [a.lerp(w, share) for a, w in zip(expected or now, now, strict=True)]
    assert_same_bits(list(model.parameters()), list(alone.parameters()))
    torch.testing.assert_close(list(average.module.parameters()), expected, rtol=1e-12, atol=1e-12, check_stride=False)


# ---------------------------------------------------------------- going on from torch.optim.SGD


def sgd_pair(momentum: float, steps: int, **options: Any) -> tuple[list[Parameter], SGD, list[Parameter]]:
    params = weights(SHAPES, torch.float32)
    sgd = SGD(params, 0.1, momentum, **options)
    train(sgd, params, range(steps))
    return params, sgd, [Parameter(p.detach().clone()) for p in params]


@each_implementation
@pytest.mark.parametrize("before", [0, 5], ids=["fresh", "trained"])
@pytest.mark.parametrize(
    "options", [{"momentum": 0.9}, {"momentum": 0.0}, {"momentum": 0.9, "maximize": True}], ids=str
)
def test_a_state_of_sgd_goes_on_as_sgd_up_to_the_switch_and_then_does_not(
    options: dict[str, Any], before: int, implementation: str
) -> None:
    """Rate, momentum, its buffers, decay and direction come from SGD; the switch counts from TMSGD's own steps."""
    skip_without(implementation)
    params, sgd, twins = sgd_pair(steps=before, weight_decay=0.01, **options)
    optimizer = TMSGD(twins, lr=7.0, switch_step=SWITCH)
    optimizer.load_state_dict(saved_and_loaded(sgd.state_dict()))
    assert optimizer.param_groups[0]["switch_step"] == SWITCH
    for group in optimizer.param_groups:
        group.update(IMPLEMENTATIONS[implementation])
    train(sgd, params, range(before, before + SWITCH))
    train(optimizer, twins, range(before, before + SWITCH))
    assert_same_bits(held(sgd, params), held(optimizer, twins))
    after = range(before + SWITCH, before + SWITCH + 3)
    train(sgd, params, after)
    train(optimizer, twins, after)
    assert not torch.equal(params[0], twins[0])
    assert "previous_displacement" in optimizer.state[twins[0]]


@pytest.mark.parametrize("options", [{"nesterov": True}, {"dampening": 0.5}], ids=str)
@pytest.mark.parametrize("steps", [0, 3, SWITCH + 3])
def test_a_state_of_sgd_that_tmsgd_cannot_follow_is_refused_and_changes_nothing(
    steps: int, options: dict[str, Any]
) -> None:
    _, sgd, twins = sgd_pair(0.9, 2, **options)
    optimizer = TMSGD(twins, 0.2, 0.5, switch_step=SWITCH)
    train(optimizer, twins, range(steps))
    kept, groups = copies(held(optimizer, twins)), copy.deepcopy(optimizer.state_dict()["param_groups"])
    with pytest.raises(ValueError, match="nesterov or dampening"):
        optimizer.load_state_dict(sgd.state_dict())
    assert optimizer.state_dict()["param_groups"] == groups
    assert_same_bits(held(optimizer, twins), kept)


def test_a_state_of_sgd_with_nesterov_in_a_later_group_alone_is_refused_too() -> None:
    params = weights(SHAPES, torch.float32)
    groups: list[dict[str, Any]] = [{"params": params[:1]}, {"params": params[1:], "nesterov": True}]
    optimizer = TMSGD([{"params": params[:1]}, {"params": params[1:]}], 0.1)
    with pytest.raises(ValueError, match="nesterov or dampening"):
        optimizer.load_state_dict(SGD(groups, 0.1, 0.9).state_dict())


OTHERS = [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Rprop, torch.optim.ASGD, torch.optim.Adadelta]


@pytest.mark.parametrize("other", OTHERS, ids=lambda kind: kind.__name__)
def test_a_fresh_state_of_another_optimizer_is_refused_and_changes_nothing(other: type[Any]) -> None:
    """It has no tensors yet that would tell."""
    params = weights(SHAPES, torch.float32)
    optimizer = TMSGD(params, 0.1, switch_step=SWITCH)
    groups = copy.deepcopy(optimizer.state_dict()["param_groups"])
    with pytest.raises(ValueError, match="it is of another optimizer"):
        optimizer.load_state_dict(other(params, lr=0.3).state_dict())
    assert optimizer.state_dict()["param_groups"] == groups


# ---------------------------------------------------------------- what users pass and save


@pytest.mark.parametrize(
    "number", [np.int64(SWITCH), np.int32(SWITCH), np.uint8(SWITCH)], ids=lambda n: type(n).__name__
)
def test_counts_from_numpy_mean_the_same_and_the_state_is_read_by_the_safe_loader(number: Any) -> None:
    """As in a sweep over numpy.arange; also beyond step 255, where the smallest of them end."""
    params, twins = weights(SHAPES, torch.float32), weights(SHAPES, torch.float32)
    optimizer = TMSGD([{"params": params, "step": 250}], 0.1, switch_step=number, restart_every=number)
    plain = TMSGD([{"params": twins, "step": 250}], 0.1, switch_step=SWITCH, restart_every=SWITCH)
    train(optimizer, params, range(12))
    train(plain, twins, range(12))
    assert_same_bits(held(optimizer, params), held(plain, twins))
    assert saved_and_loaded(optimizer.state_dict())["param_groups"] == plain.state_dict()["param_groups"]


@each_implementation
@pytest.mark.parametrize("moment", [0, 3, 6])
def test_an_optimizer_that_waits_is_sgd_until_it_is_switched_and_then_the_rule(
    moment: int, implementation: str
) -> None:
    skip_without(implementation)
    flags = IMPLEMENTATIONS[implementation]
    params, twins = weights(SHAPES, torch.float32), weights(SHAPES, torch.float32)
    waiting, planned = (
        TMSGD(params, 0.1, 0.5, switch_step="auto", **flags),
        TMSGD(twins, 0.1, 0.5, 0.0, moment, **flags),
    )
    for step in range(moment + 6):
        if step == moment:
            waiting.switch()
        train(waiting, params, range(step, step + 1))
        train(planned, twins, range(step, step + 1))
        assert_same_bits(held(waiting, params), held(planned, twins))
    assert waiting.param_groups[0]["switch_step"] == moment


@pytest.mark.parametrize("saved_at", [1, 3, 5], ids=["waiting", "just switched", "after the switch"])
def test_a_saved_state_keeps_whether_each_group_waits(saved_at: int) -> None:
    """One group waits until step 3, one switches at step 1 by plan, one never does."""
    params = weights(SHAPES, torch.float32)
    plans: tuple[dict[str, Any], ...] = ({"switch_step": "auto"}, {"switch_step": 1}, {"switch_step": 10**9})
    optimizer = TMSGD([{"params": [p], **plan} for p, plan in zip(params, plans, strict=True)], 0.1)
    copied, other = params, optimizer
    for step in range(10):
        if step == saved_at:
            copied = [Parameter(p.detach().clone()) for p in params]
            other = TMSGD([{"params": [p]} for p in copied], lr=3.0)
            other.load_state_dict(saved_and_loaded(optimizer.state_dict()))
        for own, chosen in {optimizer: params, other: copied}.items():
            if step == 3:
                own.param_groups[0]["switch_step"] = step
            train(own, chosen, range(step, step + 1))
    assert [group["switch_step"] for group in other.param_groups] == [3, 1, 10**9]
    assert_same_bits(held(optimizer, params), held(other, copied))
    assert [len(optimizer.state[p]) for p in params] == [2, 2, 0]


def test_switching_spares_the_groups_that_have_switched_and_moves_the_others_forward() -> None:
    params = weights(SHAPES, torch.float32)
    plans: tuple[dict[str, Any], ...] = ({"switch_step": "auto"}, {"switch_step": 1}, {"switch_step": 10**9})
    optimizer = TMSGD([{"params": [p], **plan} for p, plan in zip(params, plans, strict=True)], 0.1)
    train(optimizer, params, range(3))
    for _ in range(2):  # the second time there is nothing left to do
        optimizer.switch()
        assert [group["switch_step"] for group in optimizer.param_groups] == [3, 1, 3]
        train(optimizer, params, range(2))


def test_a_wait_before_the_switch_shows_in_a_new_group_too() -> None:
    first, second = weights([(3,), (4,)], torch.float32)
    optimizer = TMSGD([first], 0.1, switch_step="auto")
    train(optimizer, [first], range(2))
    optimizer.add_param_group({"params": [second]})
    assert [(group["switch_step"], group["step"]) for group in optimizer.param_groups] == [("auto", 2), ("auto", 2)]
    optimizer.switch()
    train(optimizer, [first, second], range(2, 5))
    assert all(len(optimizer.state[p]) == 2 for p in (first, second))


@pytest.mark.parametrize(
    "missing", list(itertools.combinations(("fused", "foreach", "maximize", "restart_every"), 2)), ids=str
)
def test_what_an_older_state_lacks_is_kept_as_this_optimizer_was_made(missing: tuple[str, ...]) -> None:
    """Of each group, not of the defaults."""
    own: dict[str, Any] = {"fused": False, "foreach": True, "maximize": True, "restart_every": 3}
    params, twins = weights([(3,)], torch.float32), weights([(3,)], torch.float32)
    saved = TMSGD([{"params": params}], 0.1, 0.5)
    train(saved, params, range(3))
    older = saved.state_dict()
    for name in missing:
        del older["param_groups"][0][name]
    other = TMSGD([{"params": twins, **own}], 1.0)
    other.load_state_dict(older)
    group = other.param_groups[0]
    assert {name: group[name] for name in missing} == {name: own[name] for name in missing}
    assert (group["step"], group["lr"], group["momentum"]) == (3, 0.1, 0.5)
