"""The GPU's fused step: its kernel run by Triton's interpreter and compiled for GPUs that are not there; and on one
that is, the step itself and its capture into a CUDA graph. What the kernel is handed is tested without one: a stand-in
takes the step through the addresses, on the CPU."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import itertools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from optim_helpers import each_device, skip_without
from torch import Tensor
from torch.nn import Parameter

from tmsgd_bench.optim import TMSGD, tmsgd
from tmsgd_bench.optim import fused as one_pass
from tmsgd_bench.optim.fused import cuda
from tmsgd_bench.optim.kernels import DIRECTION, NEWEST, OLDER

pytest.importorskip("triton", reason="Triton is not installed: this build of PyTorch is for the CPU alone")

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

INTERPRETED = """
import contextlib, json, sys
import torch
from tmsgd_bench.optim.fused import cuda
from tmsgd_bench.optim.kernels import Phase, Rule, loop_step

torch.cuda.device = lambda device: contextlib.nullcontext()  # the interpreter works on CPU tensors


def error(name, momentum, decay, maximize):
    dtype, generator = getattr(torch, name), torch.Generator().manual_seed(0)
    draw = lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    ours = [torch.nn.Parameter(draw(shape)) for shape in ((3,), (4096,), (64, 130), (0,), (5000,))]
    theirs = [torch.nn.Parameter(p.detach().double()) for p in ours]
    states, expected = [{} for _ in ours], [{} for _ in theirs]
    for step, phase in enumerate([Phase.PLAIN, Phase.START, Phase.START, *[Phase.HISTORY] * 4]):
        for p, q in zip(ours, theirs):
            p.grad = draw(p.shape)
            q.grad = p.grad.double()
        rule = Rule(phase, 0.1, momentum, decay, maximize, 0.5, -0.5, 1.0)
        cuda.step(ours, states, rule, first=momentum != 0 and step == 0)
        loop_step(theirs, expected, rule)
    return max(float((p.double() - q).abs().max()) for p, q in zip(ours, theirs) if p.numel())


with torch.no_grad():
    print(json.dumps([error(*case) for case in json.loads(sys.argv[1])]))
"""

COMPILED = """
import json
import sys
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tmsgd_bench.optim.fused import cuda
from tmsgd_bench.optim.fused.triton_kernel import tmsgd_step


def assembly(dtype):
    constants = dict(PHASE=2, DECAY=False, MOMENTUM=False, FIRST=False, MAXIMIZE=False, ALIGNED=True, DTYPE=dtype,
                     ARITHMETIC=tl.float64 if dtype is tl.float64 else tl.float32, COLUMNS=cuda.COLUMNS,
                     BLOCK=cuda.BLOCK)
    numbers = {name: "fp64" for name in ("lr", "decay", "mu", "alpha", "beta", "rate")}
    signature = {"table": "*i64", "blocks": "*i32", **numbers, **{name: "constexpr" for name in constants}}
    source = ASTSource(tmsgd_step, signature, constexprs=constants)
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    return triton.compile(source, target=target, options={"num_warps": cuda.WARPS}).asm["ptx"]


print(json.dumps([assembly(getattr(tl, name)) for name in sys.argv[2:]]))
"""

TOLERANCES = {"float64": 1e-14, "float32": 4e-6, "bfloat16": 0.2}
"""Weights are of order 1, seven steps: a few roundings of the dtype each."""
OPTIONS = [(0.0, 0.0, False), (0.9, 0.01, True)]


def in_fresh_process(program: str, *arguments: str, **environment: str) -> Any:
    """What a program prints as JSON. All cases are asked in one process, because that takes seconds to start."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def errors() -> dict[tuple[str, tuple[float, float, bool]], float]:
    """The kernel's largest distance from the loop, by dtype and options."""
    cases = [(dtype, options) for dtype in TOLERANCES for options in OPTIONS]
    given = json.dumps([[dtype, *options] for dtype, options in cases])
    return dict(zip(cases, in_fresh_process(INTERPRETED, given, TRITON_INTERPRET="1"), strict=True))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("options", OPTIONS)
def test_the_gpu_kernel_computes_what_the_loop_does(
    dtype: str,
    options: tuple[float, float, bool],
    errors: dict[tuple[str, tuple[float, float, bool]], float],
) -> None:
    assert errors[dtype, options] <= TOLERANCES[dtype]


def test_the_gpu_kernel_compiles_for_a_gpu_and_moves_16_bytes_at_a_time() -> None:
    for ptx in in_fresh_process(COMPILED, "90", "float32", "bfloat16"):
        assert "ld.global.v4.b32" in ptx
        assert "st.global.v4.b32" in ptx


