"""TM-SGD's step in one pass over memory: C on the CPU, Triton on a GPU.

Nothing is compiled at import. The CPU's library takes half a second to build, once for each machine and version, and
is kept in the user's cache folder. Where it cannot be built, ``unavailable`` says why and the step is taken by the
loop or by ``foreach``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tmsgd_bench.optim.fused import cpu
from tmsgd_bench.optim.kernels import Rule, State, fresh

Batch = tuple[torch.device, torch.dtype, bool]  # what one call shares; the last: whether momentum buffers are new

DTYPES = frozenset((torch.float32, torch.float64, torch.bfloat16))
PLAIN_TYPES = frozenset((torch.nn.Parameter, Tensor))


def unavailable(device: str) -> str:
    """Why there is no fused step on a device type; empty if there is one. Builds the library if need be."""
    if device == "cpu":
        return cpu.unavailable()
    if device == "cuda":
        from tmsgd_bench.optim.fused import cuda

        return cuda.unavailable()
    return f"there is none for device type {device!r}"


def step(
    params: list[Tensor], states: list[State], rule: Rule, serves: Callable[[str], bool]
) -> tuple[list[Tensor], list[State]]:
    """One step of the tensors that can take it; returns the others, for the loop: strided views, sub-classes, complex
    numbers, and tensors on devices that are not served.

    Args:
        serves: whether a device type ("cpu", "cuda") is to take the fused step.
    """
    batches: dict[Batch, tuple[list[Tensor], list[State]]] = {}
    rest: tuple[list[Tensor], list[State]] = ([], [])
    for param, state in zip(params, states, strict=True):
        chosen = rest
        if _fits(param, state):
            key = (param.device, param.dtype, rule.momentum != 0 and fresh(state))
            chosen = batches.setdefault(key, ([], []))
        chosen[0].append(param)
        chosen[1].append(state)
    for (device, _, first), batch in batches.items():
        if not serves(device.type):
            rest = rest[0] + batch[0], rest[1] + batch[1]
            continue
        _implementation(device.type).step(*batch, rule, first)
        torch.autograd.graph.increment_version(batch[0])  # so that autograd notices weights changed behind its back
    return rest


def _implementation(device: str) -> Any:
    if device == "cpu":
        return cpu
    from tmsgd_bench.optim.fused import cuda

    return cuda


def _fits(param: Tensor, state: State) -> bool:
    """Whether a parameter, its gradient and its state lie in memory in one and the same order, element by element.

    Runs for every tensor at every step, so the common case, all contiguous, is decided first.
    """
    grad, dtype = param.grad, param.dtype
    if type(grad) is not Tensor or type(param) not in PLAIN_TYPES or dtype not in DTYPES:
        return False
    # A sign, or zeros, that are not in memory; weights that torch lets nobody change.
    if grad.is_neg() or grad._is_zerotensor() or param.is_inference():
        return False
    others = [grad, *[tensor for tensor in state.values() if tensor is not None]]
    shape, device = param.shape, param.device
    for other in others:  # a state loaded for another model, or left on another device, is for the loop to refuse
        if other.dtype is not dtype or other.shape != shape or other.device != device:
            return False
    if param.is_contiguous():
        return all([other.is_contiguous() for other in others])  # noqa: C419 - a list is faster
    dense = param.dim() == 4 and param.is_contiguous(memory_format=torch.channels_last)
    return dense and all(other.stride() == param.stride() for other in others)
