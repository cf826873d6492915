"""TM-SGD against a float64 recursion of the paper's eq. (8), against torch.optim.SGD, and as an optimizer of torch.

The recursion below is written on the weights themselves, as the paper prints it, and not on displacements.
"""

from __future__ import annotations

import ast
import copy
import doctest
import functools
import io
import itertools
import math
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, MultiStepLR

from tmsgd_bench.optim import TMSGD, MultistepScheme, kernels, tmsgd

Gradient = Callable[[int, Tensor], Tensor]

ROOT = Path(__file__).parents[2]
EQUATION_8 = (1.5, -1.0, 0.5, 1.0)
DTYPES = [torch.float64, torch.float32, torch.bfloat16]
FAMILY = [0.1, 1 / 3, 3 / 8, 1 / 2, 0.8]
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "weight_decay": {"weight_decay": 0.05},
    "maximize": {"maximize": True},
    "all": {"momentum": 0.7, "weight_decay": 0.05, "maximize": True},
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
either_kernel = pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])


# ---------------------------------------------------------------- the reference


def family(c: float) -> tuple[float, float, float, float]:
    return 3 * c, 1 - 4 * c, c, 2 - 2 * c


def recursion(
    start: Tensor,
    gradient: Gradient,
    rates: Sequence[float],
    *,
    scheme: Sequence[float] = EQUATION_8,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    maximize: bool = False,
    switch_step: int = 0,
    restart_every: int | None = None,
) -> Tensor:
    """All weights visited, in float64: W⁺ = a₀ W + a₁ W₋₁ + a₂ W₋₂ − b ε v, and W⁺ = W − ε v where history is short."""
    a0, a1, a2, b = scheme
    w = [start.double()]
    v: Tensor | None = None
    remembered = 0
    for k, rate in enumerate(rates):
        g = gradient(k, w[-1])
        g = (-g if maximize else g) + weight_decay * w[-1]
        v = g if v is None else momentum * v + g
        if restart_every is not None and k % restart_every == 0:
            remembered = 0
        if remembered < 2:
            w.append(w[-1] - rate * v)
        else:
            w.append(a0 * w[-1] + a1 * w[-2] + a2 * w[-3] - b * rate * v)
        remembered += k >= switch_step
    return torch.stack(w[1:])


def amplification(scheme: Sequence[float]) -> float:
    """Largest effect on a later weight of an error of 1 made in one step."""
    a0, a1, a2, _ = scheme
    response = [0.0, 0.0, 1.0]
    for _ in range(1000):
        response.append(a0 * response[-1] + a1 * response[-2] + a2 * response[-3])
    return max(abs(value) for value in response)


def rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def rounding(reference: Tensor, dtype: torch.dtype, scheme: Sequence[float], momentum: float = 0.0) -> float:
    """RMS error to expect of rounding: independent errors add as their squares, so N steps give √N of one.

    One step rounds W, of its own size, and the terms of u, of the size of a displacement; an error in the
    heavy ball is repeated 1 / (1 − μ) times. The reference has a float64 error of its own, which can add up
    as N: it sums three terms of the size of W, with weights whose rounded sum is not exactly 1.
    """
    weights = max(rms(w) for w in reference)
    displacements = max(rms(u) for u in reference.diff(dim=0))
    scale = weights + displacements / (1.0 - momentum)
    steps, own = len(reference), torch.finfo(torch.float64).eps
    return amplification(scheme) * scale * (math.sqrt(steps) * torch.finfo(dtype).eps + 2.0 * steps * own)


def assert_follows(visited: Tensor, reference: Tensor, tolerance: float) -> None:
    """Every weight visited is within rounding, in the mean over a tensor."""
    worst = max(rms(error) for error in visited.double() - reference)
    assert worst <= tolerance, f"{worst:.3g} exceeds {tolerance:.3g}"


def drive(
    optimizer: Optimizer, param: Tensor, gradient: Gradient, steps: int, scheduler: LRScheduler | None = None
) -> Tensor:
    """All weights visited by the optimizer, for a gradient that depends on the step and the weights."""
    visited = []
    for k in range(steps):
        param.grad = gradient(k, param.detach()).to(param.dtype, copy=True)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        visited.append(param.detach().clone())
    return torch.stack(visited)


def random_problem(steps: int, dtype: torch.dtype, size: int = 64, seed: int = 0) -> tuple[Tensor, Gradient]:
    """A start and gradients that are exact in ``dtype``, so that reference and optimizer see the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(size, generator=generator).to(dtype)
    gradients = torch.randn(steps, size, generator=generator).to(dtype).double()
    return start, lambda k, _: gradients[k]


def regression(dtype: torch.dtype) -> tuple[Tensor, Gradient]:
    """A real small loss: a tanh network with 4 hidden units on 16 points, its 17 weights in one vector."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(16, 2, generator=generator)
    targets = (inputs[:, :1] * inputs[:, 1:]).sin()
    start = torch.randn(17, generator=generator).to(dtype)

    def gradient(_: int, weights: Tensor) -> Tensor:
        theta = weights.detach().requires_grad_()
        x, y = inputs.to(theta.dtype), targets.to(theta.dtype)
        hidden = torch.tanh(x @ theta[:8].view(2, 4) + theta[8:12])
        loss = (hidden @ theta[12:16].view(4, 1) + theta[16] - y).square().mean()
        return torch.autograd.grad(loss, theta)[0]

    return start, gradient


# ---------------------------------------------------------------- eq. (8)


