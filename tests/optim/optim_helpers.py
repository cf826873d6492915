"""What the tests of TMSGD as a citizen of PyTorch share: devices, implementations, gradients and bits."""

from __future__ import annotations

import contextlib
import functools
import io
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from tmsgd_bench.optim import fused as one_pass

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
IMPLEMENTATIONS: dict[str, dict[str, Any]] = {
    "loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True, "fused": False},
    "fused": {"foreach": False, "fused": True},
}
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
EQUATION_8 = (1.5, -1.0, 0.5, 1.0)

each_device = pytest.mark.parametrize("device", DEVICES)
each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def skip_without(implementation: str, device: str = "cpu") -> None:
    """Skip the test, with the reason, where this machine cannot take the fused step."""
    if implementation == "fused" and (reason := one_pass.unavailable(device)):
        pytest.skip(f"no fused step on {device}: {reason}")


def use(optimizer: Optimizer, implementation: str) -> None:
    """Let every group go on with this implementation."""
    for group in optimizer.param_groups:
        group.update(IMPLEMENTATIONS[implementation])


@functools.cache
def has_fma() -> bool:
    """Whether the processor has the fused multiply-add that bit equality of the fused step rests on."""
    if platform.machine() in ("aarch64", "arm64"):
        return True
    information = Path("/proc/cpuinfo")
    return information.exists() and " fma " in information.read_text(encoding="utf-8")


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use this many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def weights(
    shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: str = "cpu", seed: int = 0
) -> list[Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)) for shape in shapes
    ]


def give_gradients(params: Sequence[Tensor], step: int, seed: int = 0) -> None:
    """Set the gradients that belong to a step, the same numbers for every dtype, device and stride."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + step + 1)
    for p in params:
        numbers = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.grad = torch.empty_like(p).copy_(numbers)


def train(optimizer: Optimizer, params: Sequence[Tensor], steps: range, seed: int = 0) -> None:
    for step in steps:
        give_gradients(params, step, seed)
        optimizer.step()


def held(optimizer: Optimizer, params: Sequence[Tensor]) -> list[Tensor]:
    """Parameters and everything the optimizer keeps for them, in a fixed order."""
    kept = [state[name] for p in params if (state := optimizer.state.get(p)) for name in sorted(state)]
    return [*params, *(tensor for tensor in kept if tensor is not None)]


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def bits(tensor: Tensor) -> Tensor:
    """The numbers as integers of their bits, so that -0 is not 0; every NaN has the same."""
    numbers = tensor.detach().cpu().contiguous()
    numbers = torch.where(numbers.isnan(), torch.full_like(numbers, torch.nan), numbers)
    return numbers.view(INTEGERS[numbers.element_size()])


def assert_same_bits(ones: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        different = bits(one) != bits(other)
        assert not different.any(), f"{one[different]} differs from {other[different]}"


def assert_agree(ones: Sequence[Tensor], others: Sequence[Tensor], device: str = "cpu") -> None:
    """Of the fused step and the loop: the same bits where they are promised, elsewhere the same up to rounding."""
    if device == "cpu" and has_fma():
        assert_same_bits(ones, others)
    else:
        torch.testing.assert_close([*ones], [*others], equal_nan=True)


def saved_and_loaded(value: Any) -> Any:
    """What another process reads from a file, with torch's safe loader."""
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def recursion(
    start: Tensor,
    gradient: Callable[[int], Tensor],
    rates: Sequence[float],
    momenta: Sequence[float] | None = None,
    scheme: Sequence[float] = EQUATION_8,
    switch: int = 0,
) -> Tensor:
    """All weights visited by the rule as the paper prints it, in float64, with a rate and a momentum for each step."""
    a0, a1, a2, gain = scheme
    visited, ball = [start.double()], torch.zeros_like(start, dtype=torch.float64)
    for k, rate in enumerate(rates):
        ball = (momenta[k] if momenta is not None else 0.0) * ball + gradient(k).double()
        if k < switch + 2:
            visited.append(visited[-1] - rate * ball)
        else:
            visited.append(a0 * visited[-1] + a1 * visited[-2] + a2 * visited[-3] - gain * rate * ball)
    return torch.stack(visited[1:])
