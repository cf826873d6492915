"""The fused step on the CPU: its bits, what it leaves to the loop, and how its library is built and done without."""

from __future__ import annotations

import copy
import functools
import io
import itertools
import json
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_helpers import (
    IMPLEMENTATIONS,
    assert_agree,
    assert_same_bits,
    give_gradients,
    held,
    saved_and_loaded,
    skip_without,
    threads,
    train,
    use,
    weights,
)
from torch import Tensor
from torch.nn import Parameter

from tmsgd_bench.optim import TMSGD, MultistepScheme, tmsgd
from tmsgd_bench.optim import fused as one_pass
from tmsgd_bench.optim.fused import cpu
from tmsgd_bench.optim.kernels import Phase, Rule, State, loop_step

ROOT = Path(__file__).parents[2]
PARALLEL = 32768  # elements from which several threads share a step
STAGGERED = 1 << 16  # elements from which displacements begin at places of their own
EXACT_DTYPES = [torch.float32, torch.float64]
SIZES = st.one_of(st.sampled_from([0, 1, 2, 255, 256, 257, 511, 512, 513]), st.integers(3, 1500))
LARGE = [0, 1, 255, 1000, 16384, 32512, PARALLEL - 1, PARALLEL, PARALLEL + 1, STAGGERED - 1, STAGGERED, 70_001]
OPTIONS = st.fixed_dictionaries(
    {
        "lr": st.floats(0.0, 1.0),
        "momentum": st.sampled_from([0.0, 0.9]) | st.floats(0.0, 1.5),
        "weight_decay": st.sampled_from([0.0, 0.1]) | st.floats(0.0, 1.0),
        "switch_step": st.integers(0, 4),
        "restart_every": st.none() | st.integers(1, 4),
        "scheme": st.floats(0.05, 0.95).map(lambda c: MultistepScheme.family(c).coefficients(3)),
        "maximize": st.booleans(),
    }
)
STEPS = 6
SEEDS = st.integers(0, 10**6)

few = settings(max_examples=12, deadline=None, derandomize=True, database=None)
many = settings(max_examples=40, deadline=None, derandomize=True, database=None)
needs_fused = pytest.mark.usefixtures("library")


@pytest.fixture(scope="module")
def library() -> None:
    skip_without("fused")


def pair(sizes: Sequence[int], dtype: torch.dtype, options: dict[str, Any]) -> tuple[Any, Any]:
    """Parameters and optimizer, twice: under fused, and under the loop."""
    made = []
    for implementation in ("fused", "loop"):
        params = weights([(size,) for size in sizes], dtype)
        made.append((params, TMSGD(params, **options, **IMPLEMENTATIONS[implementation])))
    return made[0], made[1]