@pytest.mark.parametrize("c", FAMILY, ids="c={:.3g}".format)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_member_of_the_family_follows_its_rule_on_the_weights(c: float, dtype: torch.dtype) -> None:
    """20 steps of SGD, then 310 of the rule, with random gradients."""
    switch, steps, lr = 20, 330, 0.05
    start, gradient = random_problem(steps, dtype)
    param = Parameter(start.clone())
    visited = drive(TMSGD([param], lr, switch_step=switch, scheme=MultistepScheme.family(c)), param, gradient, steps)
    reference = recursion(start, gradient, [lr] * steps, scheme=family(c), switch_step=switch)
    assert_follows(visited, reference, rounding(reference, dtype, family(c)))


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(c=st.floats(0.05, 0.95), switch=st.integers(0, 6), seed=st.integers(0, 99))
def test_any_member_with_any_switch_follows_its_rule(c: float, switch: int, seed: int) -> None:
    steps, lr = 310 + switch, 0.1
    start, gradient = random_problem(steps, torch.float64, size=8, seed=seed)
    param = Parameter(start.clone())
    visited = drive(TMSGD([param], lr, switch_step=switch, scheme=MultistepScheme.family(c)), param, gradient, steps)
    reference = recursion(start, gradient, [lr] * steps, scheme=family(c), switch_step=switch)
    assert_follows(visited, reference, rounding(reference, torch.float64, family(c)))


