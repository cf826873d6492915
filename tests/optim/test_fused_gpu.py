"""The GPU's fused step: its kernel run by Triton's interpreter and compiled for GPUs that are not there; and on one
that is, the step itself and its capture into a CUDA graph."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from tmsgd_bench.optim import TMSGD

pytest.importorskip("triton", reason="Triton is not installed: this build of PyTorch is for the CPU alone")

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

INTERPRETED = """
import contextlib, json, sys
import torch
from tmsgd_bench.optim.fused import cuda
from tmsgd_bench.optim.kernels import Phase, Rule, loop_step

torch.cuda.device_of = lambda tensor: contextlib.nullcontext()  # the interpreter works on CPU tensors
dtype, momentum, decay, maximize = getattr(torch, sys.argv[1]), *json.loads(sys.argv[2])
generator = torch.Generator().manual_seed(0)
draw = lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
ours = [torch.nn.Parameter(draw(shape)) for shape in ((3,), (4096,), (64, 130), (0,), (5000,))]
theirs = [torch.nn.Parameter(p.detach().double()) for p in ours]
states, expected = [{} for _ in ours], [{} for _ in theirs]
with torch.no_grad():
    for step, phase in enumerate([Phase.PLAIN, Phase.START, Phase.START, *[Phase.HISTORY] * 4]):
        for p, q in zip(ours, theirs):
            p.grad = draw(p.shape)
            q.grad = p.grad.double()
        rule = Rule(phase, 0.1, momentum, decay, maximize, 0.5, -0.5, 1.0)
        cuda.step(ours, states, rule, first=momentum != 0 and step == 0)
        loop_step(theirs, expected, rule)
print(json.dumps(max(float((p.double() - q).abs().max()) for p, q in zip(ours, theirs) if p.numel())))
"""

COMPILED = """
import sys
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tmsgd_bench.optim.fused import cuda
from tmsgd_bench.optim.fused.triton_kernel import tmsgd_step

dtype = getattr(tl, sys.argv[1])
constants = dict(PHASE=2, DECAY=False, MOMENTUM=False, FIRST=False, MAXIMIZE=False, ALIGNED=True, DTYPE=dtype,
                 ARITHMETIC=tl.float64 if dtype is tl.float64 else tl.float32, COLUMNS=cuda.COLUMNS, BLOCK=cuda.BLOCK)
numbers = {name: "fp64" for name in ("lr", "decay", "mu", "alpha", "beta", "rate")}
signature = {"table": "*i64", "blocks": "*i32", **numbers, **{name: "constexpr" for name in constants}}
source = ASTSource(tmsgd_step, signature, constexprs=constants)
built = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[2]), 32), options={"num_warps": cuda.WARPS})
print(built.asm["ptx"])
"""


def in_fresh_process(program: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(
    ("dtype", "tolerance"),  # weights are of order 1, seven steps: a few roundings of the dtype each
    [("float64", 1e-14), ("float32", 4e-6), ("bfloat16", 0.2)],
)
@pytest.mark.parametrize("options", [(0.0, 0.0, False), (0.9, 0.01, True)])
def test_the_gpu_kernel_computes_what_the_loop_does(
    dtype: str, tolerance: float, options: tuple[float, float, bool]
) -> None:
    error = json.loads(in_fresh_process(INTERPRETED, dtype, json.dumps(options), TRITON_INTERPRET="1"))
    assert error <= tolerance


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gpu_kernel_compiles_for_a_gpu_and_moves_16_bytes_at_a_time(dtype: str) -> None:
    ptx = in_fresh_process(COMPILED, dtype, "90")
    assert "ld.global.v4.b32" in ptx
    assert "st.global.v4.b32" in ptx


def steps(optimizer: torch.optim.Optimizer, count: int, weights: list[torch.nn.Parameter]) -> None:
    for index in range(count):
        for weight in weights:
            weight.grad = torch.full_like(weight, 0.01 * (index + 1))
        optimizer.step()


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_on_a_gpu_the_fused_step_agrees_with_foreach(dtype: torch.dtype, momentum: float) -> None:
    ends = []
    for options in ({"fused": True}, {"foreach": True}):
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(n, device="cuda", dtype=dtype)) for n in (1, 4096, 70_001)]
        steps(TMSGD(weights, 0.1, momentum=momentum, switch_step=2, **options), 9, weights)
        ends.append(weights)
    for ours, theirs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, theirs)


@needs_gpu
def test_a_cuda_graph_repeats_the_rule_after_the_switch_and_refuses_the_start_of_the_history() -> None:
    weight = torch.nn.Parameter(torch.ones(1000, device="cuda"))
    twin = torch.nn.Parameter(torch.ones(1000, device="cuda"))
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