class StandIn:
    """Takes the step of float64 tensors in the computer's memory through the addresses it is handed."""

    def __init__(self) -> None:
        self.launches = 0

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        return self.launch

    def launch(self, table: Tensor, blocks: Tensor, *numbers: Any, **options: Any) -> None:
        self.launches += 1
        for row, (size, *addresses) in enumerate(table.tolist()):
            assert (blocks[:, 0] == row).sum() == -(-size // cuda.BLOCK)
            arrays = [np.frombuffer((ctypes.c_double * size).from_address(at)) if at else None for at in addresses]
            if size:  # a tensor without elements has no address
                through_addresses(*arrays, *numbers[:11])


def through_addresses(
    param: Any, grad: Any, newest: Any, older: Any, ball: Any,
    lr: float, decay: float, mu: float, alpha: float, beta: float, rate: float,
    phase: int, has_decay: bool, has_momentum: bool, first: bool, maximize: bool,
) -> None:  # fmt: skip
    """What triton_kernel.py does to one tensor; the numbers arrive as there."""
    d = (-grad if maximize else grad) + (decay * param if has_decay else 0.0)
    if has_momentum:
        d = d if first else mu * ball + d
        ball[:] = d
    if phase == 2:
        u = beta * older + alpha * newest + rate * d
        older[:] = u
    else:
        u = lr * d
    if phase == 1:
        newest[:] = u
    param += u


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Lets the fused step of CPU tensors take the GPU's way, up to the launch."""
    kernel = StandIn()
    monkeypatch.setattr(one_pass, "_implementation", lambda device: cuda)
    monkeypatch.setattr(tmsgd, "_reported", lambda device: "")
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(cuda, "_kernel", lambda: kernel)
    monkeypatch.setattr(cuda, "_compiled", {})
    return kernel


Event = Callable[[TMSGD, list[Parameter], int], TMSGD | None]  # happens before a step; may replace the optimizer
SHAPES = ((3, 4), (5000,), (), (0,), (4, 3))


def renew_gradients(optimizer: TMSGD, weights: list[Parameter], index: int) -> None:
    generator = torch.Generator().manual_seed(index)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)


def write_gradients(optimizer: TMSGD, weights: list[Parameter], index: int) -> None:
    for weight in weights:
        weight.grad = torch.ones_like(weight) if weight.grad is None else weight.grad.add_(0.25)


def leave_out_gradients(optimizer: TMSGD, weights: list[Parameter], index: int) -> None:
    renew_gradients(optimizer, weights, index)
    for place, weight in enumerate(weights):
        if (index + place) % 3 == 0:
            weight.grad = None


def odd_gradients(optimizer: TMSGD, weights: list[Parameter], index: int) -> None:
    """Some that are not plain memory in the weights' order, from the sixth step on: those are left to the loop."""
    renew_gradients(optimizer, weights, index)
    if index >= 5:
        weights[0].grad = torch.randn(4, 3, generator=torch.Generator().manual_seed(index)).double().t()
        weights[1].grad = torch._neg_view(weights[1].grad)  # type: ignore[arg-type]
        weights[4].grad = torch._efficientzerotensor((4, 3), dtype=torch.float64)  # type: ignore[attr-defined]


def load(optimizer: TMSGD, weights: list[Parameter], index: int) -> None:
    renew_gradients(optimizer, weights, index)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def pickled(optimizer: TMSGD, weights: list[Parameter], index: int) -> TMSGD:
    """Another optimizer of the same weights, with the state of this one, that went through bytes."""
    other = TMSGD(weights, lr=1.0, fused=optimizer.defaults["fused"], foreach=optimizer.defaults["foreach"])
    other.load_state_dict(pickle.loads(pickle.dumps(optimizer)).state_dict())
    renew_gradients(optimizer, weights, index)
    return other


def add_group(optimizer: TMSGD, weights: list[Parameter], index: int) -> None:
    if index in (2, 6):
        weights.append(Parameter(torch.full((7, index), 0.5, dtype=torch.float64)))
        optimizer.add_param_group({"params": [weights[-1]], "lr": 0.2})
    renew_gradients(optimizer, weights, index)


def move(optimizer: TMSGD, weights: list[Parameter], index: int) -> None:
    """Weights, and what the optimizer holds, get other memory; once some get another shape, too."""
    renew_gradients(optimizer, weights, index)
    for weight in weights:
        weight.data = weight.data.clone()
        state = optimizer.state[weight]
        state.update({name: tensor.clone() for name, tensor in state.items() if index % 2})


def change_options(optimizer: TMSGD, weights: list[Parameter], index: int) -> None:
    renew_gradients(optimizer, weights, index)
    group = optimizer.param_groups[0]
    group["momentum"] = 0.5 if index % 4 else 0.0
    group["weight_decay"] = 0.1 * (index % 2)
    group["maximize"] = index == 7
    group["restart_every"] = 9
    group["lr"] = 0.1 / (1 + index)


