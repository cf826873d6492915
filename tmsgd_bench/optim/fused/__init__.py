"""TM-SGD's step in one pass over memory: C on the CPU, Triton on a GPU.

Nothing is compiled at import. The CPU's library takes half a second to build, once for each machine and version, and
is kept in the user's cache folder. Where it cannot be built, ``unavailable`` says why and the step is taken by the
loop or by ``foreach``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tmsgd_bench.optim.fused import cpu
from tmsgd_bench.optim.kernels import Phase, Rule, State, fresh

# torch's own look at many tensors in one call. It is private, and wrong arguments crash the process: so it is used in
# the versions alone that it was tried in, and in others steps are slower.
if (2, 11) <= tuple(map(int, torch.__version__.split(".")[:2])) <= (2, 15):
    from torch._C._dynamo.guards import TensorGuards
else:
    TensorGuards = None  # type: ignore[assignment, misc]

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


@dataclass(frozen=True)
class Division:
    """How a group's tensors were divided among calls of the fused step; it holds for as long as they look the same.

    It keeps no tensor, only what each looked like: class, dtype, device, shape, strides, and whether it is more than
    plain memory. Asking that of all at once takes a fifth of the time of looking them over one by one.
    """

    batches: dict[Batch, list[int]]  # with the places of their parameters among all
    size: int  # parameters
    names: tuple[str, ...]  # what every state holds
    guards: Any

    @classmethod
    def of(cls, params: list[Tensor], states: list[State], batches: dict[Batch, list[int]]) -> Division | None:
        """None where there is none to keep: a tensor is left to the loop, or the states hold different things."""
        names = tuple(states[0])
        complete = sum(map(len, batches.values())) == len(params)
        if TensorGuards is None or not complete or any(state.keys() != {*names} for state in states):
            return None
        tensors = _listed(params, states, names)
        if not all(isinstance(tensor, Tensor) for tensor in tensors):  # torch.optim.SGD leaves None for a buffer
            return None
        # Both names are the defaults, but without them torch 2.15 crashes.
        guards = TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)
        return cls(batches, len(params), names, guards)

    def holds(self, params: list[Tensor], states: list[State]) -> bool:
        """Whether there are as many tensors, and they look as they did."""
        if len(params) != self.size or {*map(len, states)} != {len(self.names)}:
            return False
        return bool(self.guards.check(*_listed(params, states, self.names)))


def _listed(params: list[Tensor], states: list[State], names: tuple[str, ...]) -> list[Any]:
    """Parameters, gradients and what the states hold under these names; None for what they do not."""
    held = [[state.get(name) for state in states] for name in names]
    return [*params, *[p.grad for p in params], *itertools.chain.from_iterable(held)]


Divisions = dict[tuple[Phase, bool], Division]  # of one group: the latest of each phase, without momentum and with


def step(
    params: list[Tensor],
    states: list[State],
    rule: Rule,
    serves: Callable[[str], bool],
    known: Divisions | None = None,
) -> tuple[list[Tensor], list[State]]:
    """One step of the tensors that can take it; returns the others, for the loop: strided views, sub-classes, complex
    numbers, and tensors on devices that are not served.

    Args:
        serves: whether a device type ("cpu", "cuda") is to take the fused step.
        known: the group's divisions at earlier steps, to be used again and renewed.
    """
    kind = rule.phase, rule.momentum != 0
    division = known.get(kind) if known else None
    rest: tuple[list[Tensor], list[State]] = ([], [])
    if division is not None and division.holds(params, states):
        batches = division.batches
    else:
        batches, rest = _divide(params, states, rule)
        if known is not None and (division := Division.of(params, states, batches)):
            known[kind] = division
    for (device, _, first), places in batches.items():
        own, held = params, states
        if len(places) != len(params):
            own, held = [params[place] for place in places], [states[place] for place in places]
        if not serves(device.type):
            rest = rest[0] + own, rest[1] + held
            continue
        _implementation(device.type).step(own, held, rule, first)
        torch.autograd.graph.increment_version(own)  # so that autograd notices weights changed behind its back
    return rest


def _divide(
    params: list[Tensor], states: list[State], rule: Rule
) -> tuple[dict[Batch, list[int]], tuple[list[Tensor], list[State]]]:
    """Each batch's places, and the parameters and states for the loop."""
    batches: dict[Batch, list[int]] = {}
    rest: tuple[list[Tensor], list[State]] = ([], [])
    for place, (param, state) in enumerate(zip(params, states, strict=True)):
        if _fits(param, state):
            batches.setdefault((param.device, param.dtype, rule.momentum != 0 and fresh(state)), []).append(place)
        else:
            rest[0].append(param)
            rest[1].append(state)
    return batches, rest


def _implementation(device: str) -> Any:
    if device == "cpu":
        return cpu
    from tmsgd_bench.optim.fused import cuda

    return cuda


def _fits(param: Tensor, state: State) -> bool:
    """Whether a parameter, its gradient and its state lie in memory in one and the same order, element by element.

    The common case, all contiguous, is decided first.
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