def random_bits(size: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Numbers of every kind, each bit a coin: NaN, infinities, zeros of both signs and denormals among them."""
    width = torch.finfo(dtype).bits // 16
    words = torch.randint(-(2**15), 2**15, (size, width), generator=generator).to(torch.int16)
    numbers = words.view(dtype).view(size)
    special = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e-40, -1e-310], dtype=torch.float64)
    where = torch.arange(0, size, 5)
    numbers[where] = special[torch.arange(len(where)) % len(special)].to(dtype)
    return numbers


# ---------------------------------------------------------------- its bits


@needs_fused
@many
@given(
    sizes=st.lists(SIZES, min_size=1, max_size=4),
    dtype=st.sampled_from(EXACT_DTYPES),
    options=OPTIONS,
    seed=SEEDS,
    absent=st.lists(st.sets(st.integers(0, 3), max_size=2), min_size=STEPS, max_size=STEPS),
)
def test_any_tensors_and_options_give_the_bits_of_the_loop(
    sizes: list[int], dtype: torch.dtype, options: dict[str, Any], seed: int, absent: list[set[int]]
) -> None:
    """Also where some have no gradient at some steps, so that their heavy balls and histories differ in age."""
    (params, one), (expected, loop) = pair(sizes, dtype, options)
    for step, missing in enumerate(absent):
        for own, optimizer in ((params, one), (expected, loop)):
            give_gradients(own, step, seed)
            for index in missing & set(range(len(own))):
                own[index].grad = None
            optimizer.step()
        assert_agree(held(one, params), held(loop, expected))


@needs_fused
@few
@given(
    sizes=st.lists(st.sampled_from(LARGE), min_size=1, max_size=3),
    count=st.integers(1, 3),
    dtype=st.sampled_from(EXACT_DTYPES),
    options=OPTIONS,
)
def test_several_threads_give_the_bits_of_the_loop_wherever_they_divide_the_tensors(
    sizes: list[int], count: int, dtype: torch.dtype, options: dict[str, Any]
) -> None:
    (params, one), (expected, loop) = pair([*sizes, PARALLEL], dtype, options)
    with threads(count):
        train(one, params, range(STEPS))
    train(loop, expected, range(STEPS))
    assert_agree(held(one, params), held(loop, expected))


@needs_fused
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_number_of_threads_does_not_matter(count: int, dtype: torch.dtype) -> None:
    """Also with more threads than blocks of 256 in a tensor, and where a tensor ends within one thread's share."""
    shapes = [(40_000,), (3,), (0,), (257,), (20_001,), (1,)]
    ends = []
    for used in (1, count):
        params = weights(shapes, dtype)
        optimizer = TMSGD(params, 0.1, 0.9, 0.01, 2, fused=True)
        with threads(used):
            train(optimizer, params, range(STEPS))
        ends.append(held(optimizer, params))
    assert_same_bits(ends[0], ends[1])


@needs_fused
@many
@given(size=SIZES, dtype=st.sampled_from(EXACT_DTYPES), options=OPTIONS, seed=SEEDS)
def test_numbers_of_every_kind_give_the_bits_of_the_loop(
    size: int, dtype: torch.dtype, options: dict[str, Any], seed: int
) -> None:
    """NaN, infinities, signed zeros and denormals, as weights and as gradients."""
    (params, one), (expected, loop) = pair([size], dtype, options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        start = random_bits(size, dtype, generator)
        params[0].copy_(start)
        expected[0].copy_(start)
    for _ in range(STEPS):
        params[0].grad = expected[0].grad = random_bits(size, dtype, generator)
        one.step()
        loop.step()
        assert_agree(held(one, params), held(loop, expected))


PHASES = {
    Phase.PLAIN: [],
    Phase.START: [],
    Phase.HISTORY: ["displacement", "previous_displacement"],
}


def in_float32(param: Tensor, state: State) -> tuple[Tensor, State]:
    wide = Parameter(param.detach().float())
    assert param.grad is not None
    wide.grad = param.grad.float()
    return wide, {name: kept.float() for name, kept in state.items()}


@needs_fused
@many
@given(
    size=SIZES,
    phase=st.sampled_from(list(Phase)),
    numbers=st.tuples(st.floats(0.0, 1.0), st.sampled_from([0.0, 0.9, 1.1]), st.sampled_from([0.0, 0.1, 2.0])),
    maximize=st.booleans(),
    first=st.booleans(),
    seed=SEEDS,
)
def test_bfloat16_is_the_float32_step_rounded_once_when_stored(
    size: int, phase: Phase, numbers: tuple[float, float, float], maximize: bool, first: bool, seed: int
) -> None:
    """For numbers of every kind: the same bits as the loop in float32, each tensor rounded once to bfloat16."""
    lr, momentum, decay = numbers
    rule = Rule(phase, lr, momentum, decay, maximize, alpha=0.5, beta=-0.5, gain=1.0)
    generator = torch.Generator().manual_seed(seed)
    names = PHASES[phase] + (["momentum_buffer"] if momentum and not first else [])
    param = Parameter(random_bits(size, torch.bfloat16, generator))
    param.grad = random_bits(size, torch.bfloat16, generator)
    state = {name: random_bits(size, torch.bfloat16, generator) for name in names}
    wide, wide_state = in_float32(param, state)
    with torch.no_grad():
        rest, _ = one_pass.step([param], [state], rule, lambda device: True)
        loop_step([wide], [wide_state], rule)
    assert rest == []
    assert state.keys() == wide_state.keys()
    expected = [t.to(torch.bfloat16) for t in (wide, *(wide_state[name] for name in state))]
    assert_agree([param, *state.values()], expected)


@needs_fused
@pytest.mark.parametrize(
    ("weight", "change", "expected"),
    [
        pytest.param(1.0, 2.0**-8, 1.0, id="a tie above an even number"),
        pytest.param(1.0 + 2.0**-7, 2.0**-8, 1.0 + 2.0**-6, id="a tie above an odd number"),
        pytest.param(1.0 + 2.0**-7, -(2.0**-8), 1.0, id="a tie below an odd number"),
        pytest.param(1.0, 2.0**-8 + 2.0**-15, 1.0 + 2.0**-7, id="just above a tie"),
        pytest.param(-1.0, -(2.0**-8), -1.0, id="a negative tie"),
        pytest.param(0.0, 2.0**-134, 0.0, id="a tie below the smallest number"),
        pytest.param(2.0**-133, 2.0**-134, 2.0**-132, id="a tie between denormal numbers"),
        pytest.param(torch.finfo(torch.bfloat16).max, 2.0**119, torch.inf, id="a tie beyond the largest number"),
        pytest.param(torch.inf, -torch.inf, torch.nan, id="infinity less infinity"),
    ],
)
def test_bfloat16_rounds_to_nearest_and_ties_to_even(weight: float, change: float, expected: float) -> None:
    param = Parameter(torch.full((3,), weight, dtype=torch.bfloat16))
    param.grad = torch.full((3,), -change * 2.0, dtype=torch.bfloat16)
    assert [float(param.detach()[0]), float(param.grad[0])] == [weight, -change * 2.0]  # they are representable
    TMSGD([param], 0.5, switch_step=1, fused=True).step()
    assert_same_bits([param], [torch.full((3,), expected, dtype=torch.bfloat16)])


# ---------------------------------------------------------------- what holds for every problem

any_implementation = st.sampled_from(list(IMPLEMENTATIONS))


def trained_groups(groups: list[list[Parameter]], numbering: dict[Tensor, int], options: dict[str, Any]) -> None:
    """Train parameters, whose gradients depend on their number and the step, as groups of one optimizer."""
    optimizer = TMSGD([{"params": group} for group in groups], **options)
    for step in range(STEPS):
        for p, number in numbering.items():
            give_gradients([p], step, seed=number)
        optimizer.step()


@few
@given(
    sizes=st.lists(SIZES, min_size=2, max_size=5),
    dtype=st.sampled_from([*EXACT_DTYPES, torch.bfloat16]),
    options=OPTIONS,
    implementation=any_implementation,
    data=st.data(),
)
def test_neither_the_order_of_parameters_nor_their_division_into_groups_matters(
    sizes: list[int], dtype: torch.dtype, options: dict[str, Any], implementation: str, data: st.DataObject
) -> None:
    chosen = {**options, **IMPLEMENTATIONS[implementation]}
    one, other = (weights([(size,) for size in sizes], dtype) for _ in range(2))
    trained_groups([one], {p: k for k, p in enumerate(one)}, chosen)
    order = data.draw(st.permutations(range(len(sizes))))
    cut = data.draw(st.integers(1, len(sizes) - 1))
    groups = [[other[k] for k in order[:cut]], [other[k] for k in order[cut:]]]
    trained_groups(groups, {p: k for k, p in enumerate(other)}, chosen)
    assert_same_bits(one, other)


@few
@given(
    size=SIZES,
    dtype=st.sampled_from([*EXACT_DTYPES, torch.bfloat16]),
    options=OPTIONS,
    implementation=any_implementation,
    power=st.integers(-20, 20),
)
def test_weights_and_gradients_times_a_power_of_two_give_the_trajectory_times_it(
    size: int, dtype: torch.dtype, options: dict[str, Any], implementation: str, power: int
) -> None:
    """The rule is linear, and nothing but the exponent changes in any rounding."""
    chosen = {**options, **IMPLEMENTATIONS[implementation], "lr": max(options["lr"], 2.0**-20)}
    factor = 2.0**power
    [one], [scaled] = weights([(size,)], dtype), weights([(size,)], dtype)
    scaled.data.mul_(factor)
    optimizers = [TMSGD([p], **chosen) for p in (one, scaled)]
    for step in range(STEPS):
        give_gradients([one], step)
        assert one.grad is not None
        scaled.grad = one.grad * factor
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(one.detach() * factor, scaled.detach())


@few
@given(size=SIZES, options=OPTIONS, implementation=any_implementation, power=st.integers(-10, 10))
def test_only_the_product_of_rate_and_gradient_enters(
    size: int, options: dict[str, Any], implementation: str, power: int
) -> None:
    """With both scaled by opposite powers of two, and weight decay with the gradient, every weight keeps its bits."""
    chosen = {**options, **IMPLEMENTATIONS[implementation], "lr": max(options["lr"], 2.0**-20)}
    factor = 2.0**power
    moved = chosen | {"lr": chosen["lr"] / factor, "weight_decay": chosen["weight_decay"] * factor}
    [one], [other] = weights([(size,)], torch.float64), weights([(size,)], torch.float64)
    optimizers = [TMSGD([one], **chosen), TMSGD([other], **moved)]
    for step in range(STEPS):
        give_gradients([one], step)
        assert one.grad is not None
        other.grad = one.grad * factor
        for optimizer in optimizers:
            optimizer.step()
    assert_same_bits([one], [other])


# ---------------------------------------------------------------- which tensors take it


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Addresses of the parameters that the C library has stepped, in order."""
    skip_without("fused")
    seen: list[int] = []
    real = cpu.step

    def spy(params: list[Tensor], *others: Any) -> None:
        seen.extend(p.data_ptr() for p in params)
        real(params, *others)

    monkeypatch.setattr(cpu, "step", spy)
    return seen


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, True),
        ({"fused": True}, True),
        ({"fused": True, "foreach": False}, True),
        ({"fused": False}, False),
        ({"foreach": True}, False),
        ({"foreach": False}, False),
    ],
    ids=str,
)
def test_on_the_cpu_it_is_the_default_unless_another_implementation_is_asked_for(
    flags: dict[str, Any], expected: bool, stepped: list[int]
) -> None:
    params = weights([(3,), (4, 5)], torch.float32)
    train(TMSGD(params, 0.1, **flags), params, range(1))
    assert stepped == ([p.data_ptr() for p in params] if expected else [])


class Marked(Tensor):
    """A sub-class of tensors, as libraries of quantization or of distributed tensors make them."""


class OwnParameter(Parameter):
    """A sub-class of parameters."""


def image(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last)


KINDS: dict[str, tuple[Callable[[], Tensor], bool]] = {
    "contiguous": (lambda: Parameter(torch.ones(2, 3)), True),
    "bfloat16": (lambda: Parameter(torch.ones(2, 3, dtype=torch.bfloat16)), True),
    "tensor": (lambda: torch.ones(2, 3, requires_grad=True), True),
    "no dimension": (lambda: Parameter(torch.tensor(1.0)), True),
    "channels last": (lambda: Parameter(image(torch.ones(2, 3, 4, 4))), True),
    "transposed": (lambda: Parameter(torch.ones(3, 2).t()), False),
    "every other": (lambda: Parameter(torch.ones(6)[::2]), False),
    "half": (lambda: Parameter(torch.ones(2, 3, dtype=torch.float16)), False),
    "complex": (lambda: Parameter(torch.ones(2, 3, dtype=torch.complex64)), False),
    "sub-class of tensors": (lambda: Parameter(torch.ones(2, 3).as_subclass(Marked)), False),
    "sub-class of parameters": (lambda: OwnParameter(torch.ones(2, 3)), False),
}


@pytest.mark.parametrize(("make", "expected"), KINDS.values(), ids=KINDS)
def test_a_parameter_is_stepped_in_one_pass_if_its_memory_lies_in_order_and_by_the_loop_otherwise(
    make: Callable[[], Tensor], expected: bool, stepped: list[int]
) -> None:
    param, twin = make(), make()
    one, other = TMSGD([param], 0.25, 0.5, fused=True), TMSGD([twin], 0.25, 0.5, fused=False, foreach=False)
    for step in range(5):
        for p, optimizer in ((param, one), (twin, other)):
            p.grad = torch.full_like(p.detach(), 2.0**-step)
            optimizer.step()
    assert torch.equal(param.detach(), twin.detach())
    assert stepped == [param.data_ptr()] * (5 if expected else 0)


def gradients_by_kind() -> dict[str, Tensor]:
    return {
        "expanded": torch.tensor(2.0).expand(4),
        "strided": torch.arange(8.0)[::2],
        "sub-class": torch.arange(4.0).as_subclass(Marked),
        "a view": torch.arange(9.0)[3:7],
        "lazily negated": torch._neg_view(torch.arange(4.0)),
    }


@needs_fused
@pytest.mark.parametrize("kind", gradients_by_kind())
def test_a_gradient_of_any_kind_moves_the_weights_as_under_the_loop(kind: str) -> None:
    gradient, ends = gradients_by_kind()[kind], []
    for implementation in ("fused", "loop"):
        param = Parameter(torch.ones(4))
        optimizer = TMSGD([param], 0.25, switch_step=1, **IMPLEMENTATIONS[implementation])
        for _ in range(5):
            param.grad = gradient
            optimizer.step()
        ends.append(param)
    assert_agree(ends[:1], ends[1:])


def test_zeros_without_memory_are_left_to_the_loop() -> None:
    """Automatic differentiation's shorthand for zeros. It has no address, so one pass over its memory would crash."""
    param = Parameter(torch.ones(4))
    param.grad = torch._efficientzerotensor(4)
    assert not one_pass._fits(param, {})


@needs_fused
@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
def test_a_real_weight_within_a_complex_model_descends(shape: tuple[int, ...]) -> None:
    """Its gradient comes from autograd with the sign still to be applied: |1 - i w|² = 1 + w² has the gradient 2 w."""
    weight = Parameter(torch.full(shape, 3.0))
    optimizer = TMSGD([weight], 0.25, switch_step=1, fused=True)
    (
        torch.complex(torch.ones_like(weight), weight).conj() * torch.complex(torch.ones(()), weight.detach())
    ).real.sum().backward()
    optimizer.step()
    assert weight.detach().flatten().tolist() == [3.0 - 0.25 * 3.0]


@needs_fused
def test_weights_can_be_made_and_stepped_in_inference_mode() -> None:
    ends = []
    for implementation in ("fused", "loop"):
        with torch.inference_mode():
            weight = torch.linspace(1.0, 2.0, 300)
            optimizer = TMSGD([weight], 0.1, 0.9, 0.01, 2, **IMPLEMENTATIONS[implementation])
            train(optimizer, [weight], range(STEPS))
            ends.append(weight.clone())
    assert_agree(ends[:1], ends[1:])


@needs_fused
def test_two_parameters_in_the_same_memory_are_both_stepped() -> None:
    ends = []
    for implementation in ("fused", "loop"):
        memory = torch.linspace(1.0, 2.0, 300)
        params = [Parameter(memory), Parameter(memory)]
        optimizer = TMSGD(params, 0.1, 0.9, 0.01, 2, **IMPLEMENTATIONS[implementation])
        train(optimizer, params, range(STEPS))
        ends.append(memory)
    assert_agree(ends[:1], ends[1:])


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "other memory": lambda tensor: tensor.clone(),
    "fewer elements": lambda tensor: tensor[:2],
    "more elements": lambda tensor: tensor.repeat(1000),
    "another shape": lambda tensor: tensor.view(2, 3),
    "every other": lambda tensor: tensor.repeat_interleave(2)[::2],
    "float64": lambda tensor: tensor.double(),
}


@needs_fused
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_weight_that_is_given_other_memory_between_steps_moves_or_is_refused_as_under_the_loop(
    change: Callable[[Tensor], Tensor],
) -> None:
    ends, refusals = [], []
    for implementation in ("fused", "loop"):
        [weight] = weights([(6,)], torch.float32)
        optimizer = TMSGD([weight], 0.1, switch_step=1, **IMPLEMENTATIONS[implementation])
        train(optimizer, [weight], range(4))
        weight.grad, weight.data = None, change(weight.data)
        try:
            train(optimizer, [weight], range(4, 6))
        except RuntimeError as error:
            refusals.append(str(error))
        ends.append(held(optimizer, [weight]))
    assert len(set(refusals)) == len(refusals) // 2
    assert_agree(ends[0], ends[1])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_parameter_whose_elements_share_memory_is_refused(implementation: str) -> None:
    skip_without(implementation)
    param = Parameter(torch.ones(1).expand(4))
    param.grad = torch.ones(4)
    with pytest.raises(RuntimeError, match="single memory location"):
        TMSGD([param], 0.1, **IMPLEMENTATIONS[implementation]).step()


@needs_fused
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_parameters_and_gradients_that_are_slices_of_flat_buffers_move_as_separate_ones(dtype: torch.dtype) -> None:
    """At every offset within a vector register; neighbours in the buffers stay as they are."""
    sizes = [1, 3, 257, 16, 5, 70]
    flat, gradients = torch.zeros(sum(sizes) + 2, dtype=dtype), torch.zeros(sum(sizes) + 2, dtype=dtype)
    separate = weights([(size,) for size in sizes], dtype)
    views = [Parameter(view) for view in flat[1:-1].split(sizes)]
    with torch.no_grad():
        for view, p in zip(views, separate, strict=True):
            view.copy_(p)
    together, alone = (TMSGD(params, 0.1, 0.9, 0.01, 2, fused=True) for params in (views, separate))
    for step in range(STEPS):
        give_gradients(separate, step)
        for view, part, p in zip(views, gradients[1:-1].split(sizes), separate, strict=True):
            part.copy_(p.grad)
            view.grad = part
        together.step()
        alone.step()
    assert_same_bits([flat[1:-1]], [torch.cat([p.detach() for p in separate])])
    assert flat[0] == flat[-1] == 0


@needs_fused
@pytest.mark.parametrize("steps", [1, 2, 5], ids=["before the switch", "at the switch", "after the switch"])
def test_autograd_notices_that_weights_changed_between_forward_and_backward(steps: int) -> None:
    weight = Parameter(torch.ones(3))
    optimizer = TMSGD([weight], 0.1, switch_step=1, fused=True)
    train(optimizer, [weight], range(steps - 1))
    loss = weight.square().sum()
    train(optimizer, [weight], range(1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# ---------------------------------------------------------------- its state elsewhere

TRANSPORTS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),
}


@needs_fused
@pytest.mark.parametrize("moment", [2, 3, 7], ids=["before the switch", "one after", "after the switch"])
@pytest.mark.parametrize(("source", "target"), list(itertools.product(IMPLEMENTATIONS, repeat=2)))
def test_a_state_made_under_one_implementation_goes_on_under_another_with_the_same_bits(
    source: str, target: str, moment: int
) -> None:
    shapes: list[tuple[int, ...]] = [(3, 4), (), (70_000,)]
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "switch_step": 2}
    params = weights(shapes, torch.float32)
    optimizer = TMSGD(params, **options, **IMPLEMENTATIONS[source])
    train(optimizer, params, range(moment))
    twins = [Parameter(p.detach().clone()) for p in params]
    other = TMSGD(twins, **options)
    other.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    use(other, target)
    train(optimizer, params, range(moment, moment + STEPS))
    train(other, twins, range(moment, moment + STEPS))
    assert_agree(held(optimizer, params), held(other, twins))


