"""TM-SGD's step in one pass over memory: C on the CPU, Triton on a GPU.

Nothing is compiled at import. The CPU's library is built at the first step, in half a second, once for each machine and
version, and is kept in the user's cache folder. If it cannot be built, ``unavailable`` says why, and the loop or
``foreach`` takes the step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tmsgd_bench.optim.fused import cpu
from tmsgd_bench.optim.kernels import PLAIN_TYPES, Rule, State, fresh

Batch = tuple[torch.device, torch.dtype, bool]  # of all tensors of a call; the last: whether momentum buffers are new
Tensors = tuple[list[Tensor], list[State]]  # parameters and their states

DTYPES = frozenset((torch.float32, torch.float64, torch.bfloat16))


def unavailable(device: str) -> str:
    """Why a device type has no fused step; empty if it has one. On the CPU this may build the library."""
    if device == "cpu":
        return cpu.unavailable()
    if device == "cuda":
        from tmsgd_bench.optim.fused import cuda

        return cuda.unavailable()
    return f"there is none for device type {device!r}"


def step(
    params: list[Tensor], states: list[State], rule: Rule, serves: Callable[[str], bool]
) -> tuple[list[Tensor], list[State]]:
    """Take the fused step with all tensors that allow it.

    Args:
        serves: whether a device type ("cpu", "cuda") is to take the fused step.

    Returns:
        The other parameters and states, for the loop: strided views, sub-classes, complex numbers, other devices.
    """
    batches, rest = _divide(params, states, rule)
    for (device, _, first), (batch, batch_states) in batches.items():
        if not serves(device.type):
            rest[0].extend(batch)
            rest[1].extend(batch_states)
            continue
        _implementation(device.type).step(batch, batch_states, rule, first)
        torch.autograd.graph.increment_version(batch)  # tells autograd that the weights were changed in place
    return rest


def _divide(params: list[Tensor], states: list[State], rule: Rule) -> tuple[dict[Batch, Tensors], Tensors]:
    """Parameters and states for each call of the fused step, and those for the loop.

    This is decided at every step, because a wrong address would crash the process; it takes some 2 µs a parameter.
    """
    batches: defaultdict[Batch, Tensors] = defaultdict(lambda: ([], []))
    rest: Tensors = ([], [])
    for param, state in zip(params, states, strict=True):
        batch, batch_states = rest
        if _fits(param, state):
            batch, batch_states = batches[param.device, param.dtype, rule.momentum != 0 and fresh(state)]
        batch.append(param)
        batch_states.append(state)
    return batches, rest


def _implementation(device: str) -> Any:
    if device == "cpu":
        return cpu
    from tmsgd_bench.optim.fused import cuda

    return cuda


def _fits(param: Tensor, state: State) -> bool:
    """Whether a parameter, its gradient and its state lie in memory in one and the same order, element by element.

    Where all are contiguous, no strides are compared.
    """
    grad, dtype = param.grad, param.dtype
    if type(grad) is not Tensor or type(param) not in PLAIN_TYPES or dtype not in DTYPES:
        return False
    # A sign that is not in memory; weights that torch lets nobody change; zeros that have no memory.
    if grad.is_neg() or param.is_inference() or not (grad.data_ptr() or not grad.numel()):
        return False
    shape, device, contiguous = param.shape, param.device, param.is_contiguous()
    for other in (grad, *state.values()):
        if other is None:  # torch.optim.SGD leaves it for a buffer
            continue
        # A state loaded for another model, or left on another device, is for the loop to refuse.
        if other.dtype is not dtype or other.device != device or other.shape != shape:
            return False
        if other.is_contiguous() is not contiguous:
            return False
    return contiguous or _in_one_order(param, state)


def _in_one_order(param: Tensor, state: State) -> bool:
    """The same of tensors that are not contiguous: whether all are images with their channels last."""
    if param.dim() != 4 or not param.is_contiguous(memory_format=torch.channels_last):
        return False
    return all(other is None or other.stride() == param.stride() for other in (param.grad, *state.values()))