EVENTS: dict[str, Event] = {
    "gradients in new memory": renew_gradients,
    "gradients in the same memory": write_gradients,
    "some without a gradient": leave_out_gradients,
    "gradients for the loop": odd_gradients,
    "the state loaded": load,
    "pickled": pickled,
    "a new group": add_group,
    "moved": move,
    "options changed": change_options,
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_kernel_is_handed_the_right_addresses_whatever_happens_between_steps(
    event: Event, momentum: float, stand_in: StandIn
) -> None:
    ends = []
    for options in ({"fused": True}, {"fused": False, "foreach": False}):
        generator = torch.Generator().manual_seed(0)
        weights = [Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in SHAPES]
        optimizer = TMSGD(weights, 0.1, momentum=momentum, switch_step=2, **options)  # type: ignore[arg-type]
        for index in range(14):
            optimizer = event(optimizer, weights, index) or optimizer
            optimizer.step()
        held = [optimizer.state[p].get(name) for p in weights for name in (DIRECTION, NEWEST, OLDER)]
        ends.append([*weights, *(tensor for tensor in held if tensor is not None)])
    assert stand_in.launches >= 14
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_two_optimizers_that_take_turns_are_handed_their_own_addresses(stand_in: StandIn) -> None:
    ends = []
    for fused in (True, False):
        pairs = []
        for start in (1.0, -2.0):
            weights = [Parameter(torch.full((6,), start, dtype=torch.float64)) for _ in range(3)]
            pairs.append((TMSGD(weights, 0.1, fused=fused, foreach=None if fused else False), weights))
        for index, (optimizer, weights) in itertools.product(range(6), pairs):
            renew_gradients(optimizer, weights, index)
            optimizer.step()
        ends.append([weight for _, weights in pairs for weight in weights])
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs)


def steps(optimizer: torch.optim.Optimizer, count: int, weights: list[Parameter]) -> None:
    for index in range(count):
        for weight in weights:
            weight.grad = torch.full_like(weight, 0.01 * (index + 1))
        optimizer.step()


@each_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_fused_step_errs_by_no_more_than_its_roundings_and_than_foreach(
    device: str, dtype: torch.dtype, momentum: float
) -> None:
    """The error is that to the same trajectory in float64. Each step rounds weight, displacement and buffer once."""
    skip_without("fused", device)
    count, errors = 9, []
    for options in ({"fused": True}, {"foreach": True}):
        torch.manual_seed(0)
        weights = [Parameter(torch.randn(n, device=device, dtype=dtype)) for n in (1, 4096, 70_001)]
        exact = [Parameter(weight.detach().double()) for weight in weights]
        ours = TMSGD(weights, 0.1, momentum=momentum, switch_step=2, **options)  # type: ignore[arg-type]
        theirs = TMSGD(exact, 0.1, momentum=momentum, switch_step=2, fused=False, foreach=False)
        for index in range(count):
            for weight, twin in zip(weights, exact, strict=True):
                weight.grad = torch.full_like(weight, 0.01 * (index + 1))
                twin.grad = weight.grad.double()
            ours.step()
            theirs.step()
        errors.append([(weight.double() - twin).abs() for weight, twin in zip(weights, exact, strict=True)])
        largest = [max(1.0, float(weight.detach().abs().max())) for weight in weights]
    for fused, foreach, size in zip(*errors, largest, strict=True):
        assert fused.max() <= 3 * count * torch.finfo(dtype).eps / 2 * size
        if len(fused) > 1:  # of thousands, so that chance hardly matters
            assert fused.mean() <= 1.02 * foreach.mean()


@needs_gpu
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_on_a_gpu_the_fused_step_agrees_with_foreach_in_float64(momentum: float) -> None:
    ends = []
    for options in ({"fused": True}, {"foreach": True}):
        torch.manual_seed(0)
        weights = [Parameter(torch.randn(n, device="cuda", dtype=torch.float64)) for n in (1, 4096, 70_001)]
        steps(TMSGD(weights, 0.1, momentum=momentum, switch_step=2, **options), 9, weights)  # type: ignore[arg-type]
        ends.append(weights)
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs)


@needs_gpu
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")  # the one whose capture is refused
def test_a_cuda_graph_repeats_the_rule_after_the_switch_and_refuses_the_start_of_the_history() -> None:
    weight = Parameter(torch.ones(1000, device="cuda"))
    twin = Parameter(torch.ones(1000, device="cuda"))
    captured, plain = TMSGD([weight], 0.1), TMSGD([twin], 0.1, foreach=True)
    weight.grad = torch.full_like(weight, 0.5)
    with pytest.raises(RuntimeError, match="third step after it"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        captured.step()
    for _ in range(4):
        captured.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step()
    for _ in range(6):
        graph.replay()
    twin.grad = torch.full_like(twin, 0.5)
    for _ in range(10):
        plain.step()
    torch.testing.assert_close(weight, twin)