@needs_fused
@pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS)
@pytest.mark.parametrize("size", [STAGGERED - 1, STAGGERED, 70_001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_copied_optimizer_keeps_the_values_of_large_histories_and_goes_on_in_one_pass(
    dtype: torch.dtype, size: int, transport: Callable[[Any], Any], stepped: list[int]
) -> None:
    params = weights([(size,)], dtype)
    optimizer = TMSGD(params, 0.1, switch_step=1, fused=True)
    train(optimizer, params, range(4))
    twins, other = transport((params, optimizer))
    assert_same_bits(held(other, twins), held(optimizer, params))
    stepped.clear()
    train(other, twins, range(4, 9))
    assert stepped == [twins[0].data_ptr()] * 5
    train(optimizer, params, range(4, 9))
    assert_same_bits(held(other, twins), held(optimizer, params))


def size_of_saved(value: Any) -> int:
    file = io.BytesIO()
    torch.save(value, file)
    return file.tell()


@needs_fused
def test_a_saved_state_of_a_million_weights_is_hardly_larger_than_its_numbers() -> None:
    """Two float32 tensors of the parameter's size; memory set aside for their places costs less than 2 %."""
    params = weights([(1000, 1000)], torch.float32)
    optimizer = TMSGD(params, 0.1, fused=True)
    train(optimizer, params, range(2))
    numbers = 2 * 4 * params[0].numel()
    assert numbers <= size_of_saved(optimizer.state_dict()) < 1.02 * numbers


@needs_fused
@pytest.mark.parametrize("size", [3, STAGGERED])
def test_the_history_lies_on_the_parameters_device_whatever_torchs_default_is(size: int) -> None:
    """torch.device as a context, or torch.set_default_device("cuda"), while the parameters are on the CPU."""
    param = Parameter(torch.ones(size))
    with torch.device("meta"):
        assert cpu.staggered_like(param, slot=1).device == param.device


# ---------------------------------------------------------------- building the library


def forget_the_library(patch: pytest.MonkeyPatch) -> None:
    """As in the next process."""
    patch.setattr(cpu, "_library", functools.cache(cpu._library.__wrapped__))


@pytest.fixture
def unbuilt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As in a process that has built nothing yet, on a machine with an empty cache; returns the folder above it."""
    forget_the_library(monkeypatch)
    monkeypatch.setattr(tmsgd, "_reported", functools.cache(tmsgd._reported.__wrapped__))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def compiler(library: None, unbuilt: Path) -> Path:
    """The same on a machine that has a compiler."""
    return unbuilt


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def weights_and_warnings(fused: bool | None) -> tuple[Tensor, list[str]]:
    """Two optimizers one after the other, as in a GAN, on one pair of parameters; what was warned of."""
    params = weights([(5, 3), (4,)], torch.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            train(TMSGD(params, 0.1, 0.9, 0.01, 2, fused=fused), params, range(STEPS))
    assert all(issubclass(warning.category, RuntimeWarning) for warning in caught)
    return torch.cat([p.detach().flatten() for p in params]), [str(warning.message) for warning in caught]


def without_compiler(patch: pytest.MonkeyPatch, _: Path) -> None:
    patch.delenv("CC", raising=False)
    patch.setenv("PATH", "")


def missing_compiler(patch: pytest.MonkeyPatch, _: Path) -> None:
    patch.setenv("CC", "/nowhere/cc")


def failing_compiler(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("CC", script(folder / "cc", "echo out of luck >&2; exit 1"))


def mumbling_compiler(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("CC", script(folder / "cc", r"printf 'unzul\374ssig\n' >&2; exit 1"))


def hanging_compiler(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("CC", script(folder / "cc", "exec sleep 20"))
    patch.setattr(cpu, "BUILD_SECONDS", 0.2)


def broken_source(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "step.c").write_text("#error this machine is odd\n", encoding="utf-8")
    patch.setattr(cpu, "SOURCE", folder / "step.c")


def useless_compiler(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("CC", script(folder / "cc", "exit 0"))


OBSTACLES: dict[str, tuple[Callable[[pytest.MonkeyPatch, Path], None], str]] = {
    "no compiler": (without_compiler, "no C compiler is installed"),
    "a compiler that is not there": (missing_compiler, "/nowhere/cc"),
    "a compiler that fails": (failing_compiler, "out of luck"),
    "a compiler that fails in Latin-1": (mumbling_compiler, "unzul"),
    "a compiler that hangs": (hanging_compiler, "timed out"),
    "a compiler that writes nothing": (useless_compiler, "step.c"),
    "a source that is refused": (broken_source, "this machine is odd"),
}


@pytest.mark.parametrize("fused", [None, True], ids=["by default", "fused=True"])
@pytest.mark.parametrize(("obstruct", "reason"), OBSTACLES.values(), ids=OBSTACLES)
def test_where_it_cannot_be_built_one_warning_says_why_and_the_step_is_taken_all_the_same(
    obstruct: Callable[[pytest.MonkeyPatch, Path], None],
    reason: str,
    fused: bool | None,
    unbuilt: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, _ = weights_and_warnings(fused=False)
    obstruct(monkeypatch, unbuilt)
    reached, warned = weights_and_warnings(fused)
    assert_same_bits([reached], [expected])
    assert len(warned) == 1
    assert reason in warned[0]
    assert "fused=False asks for that and silences this" in warned[0]
    assert files(unbuilt / "cache") == files(unbuilt / "temporary") == []


def test_without_a_compiler_nothing_is_said_where_fused_is_not_asked_for(
    unbuilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_compiler(monkeypatch, unbuilt)
    assert weights_and_warnings(fused=False)[1] == []


def test_fused_and_foreach_together_are_refused() -> None:
    param = Parameter(torch.ones(1))
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        TMSGD([param], 0.1, fused=True, foreach=True)
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        TMSGD([{"params": [param], "foreach": True}], 0.1, fused=True)


@pytest.mark.parametrize(
    ("device", "weights", "taken"),
    [("cpu", 1, True), ("cuda", tmsgd.LARGE, True), ("cuda", tmsgd.LARGE - 1, False), ("mps", tmsgd.LARGE, False)],
)
def test_the_fused_step_is_the_default_on_the_cpu_and_for_large_groups_on_a_gpu(
    device: str, weights: int, taken: bool
) -> None:
    """Asked of the decision itself, which needs no GPU; tensors on the meta device hold nothing."""
    halves: list[Tensor] = [torch.empty(size, device="meta") for size in (weights - weights // 2, weights // 2)]
    assert tmsgd._fused_by_default(device, halves) is taken


def test_the_library_is_kept_in_the_cache_and_not_built_again(compiler: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, warned = weights_and_warnings(fused=True)
    built = files(compiler / "cache")
    assert len(built) == 1
    assert warned == []
    forget_the_library(monkeypatch)
    without_compiler(monkeypatch, compiler)
    reached, warned = weights_and_warnings(fused=True)
    assert warned == []
    assert cpu.unavailable() == ""
    assert_same_bits([reached], [expected])
    assert files(compiler / "cache") == built


def file_in_place_of_the_cache(patch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "file").touch()
    patch.setenv("XDG_CACHE_HOME", str(folder / "file"))


def spoil(patch: pytest.MonkeyPatch, folder: Path, content: bytes) -> None:
    """Build the library, and replace what is kept of it; under a new file, because the old one is in use."""
    assert cpu.unavailable() == ""
    [kept] = [path for path in (folder / "cache").rglob("*") if path.is_file()]
    kept.unlink()
    kept.write_bytes(content)
    forget_the_library(patch)


def damaged_library(patch: pytest.MonkeyPatch, folder: Path) -> None:
    spoil(patch, folder, b"not a library" * 1000)


def empty_library(patch: pytest.MonkeyPatch, folder: Path) -> None:
    spoil(patch, folder, b"")


def no_home(patch: pytest.MonkeyPatch, _: Path) -> None:
    """A container whose user has no entry in the password file."""
    pwd = pytest.importorskip("pwd", reason="only on POSIX")

    def unknown(user: int) -> Any:
        raise KeyError(user)

    patch.setattr(pwd, "getpwuid", unknown)
    patch.delenv("HOME", raising=False)
    patch.delenv("XDG_CACHE_HOME", raising=False)


TROUBLES = {
    "a cache that cannot be written": file_in_place_of_the_cache,
    "a damaged library": damaged_library,
    "an empty library": empty_library,
    "a user without a home": no_home,
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_trouble_with_the_cache_costs_a_build_and_nothing_else(
    trouble: Callable[[pytest.MonkeyPatch, Path], None], compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble(monkeypatch, compiler)
    reached, warned = weights_and_warnings(fused=True)
    assert warned == []
    assert cpu.unavailable() == ""
    expected, _ = weights_and_warnings(fused=False)
    assert_agree([reached], [expected])
    assert files(compiler / "temporary") == []


def test_the_library_appears_under_its_name_only_when_it_is_complete(
    compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = compiler / "log"
    monkeypatch.setenv("CC", script(compiler / "cc", f'cc "$@"; ls "{cpu.cache_folder()}" >> "{log}"'))
    assert cpu.unavailable() == ""
    [name] = files(compiler / "cache")
    assert log.read_text(encoding="utf-8")
    assert name not in log.read_text(encoding="utf-8")


PROGRAM = """
import json, os, sys, warnings
from pathlib import Path

cache, log = Path(os.environ["XDG_CACHE_HOME"]), Path(os.environ["CALLS"])
import torch
import tmsgd_bench.optim
from tmsgd_bench.optim.fused import cpu

def calls():
    return len(log.read_text().splitlines()) if log.exists() else 0

def step(fused):
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    tmsgd_bench.optim.TMSGD([weight], 0.25, switch_step=0, fused=fused).step()
    assert weight.tolist() == [0.75] * 3

def start():
    if pid := os.fork():
        return pid
    try:
        warnings.simplefilter("error")
        step(fused=True)
        assert cpu.unavailable() == ""
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)

step(fused=False)  # what torch imports at the first step is imported once, for all children
report = {"calls at import": calls(), "files at import": [str(path) for path in cache.rglob("*")]}
report["four at once"] = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in [start() for _ in range(4)]]
report["calls by four"] = calls()
[library] = [path for path in cache.rglob("*") if path.is_file()]
report["files by four"] = [library.name]
complete = library.read_bytes()
report["cut short"] = []
for part in (1, 2):
    for path in library.parent.iterdir():
        path.unlink()
    library.write_bytes(complete[: len(complete) * part // 3])
    report["cut short"].append(os.waitstatus_to_exitcode(os.waitpid(start(), 0)[1]))
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def elsewhere(library: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What happens in fresh processes with an empty cache; together, because each takes seconds to start."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    folder = tmp_path_factory.mktemp("elsewhere")
    compiler = script(folder / "cc", f'echo called >> "{folder}/calls"; exec cc "$@"')
    own = {"XDG_CACHE_HOME": str(folder / "cache"), "CC": compiler, "CALLS": str(folder / "calls")}
    environment = os.environ | own | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_nothing_is_compiled_at_import_nor_by_the_loop(elsewhere: dict[str, Any]) -> None:
    assert elsewhere["calls at import"] == 0
    assert elsewhere["files at import"] == []
    assert elsewhere["calls by four"] > 0  # a call of the compiler would have been seen


@pytest.mark.slow
def test_four_processes_that_build_at_once_all_get_their_library(elsewhere: dict[str, Any]) -> None:
    assert elsewhere["four at once"] == [0] * 4
    assert len(elsewhere["files by four"]) == 1


@pytest.mark.slow
def test_a_library_cut_short_by_a_crash_does_not_take_the_process_down(elsewhere: dict[str, Any]) -> None:
    """Loading one ends in a bus error, from which no process recovers."""
    assert elsewhere["cut short"] == [0, 0]