@variants
@either_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_momentum_weight_decay_and_maximize_enter_equation_8_in_place_of_the_gradient(
    dtype: torch.dtype, foreach: bool, options: dict[str, Any]
) -> None:
    switch, steps, lr = 10, 320, 0.03
    start, gradient = random_problem(steps, dtype)
    param = Parameter(start.clone())
    visited = drive(TMSGD([param], lr, switch_step=switch, foreach=foreach, **options), param, gradient, steps)
    reference = recursion(start, gradient, [lr] * steps, switch_step=switch, **options)
    assert_follows(visited, reference, rounding(reference, dtype, EQUATION_8, options.get("momentum", 0.0)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_training_on_a_real_loss_follows_equation_8(dtype: torch.dtype, momentum: float) -> None:
    """Here the gradient depends on the weights, so an error of one step could grow in the next ones."""
    switch, steps, lr = 30, 350, 0.05
    start, gradient = regression(dtype)
    param = Parameter(start.clone())
    visited = drive(TMSGD([param], lr, momentum, switch_step=switch), param, gradient, steps)
    reference = recursion(start, gradient, [lr] * steps, switch_step=switch, momentum=momentum)
    assert rms(reference[-1] - reference[switch]) > 0.1  # the loss is still being learned after the switch
    assert_follows(visited, reference, rounding(reference, dtype, EQUATION_8, momentum))


def test_a_rate_that_falls_before_at_and_after_the_switch_enters_each_step_at_once() -> None:
    """MultiStepLR, ×0.5 at steps 4, 10 (the switch), 11 and 100: ε is that of the step, in the Euler steps too."""
    switch, steps, lr = 10, 320, 0.08
    start, gradient = random_problem(steps, torch.float64)
    rates = [lr * 0.5 ** sum(k >= milestone for milestone in (4, 10, 11, 100)) for k in range(steps)]
    param = Parameter(start.clone())
    optimizer = TMSGD([param], lr, switch_step=switch)
    visited = drive(optimizer, param, gradient, steps, MultiStepLR(optimizer, [4, 10, 11, 100], gamma=0.5))
    reference = recursion(start, gradient, rates, switch_step=switch)
    assert_follows(visited, reference, rounding(reference, torch.float64, EQUATION_8))


@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
def test_a_linear_warm_up_across_the_switch_enters_each_step_at_once(tensor: bool) -> None:
    switch, steps, lr = 5, 320, 0.0625
    start, gradient = random_problem(steps, torch.float64)
    rates = [lr * (0.25 + 0.75 * min(k, 12) / 12) for k in range(steps)]
    param = Parameter(start.clone())
    rate = torch.tensor(lr, dtype=torch.float64) if tensor else lr
    optimizer = TMSGD([param], rate, switch_step=switch)
    visited = drive(optimizer, param, gradient, steps, LinearLR(optimizer, 0.25, total_iters=12))
    reference = recursion(start, gradient, rates, switch_step=switch)
    assert_follows(visited, reference, rounding(reference, torch.float64, EQUATION_8))


@pytest.mark.parametrize("switch", [0, 1, 4])
def test_the_first_two_steps_after_the_switch_are_euler_steps_and_the_third_is_not(switch: int) -> None:
    lr, steps = 0.25, switch + 3
    start, gradient = random_problem(steps, torch.float64)
    param, plain = Parameter(start.clone()), Parameter(start.clone())
    visited = drive(TMSGD([param], lr, switch_step=switch), param, gradient, steps)
    euler = drive(SGD([plain], lr), plain, gradient, steps)
    torch.testing.assert_close(visited[: switch + 2], euler[: switch + 2], rtol=1e-14, atol=1e-14)
    w2, w1, w = (start, *visited)[-4:-1]
    expected = 1.5 * w - w1 + 0.5 * w2 - lr * gradient(steps - 1, w)
    torch.testing.assert_close(visited[-1], expected, rtol=1e-14, atol=1e-14)
    assert rms(visited[-1] - euler[-1]) > 0.01


def test_under_a_constant_gradient_a_step_settles_at_the_rate_times_the_gradient() -> None:
    """The same effective learning rate as SGD, with clipping by norm applied before."""
    slope = torch.tensor([30.0, 40.0], dtype=torch.float64)
    param = Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = TMSGD([param], lr=0.1, switch_step=2)
    before = param.detach().clone()
    for k in range(120):
        param.grad = slope * (1.0 + 9.0 * (k == 2))  # a jump in the gradient that clipping removes
        torch.nn.utils.clip_grad_norm_([param], max_norm=5.0)
        before = param.detach().clone()
        optimizer.step()
    # The clip divides by the norm + 1e-6.
    torch.testing.assert_close(param.detach() - before, -0.1 * torch.tensor([3.0, 4.0]).double(), rtol=1e-6, atol=0.0)


def test_clipped_gradients_are_those_the_history_is_made_of() -> None:
    steps, lr = 40, 0.1
    start, gradient = random_problem(steps, torch.float64)

    def clipped(k: int, weights: Tensor) -> Tensor:
        raw = gradient(k, weights)
        return raw * (1.0 / (raw.norm() + 1e-6)).clamp(max=1.0)

    param = Parameter(start.clone())
    optimizer = TMSGD([param], lr, switch_step=3)
    for k in range(steps):
        param.grad = gradient(k, param).clone()
        torch.nn.utils.clip_grad_norm_([param], max_norm=1.0)
        optimizer.step()
    reference = recursion(start, clipped, [lr] * steps, switch_step=3)
    assert_follows(param.detach()[None], reference[-1:], rounding(reference, torch.float64, EQUATION_8))


def test_the_difference_form_rounds_less_than_equation_8_as_printed() -> None:
    """In float32, over 64 weights and 400 steps: the printed form sums three terms of the size of W."""
    steps, lr = 400, 0.05
    start, gradient = random_problem(steps, torch.float32)
    param = Parameter(start.clone())
    visited = drive(TMSGD([param], lr), param, gradient, steps)
    printed = [start, *visited[:2]]
    for k in range(2, steps):
        g = gradient(k, printed[-1]).float()
        printed.append(1.5 * printed[-1] - printed[-2] + 0.5 * printed[-3] - lr * g)
    reference = recursion(start, gradient, [lr] * steps)
    assert rms(visited[-1] - reference[-1]) < rms(printed[-1] - reference[-1])


# ---------------------------------------------------------------- SGD before the switch


def layers(dtype: torch.dtype, seed: int = 0) -> list[Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes: list[tuple[int, ...]] = [(4, 3), (4,), (2, 4, 1), ()]
    return [Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def step_with(optimizer: Optimizer, params: Sequence[Tensor], k: int) -> None:
    """One step with the gradients that belong to step ``k``."""
    generator = torch.Generator().manual_seed(1000 + k)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
    optimizer.step()


def assert_same_bits(ones: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert torch.equal(one, other)


@variants
@either_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tensor", [False, True], ids=["float lr", "tensor lr"])
def test_before_the_switch_every_bit_is_that_of_torch_sgd(
    dtype: torch.dtype, foreach: bool, options: dict[str, Any], tensor: bool
) -> None:
    ours, theirs = layers(dtype), layers(dtype)
    lr = torch.tensor(0.1) if tensor else 0.1
    optimizer = TMSGD(ours, lr, switch_step=8, foreach=foreach, **options)
    sgd = SGD(theirs, lr, foreach=foreach, **options)
    for k in range(8):
        step_with(optimizer, ours, k)
        step_with(sgd, theirs, k)
        assert_same_bits(ours, theirs)
    for p, q in zip(ours, theirs, strict=True):
        assert optimizer.state[p].keys() == sgd.state[q].keys()
        assert_same_bits(list(optimizer.state[p].values()), list(sgd.state[q].values()))


def tensors_held(optimizer: Optimizer, p: Tensor) -> list[Tensor]:
    return list(optimizer.state[p].values())


@either_kernel
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_history_is_nothing_before_the_switch_and_two_tensors_like_the_parameter_after_it(
    dtype: torch.dtype, momentum: float, foreach: bool
) -> None:
    params = layers(dtype)
    optimizer = TMSGD(params, 0.1, momentum, switch_step=3, foreach=foreach)
    buffers = int(momentum != 0)
    for k, history in enumerate([0, 0, 0, 1, 2, 2, 2]):
        step_with(optimizer, params, k)
        for p in params:
            held = tensors_held(optimizer, p)
            assert len(held) == history + buffers
            assert all((t.shape, t.dtype, t.device) == (p.shape, p.dtype, p.device) for t in held)
            assert len({t.data_ptr() for t in (p, p.grad, *held) if t is not None}) == len(held) + 2  # none is shared


@variants
@either_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_euler_scheme_stays_sgd_within_rounding_after_the_switch(
    dtype: torch.dtype, foreach: bool, options: dict[str, Any]
) -> None:
    steps, lr = 100, 0.05
    start, gradient = random_problem(steps, dtype)
    ours, theirs = Parameter(start.clone()), Parameter(start.clone())
    optimizer = TMSGD([ours], lr, switch_step=4, scheme="euler", foreach=foreach, **options)
    visited = drive(optimizer, ours, gradient, steps)
    expected = drive(SGD([theirs], lr, **options), theirs, gradient, steps).double()
    assert_follows(visited, expected, rounding(expected, dtype, (1, 0, 0, 1), options.get("momentum", 0.0)))


def test_ascending_a_loss_is_descending_its_negative() -> None:
    start, gradient = random_problem(30, torch.float32)
    up, down = Parameter(start.clone()), Parameter(start.clone())
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "switch_step": 5}
    climbed = drive(TMSGD([up], maximize=True, **options), up, gradient, 30)
    descended = drive(TMSGD([down], **options), down, lambda k, w: -gradient(k, w), 30)
    assert torch.equal(climbed, descended)


# ---------------------------------------------------------------- two kernels


@variants
def test_on_the_cpu_both_kernels_and_the_default_agree_bit_for_bit(options: dict[str, Any]) -> None:
    """Over mixed dtypes, and with parameters whose histories have different lengths."""
    results = []
    for foreach in (False, True, None):
        params = layers(torch.float32) + layers(torch.float64)
        optimizer = TMSGD(
            params, 0.1, switch_step=3, restart_every=9, scheme="nine_eighths", foreach=foreach, **options
        )
        for k in range(25):
            step_with(optimizer, params[k % 3 :], k)
            optimizer.zero_grad()
        results.append([*params, *(t for p in params for t in tensors_held(optimizer, p))])
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])


@variants
def test_both_kernels_agree_within_rounding_in_bfloat16(options: dict[str, Any]) -> None:
    """Not bit for bit: on the CPU torch._foreach_mul_ first rounds its factor, such as μ, to bfloat16, in SGD too."""
    steps = 100
    start, gradient = random_problem(steps, torch.bfloat16)
    visited = []
    for foreach in (False, True):
        param = Parameter(start.clone())
        visited.append(drive(TMSGD([param], 0.03, switch_step=5, foreach=foreach, **options), param, gradient, steps))
    loop, together = visited
    tolerance = 2.0 * rounding(loop.double(), torch.bfloat16, EQUATION_8, options.get("momentum", 0.0))
    assert_follows(together, loop.double(), tolerance)


# ---------------------------------------------------------------- saving and continuing

SWITCH = 5
MOMENTS = {"before": 2, "at": SWITCH, "one after": SWITCH + 1, "two after": SWITCH + 2, "long after": 40}
CONTINUED = 12
moments = pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
Pair = tuple[list[Parameter], Optimizer]
RESUMABLE: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "switch_step": SWITCH}


def trained(moment: int) -> Pair:
    params = layers(torch.float32)
    optimizer = TMSGD(params, restart_every=50, scheme="nine_eighths", **RESUMABLE)
    for k in range(moment):
        step_with(optimizer, params, k)
    return params, optimizer


def fresh_pair(weights: Sequence[Tensor]) -> Pair:
    """An optimizer of defaults on copied weights: everything that matters must come from the state."""
    params = [Parameter(w.detach().clone()) for w in weights]
    return params, TMSGD(params, lr=1.0, momentum=0.1)


def by_state_dict(params: list[Parameter], optimizer: Optimizer) -> Pair:
    copied, other = fresh_pair(params)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return copied, other


def by_torch_save(params: list[Parameter], optimizer: Optimizer) -> Pair:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    copied, other = fresh_pair(params)
    other.load_state_dict(torch.load(file, weights_only=True))
    return copied, other


def by_deepcopy(params: list[Parameter], optimizer: Optimizer) -> Pair:
    return copy.deepcopy((params, optimizer))


def by_pickle(params: list[Parameter], optimizer: Optimizer) -> Pair:
    return pickle.loads(pickle.dumps((params, optimizer)))


@moments
@pytest.mark.parametrize("transport", [by_state_dict, by_torch_save, by_deepcopy, by_pickle])
def test_a_saved_optimizer_continues_with_the_same_bits(
    moment: int, transport: Callable[[list[Parameter], Optimizer], Pair]
) -> None:
    params, optimizer = trained(moment)
    copied, other = transport(params, optimizer)
    for k in range(moment, moment + CONTINUED):
        step_with(other, copied, k)
    assert not torch.equal(params[0], copied[0])  # the copy went on alone
    for k in range(moment, moment + CONTINUED):
        step_with(optimizer, params, k)
    assert_same_bits(params, copied)


RESUME = """
import sys, torch
from tmsgd_bench.optim import TMSGD
saved = torch.load(sys.argv[1], weights_only=True)
runs = []
for run in saved:
    params = [torch.nn.Parameter(w) for w in run["weights"]]
    optimizer = TMSGD(params, lr=1.0)
    optimizer.load_state_dict(run["optimizer"])
    for gradients in run["gradients"]:
        for p, g in zip(params, gradients, strict=True):
            p.grad = g
        optimizer.step()
    runs.append([p.detach() for p in params])
torch.save(runs, sys.argv[2])
"""


@pytest.mark.slow
def test_another_process_continues_with_the_same_bits(tmp_path: Path) -> None:
    """From every moment at once, since a process takes seconds to start."""
    pairs, saved = [trained(moment) for moment in MOMENTS.values()], []
    for (params, optimizer), moment in zip(pairs, MOMENTS.values(), strict=True):
        weights = [p.detach().clone() for p in params]
        state = copy.deepcopy(optimizer.state_dict())
        gradients = []
        for k in range(moment, moment + CONTINUED):
            step_with(optimizer, params, k)
            gradients.append([p.grad for p in params])
        saved.append({"weights": weights, "optimizer": state, "gradients": gradients})
    before, after = tmp_path / "before.pt", tmp_path / "after.pt"
    torch.save(saved, before)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", RESUME, str(before), str(after)], check=True, env=environment, cwd=tmp_path)
    for (params, _), resumed in zip(pairs, torch.load(after, weights_only=True), strict=True):
        assert_same_bits(params, resumed)


def test_a_state_saved_without_the_newer_options_loads_with_their_defaults() -> None:
    params, optimizer = trained(10)
    state = copy.deepcopy(optimizer.state_dict())
    for name in ("restart_every", "foreach", "maximize"):
        del state["param_groups"][0][name]
    copied, other = fresh_pair(params)
    other.load_state_dict(state)
    for k in range(10, 30):
        step_with(optimizer, params, k)
        step_with(other, copied, k)
    assert_same_bits(params, copied)


def test_a_resumed_run_with_a_scheduler_continues_with_the_same_bits() -> None:
    def make(lr: float) -> tuple[list[Parameter], Optimizer, LRScheduler]:
        params = layers(torch.float32)
        optimizer = TMSGD(params, lr, switch_step=SWITCH)
        return params, optimizer, MultiStepLR(optimizer, [4, 6, 9], gamma=0.5)

    params, optimizer, scheduler = make(0.1)
    copied, other, twin = make(0.1)
    for k in range(20):
        if k == 6:
            other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            twin.load_state_dict(copy.deepcopy(scheduler.state_dict()))
            with torch.no_grad():
                for p, q in zip(params, copied, strict=True):
                    q.copy_(p)
        step_with(optimizer, params, k)
        scheduler.step()
        if k >= 6:
            step_with(other, copied, k)
            twin.step()
    assert_same_bits(params, copied)
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == 0.1 * 0.5**3


# ---------------------------------------------------------------- parameter groups


def test_groups_with_their_own_options_behave_as_optimizers_of_their_own() -> None:
    options: list[dict[str, Any]] = [
        {"lr": 0.1, "switch_step": 2},
        {"lr": 0.02, "scheme": "nine_eighths", "momentum": 0.5},
        {"lr": torch.tensor(0.3), "switch_step": 7, "scheme": family(0.25), "weight_decay": 0.1},
        {"lr": 0.05, "switch_step": 10**9, "maximize": True},
        {"lr": 0.05, "restart_every": 4, "foreach": True},
    ]
    together = [layers(torch.float32, seed) for seed in range(len(options))]
    apart = [layers(torch.float32, seed) for seed in range(len(options))]
    joint = TMSGD([{"params": p, **o} for p, o in zip(together, options, strict=True)], lr=1.0)
    single = [TMSGD(p, **o) for p, o in zip(apart, options, strict=True)]
    for k in range(25):
        generator = torch.Generator().manual_seed(k)
        for ps, qs in zip(together, apart, strict=True):
            for p, q in zip(ps, qs, strict=True):
                p.grad = torch.randn(p.shape, generator=generator)
                q.grad = p.grad.clone()
        joint.step()
        for optimizer in single:
            optimizer.step()
    assert_same_bits(list(itertools.chain(*together)), list(itertools.chain(*apart)))


def test_a_group_without_options_of_its_own_takes_the_defaults() -> None:
    first, second = layers(torch.float32, 1), layers(torch.float32, 2)
    grouped = TMSGD([{"params": first[:2]}, {"params": first[2:]}], 0.1, 0.9, 0.01, 3, scheme="nine_eighths")
    flat = TMSGD(second, 0.1, 0.9, 0.01, 3, scheme="nine_eighths")
    with torch.no_grad():
        for p, q in zip(first, second, strict=True):
            p.copy_(q)
    for k in range(12):
        step_with(grouped, first, k)
        step_with(flat, second, k)
    assert_same_bits(first, second)


def test_schedulers_change_the_rate_of_each_group_in_proportion() -> None:
    params = layers(torch.float32)
    optimizer = TMSGD([{"params": params[:2]}, {"params": params[2:], "lr": 0.5}], lr=1.0, switch_step=2)
    scheduler = MultiStepLR(optimizer, [1, 3], gamma=0.25)
    rates = []
    for k in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        step_with(optimizer, params, k)
        scheduler.step()
    assert rates == [[1.0, 0.5], [0.25, 0.125], [0.25, 0.125], [0.0625, 0.03125]]


@pytest.mark.parametrize("joins_at", [0, 2, 4, 9])
def test_a_group_added_later_joins_at_the_step_the_others_have_reached(joins_at: int) -> None:
    """It switches together with them: what remains of the SGD steps, then the rule from its own two Euler steps."""
    switch, steps = 4, 16
    old, new, alone = (Parameter(torch.full((3,), value, dtype=torch.float64)) for value in (1.0, 2.0, 2.0))
    optimizer = TMSGD([old], lr=0.1, switch_step=switch)
    for k in range(joins_at):
        step_with(optimizer, [old], k)
    optimizer.add_param_group({"params": [new]})
    late = TMSGD([alone], lr=0.1, switch_step=max(switch - joins_at, 0))
    for k in range(joins_at, steps):
        step_with(optimizer, [new, old], k)
        step_with(late, [alone], k)
    assert torch.equal(new, alone)


def test_a_group_that_is_refused_leaves_the_optimizer_as_it_was() -> None:
    params = layers(torch.float32)
    optimizer = TMSGD(params[:2], lr=0.1)
    with pytest.raises(ValueError, match="Invalid learning rate"):
        optimizer.add_param_group({"params": params[2:], "lr": -1.0})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": params[2:]})
    assert optimizer.param_groups[1]["lr"] == 0.1


# ---------------------------------------------------------------- missing and unusual gradients


@either_kernel
def test_a_parameter_without_gradient_rests_and_goes_on_from_its_own_history(foreach: bool) -> None:
    """After the switch its weights are those of an optimizer that sees only the steps with a gradient."""
    params, alone = layers(torch.float32), Parameter(torch.empty(4, 3))
    alone.data.copy_(params[0])
    optimizer = TMSGD(params, 0.1, 0.9, 0.01, foreach=foreach)
    skipping = TMSGD([alone], 0.1, 0.9, 0.01)
    for k in range(20):
        rests = k in (1, 2, 6, 7, 13)
        step_with(optimizer, params[1:] if rests else params, k)
        if not rests:
            alone.grad = params[0].grad
            skipping.step()
        assert torch.equal(params[0], alone)
        optimizer.zero_grad()


def test_a_parameter_whose_first_gradient_comes_after_the_switch_starts_with_euler_steps() -> None:
    early, late = Parameter(torch.zeros(2, dtype=torch.float64)), Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = TMSGD([early, late], lr=0.5, switch_step=2)
    for k in range(6):
        step_with(optimizer, [early], k)
    start, gradient = random_problem(20, torch.float64, size=2)
    with torch.no_grad():
        late.copy_(start)
    early.grad = None
    visited = drive(optimizer, late, gradient, 20)
    reference = recursion(start, gradient, [0.5] * 20)
    assert_follows(visited, reference, rounding(reference, torch.float64, EQUATION_8))


def test_steps_count_even_if_no_parameter_has_a_gradient() -> None:
    param = Parameter(torch.ones(3))
    optimizer = TMSGD([param], lr=0.1, switch_step=2)
    optimizer.step()
    optimizer.step()
    assert torch.equal(param.detach(), torch.ones(3))
    step_with(optimizer, [param], 0)
    assert len(tensors_held(optimizer, param)) == 1


def test_a_gradient_set_to_none_stops_a_weight_and_one_set_to_zero_lets_its_history_run_out() -> None:
    lr, steps = 0.1, 30
    start, gradient = random_problem(steps, torch.float64)
    stopped, running = Parameter(start.clone()), Parameter(start.clone())
    for param, set_to_none in ((stopped, True), (running, False)):
        optimizer = TMSGD([param], lr)
        drive(optimizer, param, gradient, 10)
        reached = param.detach().clone()
        for _ in range(steps - 10):
            optimizer.zero_grad(set_to_none=set_to_none)
            optimizer.step()
        assert torch.equal(param.detach(), reached) == set_to_none
    reference = recursion(start, lambda k, w: gradient(k, w) * (k < 10), [lr] * steps)
    assert_follows(running.detach()[None], reference[-1:], rounding(reference, torch.float64, EQUATION_8))


def test_a_rate_of_zero_moves_nothing_from_a_standing_start() -> None:
    params = layers(torch.float32)
    before = [p.detach().clone() for p in params]
    optimizer = TMSGD(params, lr=0.0, switch_step=2)
    for k in range(8):
        step_with(optimizer, params, k)
    assert_same_bits(params, before)


@variants
@either_kernel
def test_a_complex_parameter_moves_as_the_pair_of_its_real_and_imaginary_parts(
    foreach: bool, options: dict[str, Any]
) -> None:
    generator = torch.Generator().manual_seed(0)
    whole = Parameter(torch.randn(5, 3, dtype=torch.complex128, generator=generator))
    parts = Parameter(torch.view_as_real(whole.detach()).clone())
    optimizers = [TMSGD([p], 0.1, switch_step=3, foreach=foreach, **options) for p in (whole, parts)]
    for _ in range(30):
        whole.grad = torch.randn(5, 3, dtype=torch.complex128, generator=generator)
        parts.grad = torch.view_as_real(whole.grad).clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(torch.view_as_real(whole.detach()), parts.detach(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("switch", [0, 10])
def test_a_sparse_gradient_is_refused_before_anything_moves_and_the_named_fix_works(switch: int) -> None:
    for sparse in (True, False):
        embedding = torch.nn.Embedding(4, 2, sparse=sparse)
        dense = Parameter(torch.ones(2))
        optimizer = TMSGD([dense, *embedding.parameters()], lr=0.1, switch_step=switch)
        (embedding(torch.tensor([1, 2])) * dense).sum().backward()
        before = dense.detach().clone()
        if sparse:
            with pytest.raises(RuntimeError, match=r"sparse gradients.*build the embedding with sparse=False"):
                optimizer.step()
            assert torch.equal(dense.detach(), before)
            assert all(not held for held in optimizer.state.values())
        else:
            optimizer.step()
            assert not torch.equal(dense.detach(), before)


@either_kernel
def test_strides_change_nothing_and_are_kept(foreach: bool) -> None:
    """Transposed, channels-last and sliced parameters, with gradients of their strides, of others, and expanded."""
    generator = torch.Generator().manual_seed(0)
    bases = [torch.randn(4, 6, generator=generator), torch.randn(2, 3, 4, 4, generator=generator)]
    strided = [
        Parameter(bases[0].t()),
        Parameter(bases[1].to(memory_format=torch.channels_last)),
        Parameter(bases[0].clone()[:, ::2]),
    ]
    packed = [Parameter(p.detach().clone(memory_format=torch.contiguous_format)) for p in strided]
    strides = [p.stride() for p in strided]
    one = TMSGD(strided, 0.1, 0.9, 0.01, 3, foreach=foreach)
    other = TMSGD(packed, 0.1, 0.9, 0.01, 3)
    for k in range(15):
        for p, q in zip(strided, packed, strict=True):
            if k % 3 == 0:
                p.grad = torch.randn(1, generator=generator).expand(p.shape)
            elif k % 3 == 1:
                p.grad = torch.randn(p.shape, generator=generator)
            else:
                p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
            q.grad = p.grad.clone(memory_format=torch.contiguous_format)
        one.step()
        other.step()
    assert_same_bits(strided, packed)
    assert [p.stride() for p in strided] == strides


@either_kernel
def test_a_parameter_without_elements_is_carried_along(foreach: bool) -> None:
    empty, full, alone = Parameter(torch.empty(0, 3)), Parameter(torch.ones(2)), Parameter(torch.ones(2))
    optimizer = TMSGD([empty, full], 0.1, 0.9, 0.01, 2, foreach=foreach)
    single = TMSGD([alone], 0.1, 0.9, 0.01, 2)
    for k in range(10):
        step_with(optimizer, [empty, full], k)
        step_with(single, [alone], k)
    assert torch.equal(full, alone)
    assert empty.shape == (0, 3)


# ---------------------------------------------------------------- closures and restarts


def test_a_closure_is_called_once_with_gradients_enabled_and_its_loss_is_returned() -> None:
    weight, twin = Parameter(torch.full((2,), 3.0)), Parameter(torch.full((2,), 3.0))
    with_closure, without = TMSGD([weight], 0.1, switch_step=2), TMSGD([twin], 0.1, switch_step=2)
    calls = []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        with_closure.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    for k in range(8):
        twin.grad = 2.0 * twin.detach()
        expected = twin.detach().square().sum()
        with torch.no_grad():
            assert torch.equal(with_closure.step(closure), expected)
        assert without.step() is None
        assert calls == [True] * (k + 1)
        assert torch.equal(weight, twin)


def test_a_step_leaves_no_graph_behind() -> None:
    param = Parameter(torch.ones(2))
    optimizer = TMSGD([param], 0.1, 0.9, 0.01)
    for _ in range(4):
        param.grad = (param * 2.0).clone()  # a gradient that itself needs gradients
        optimizer.step()
    assert param.is_leaf
    assert param.requires_grad
    assert not any(held.requires_grad for held in tensors_held(optimizer, param))


@either_kernel
@pytest.mark.parametrize("switch", [0, 5, 8])
@pytest.mark.parametrize("every", [3, 4, 7, 1000])
def test_a_restart_forgets_the_history_at_every_multiple_of_its_steps(every: int, switch: int, foreach: bool) -> None:
    """Two Euler steps follow each restart; before the switch there is nothing to forget. Momentum is kept."""
    steps, lr = 40, 0.1
    start, gradient = random_problem(steps, torch.float64)
    param = Parameter(start.clone())
    optimizer = TMSGD([param], lr, 0.5, switch_step=switch, restart_every=every, foreach=foreach)
    visited = drive(optimizer, param, gradient, steps)
    reference = recursion(start, gradient, [lr] * steps, momentum=0.5, switch_step=switch, restart_every=every)
    assert_follows(visited, reference, rounding(reference, torch.float64, EQUATION_8, 0.5))


@pytest.mark.parametrize("every", [1, 2])
def test_a_rule_restarted_before_its_history_is_full_is_sgd(every: int) -> None:
    start, gradient = random_problem(60, torch.float64)
    ours, theirs = Parameter(start.clone()), Parameter(start.clone())
    visited = drive(TMSGD([ours], 0.1, 0.9, restart_every=every), ours, gradient, 60)
    expected = drive(SGD([theirs], 0.1, 0.9), theirs, gradient, 60)
    assert_follows(visited, expected, rounding(expected, torch.float64, (1, 0, 0, 1), 0.9))


# ---------------------------------------------------------------- options out of range

REFUSED: list[tuple[dict[str, Any], str]] = [
    *(({"lr": value}, "Invalid learning rate") for value in (-0.1, -1e-300, math.nan, math.inf, -math.inf)),
    ({"lr": torch.tensor(-0.1)}, "Invalid learning rate"),
    ({"lr": torch.tensor(math.nan)}, "Invalid learning rate"),
    ({"lr": torch.tensor([0.1, 0.1])}, "Tensor lr must be 1-element"),
    ({"lr": torch.tensor([])}, "Tensor lr must be 1-element"),
    *(({"momentum": value}, "Invalid momentum value") for value in (-0.9, math.nan, math.inf)),
    *(({"weight_decay": value}, "Invalid weight_decay value") for value in (-1e-4, math.nan, math.inf)),
    *(
        ({"switch_step": value}, "Invalid switch_step value: .*, must be an integer >= 0")
        for value in (-1, 1.5, 2.0, True, "3", math.nan)
    ),
    *(
        ({"restart_every": value}, "Invalid restart_every value: .*, must be an integer >= 1 or None")
        for value in (0, -3, 1.5, True, "3")
    ),
    *(({name: None}, "Invalid .*: None, must be a finite number >= 0") for name in ("lr", "momentum", "weight_decay")),
    ({"lr": "fast"}, "Invalid learning rate: 'fast', must be a finite number >= 0"),
    ({"lr": 10**400}, "Invalid learning rate: 10*, must be a finite number >= 0"),
    ({"weight_decay": torch.ones(2)}, r"Invalid weight_decay value: tensor\(.*\), must be a finite number >= 0"),
    *(({name: "yes"}, f"Invalid {name} value: 'yes', must be one of") for name in ("maximize", "foreach", "fused")),
    ({"maximize": None}, "Invalid maximize value: None, must be one of True, False"),
    *(({"scheme": value}, f"a scheme is a name, .* not {value}") for value in (3, None)),
    ({"scheme": ("a", 0, 0, 1)}, "a scheme is a name, .* not "),
    ({"scheme": "adams"}, "unknown scheme 'adams': choose one of euler, taylor3, nine_eighths"),
    ({"scheme": (1.5, -1.0, 0.4, 1.0)}, "not consistent: its weights sum to 0.9, not 1"),
    ({"scheme": (1.5, -1.0, 0.5, 0.5)}, r"not consistent: its gain must be 1 \+ a1 \+ 2 a2 = 1, not 0.5"),
    ({"scheme": (1.5, -1.0, 0.5)}, "weights sum to 0.5"),
    ({"scheme": (math.nan, -1.0, 0.5, 1.0)}, "finite"),
    *(({"scheme": family(c)}, "not zero-stable") for c in (0.0, 1.0, 1.2)),
]
refused = pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda value: str(value)[:50])


@refused
def test_an_option_out_of_its_range_is_refused_with_its_reason(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TMSGD([Parameter(torch.ones(2))], **{"lr": 0.1, **options})


@refused
def test_an_option_of_a_group_out_of_its_range_is_refused_alike(options: dict[str, Any], message: str) -> None:
    first, second = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=message):
        TMSGD([{"params": [first]}, {"params": [second], **options}], lr=0.1)
    optimizer = TMSGD([first], lr=0.1)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [second], **options})


def test_only_the_optimizer_itself_may_leave_the_switch_step_open() -> None:
    first, second = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="Invalid switch_step value: None, must be an integer >= 0"):
        TMSGD([{"params": [first]}, {"params": [second], "switch_step": None}], lr=0.1)


def test_foreach_is_refused_by_name_where_torch_lacks_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    param = Parameter(torch.ones(2))
    made_before = TMSGD([param], 0.1, foreach=True)
    monkeypatch.delattr(torch, "_foreach_copy_")
    with pytest.raises(RuntimeError, match=r"has no torch\._foreach_copy_\. Say foreach=False"):
        TMSGD([param], 0.1, foreach=True)
    with pytest.raises(RuntimeError, match=r"has no torch\._foreach_copy_\. Say foreach=False"):
        step_with(made_before, [param], 0)
    assert torch.equal(param.detach(), torch.ones(2))
    step_with(TMSGD([param], 0.1, foreach=False), [param], 0)


def test_where_foreach_would_be_the_choice_but_cannot_be_had_the_loop_steps_and_one_warning_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, gradient = random_problem(10, torch.float32)
    theirs, ours = Parameter(start.clone()), Parameter(start.clone())
    expected = drive(TMSGD([theirs], 0.1, fused=False, foreach=False), theirs, gradient, 5)
    monkeypatch.setattr(kernels, "FOREACH_DEVICES", frozenset(("cpu",)))
    monkeypatch.delattr(torch, "_foreach_mul")
    monkeypatch.setattr(tmsgd, "_warn_of_the_loop", functools.cache(tmsgd._warn_of_the_loop.__wrapped__))
    with pytest.warns(
        RuntimeWarning, match=r"steps with a loop, more slowly: .* has no torch\._foreach_mul\."
    ) as caught:
        visited = drive(TMSGD([ours], 0.1, switch_step=0, fused=False), ours, gradient, 5)
    assert len(caught) == 1
    assert torch.equal(visited, expected)


def private_names(source: Path) -> set[str]:
    """What a module takes from torch under names that begin with an underscore."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch."):
            names |= {*ast.unparse(node).split(".")[1:]}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
    return {name for name in names if name.startswith("_") and not name.endswith("__")}


def test_nothing_private_is_taken_from_torch_but_what_foreach_looks_for_before_it_steps() -> None:
    sources = (ROOT / "tmsgd_bench" / "optim").rglob("*.py")
    taken = {source.name: names for source in sources if (names := private_names(source))}
    assert taken == {"kernels.py": {*kernels.FOREACH_FUNCTIONS}}


@pytest.mark.parametrize("option", ["nesterov", "dampening", "switch_epoch", "step"])
def test_an_unknown_keyword_is_refused(option: str) -> None:
    options: dict[str, Any] = {"lr": 0.1, option: 1}
    with pytest.raises(TypeError, match=option):
        TMSGD([Parameter(torch.ones(2))], **options)


def test_a_forgotten_switch_step_starts_at_once_with_a_warning_that_points_to_the_call() -> None:
    with pytest.warns(UserWarning, match="no switch_step was given") as caught:
        optimizer = TMSGD([Parameter(torch.ones(2))], lr=0.1)
    assert optimizer.param_groups[0]["switch_step"] == 0
    assert caught[0].filename == __file__


@pytest.mark.parametrize("switch_step", [0, 5, "auto"])
def test_a_switch_step_that_is_given_causes_no_warning(switch_step: Any) -> None:
    one, other = Parameter(torch.ones(2)), Parameter(torch.ones(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.deepcopy(TMSGD([one], lr=0.1, switch_step=switch_step))
        if switch_step:
            TMSGD([{"params": [one], "switch_step": switch_step}, {"params": [other], "switch_step": 3}], lr=0.1)


def test_the_limits_of_the_ranges_belong_to_them() -> None:
    param = Parameter(torch.ones(2))
    optimizer = TMSGD([param], lr=0, momentum=0, weight_decay=0, switch_step=0, restart_every=1)
    step_with(optimizer, [param], 0)
    assert torch.equal(param.detach(), torch.ones(2))


@pytest.mark.parametrize(
    "scheme",
    [
        pytest.param(lambda: MultistepScheme.family(0.5), id="scheme"),
        pytest.param(lambda: list(EQUATION_8), id="list"),
        pytest.param(lambda: torch.tensor(EQUATION_8), id="tensor"),
        pytest.param(lambda: iter(EQUATION_8), id="iterator"),
    ],
)
def test_coefficients_may_come_from_any_iterable(scheme: Callable[[], Any]) -> None:
    """As the annotation says: one that can be read only once counts as well."""
    start, gradient = random_problem(10, torch.float64)
    named, given_as = Parameter(start.clone()), Parameter(start.clone())
    expected = drive(TMSGD([named], 0.1, scheme="taylor3"), named, gradient, 10)
    assert torch.equal(drive(TMSGD([given_as], 0.1, scheme=scheme()), given_as, gradient, 10), expected)


def test_the_examples_in_the_documentation_are_true() -> None:
    results = doctest.testmod(tmsgd)
    assert results.attempted > 0
    assert results.failed == 0
