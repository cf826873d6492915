"""The arithmetic of one TM-SGD step: as a loop to read, and as ``foreach`` with one call for many tensors.

A third implementation with the same meaning, one pass over memory, is in :mod:`tmsgd_bench.optim.fused`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]

DIRECTION = "momentum_buffer"  # the name torch.optim.SGD uses, so that its state can be taken over
NEWEST = "displacement"  # u = W − W₋₁
OLDER = "previous_displacement"  # u₋₁ = W₋₁ − W₋₂

PLAIN_TYPES = frozenset((torch.nn.Parameter, Tensor))
FOREACH_DEVICES = frozenset(("cuda", "xpu", "mtia"))
"""Device types on which torch's own optimizers use ``foreach``."""
FOREACH_FUNCTIONS = ("_foreach_add", "_foreach_add_", "_foreach_copy_", "_foreach_mul", "_foreach_mul_", "_foreach_neg")
"""Functions of torch that ``foreach`` needs. They are private, so a later version may lack one."""


class Phase(enum.IntEnum):
    """How a step uses the history. The values are those in fused/step.c."""

    PLAIN = 0  # SGD before the switch, without a history
    START = 1  # SGD after the switch, whose displacement becomes the history
    HISTORY = 2  # the multistep method


@dataclass(frozen=True)
class Rule:
    """The update rule of one step, shared by all tensors of a batch.

    Args:
        phase: how to use the history.
        lr: learning rate ε; a tensor only where it must not be read on the host (``in_place``).
        momentum, weight_decay, maximize: as in torch.optim.SGD.
        alpha, beta, gain: u⁺ = α u + β u₋₁ − gain ε d, the scheme in difference form.
        in_place: keep u and u₋₁ in the same two tensors, as a recorded step that is replayed needs. Otherwise the two
            tensors exchange their names, which saves a pass over memory.
    """

    phase: Phase
    lr: float | Tensor
    momentum: float
    weight_decay: float
    maximize: bool
    alpha: float
    beta: float
    gain: float
    in_place: bool = False


def fresh(state: State) -> bool:
    """Whether there is no momentum buffer yet; a state of torch.optim.SGD has None for it."""
    return state.get(DIRECTION) is None


def remember(state: State, displacement: Tensor) -> None:
    """Make a displacement the newest one, and the former newest the older one."""
    if NEWEST in state:
        state[OLDER] = state[NEWEST]
    state[NEWEST] = displacement


def exchange(state: State) -> None:
    """Exchange the names of the two displacements, after u⁺ was written into the tensor of u₋₁."""
    state[OLDER], state[NEWEST] = state[NEWEST], state[OLDER]


def loop_step(params: list[Tensor], states: list[State], rule: Rule) -> None:
    """One step of each tensor in turn: the implementation to read."""
    for param, state in zip(params, states, strict=True):
        direction, lr = _direction(param, state, rule), rule.lr
        if isinstance(lr, Tensor):
            direction, lr = direction * lr, 1.0
        if rule.phase is Phase.PLAIN:
            param.add_(direction, alpha=-lr)
        elif rule.phase is Phase.START:
            remember(state, direction * -lr)
            param.add_(state[NEWEST])
        elif rule.in_place:
            older = state[OLDER].mul(rule.beta)
            state[OLDER].copy_(state[NEWEST])
            param.add_(state[NEWEST].mul_(rule.alpha).add_(older).add_(direction, alpha=-lr * rule.gain))
        else:
            state[OLDER].mul_(rule.beta).add_(state[NEWEST], alpha=rule.alpha).add_(direction, alpha=-lr * rule.gain)
            exchange(state)
            param.add_(state[NEWEST])


def _direction(param: Tensor, state: State, rule: Rule) -> Tensor:
    """The gradient with sign, weight decay and momentum, in the order of operations of torch.optim.SGD."""
    assert param.grad is not None  # step() passes over the others
    direction = -param.grad if rule.maximize else param.grad
    if rule.weight_decay != 0:
        direction = direction.add(param, alpha=rule.weight_decay)
    if rule.momentum == 0:
        return direction
    if fresh(state):
        state[DIRECTION] = direction.detach().clone(memory_format=torch.preserve_format)
    else:
        state[DIRECTION].mul_(rule.momentum).add_(direction)
    return state[DIRECTION]


def foreach_suits(params: list[Tensor]) -> bool:
    """Whether ``foreach`` is the default for these parameters."""
    return all(type(p) in PLAIN_TYPES and p.device.type in FOREACH_DEVICES for p in params)


def foreach_unavailable() -> str:
    """Why this version of torch has no ``foreach``; empty if it has."""
    missing = [f"torch.{name}" for name in FOREACH_FUNCTIONS if not hasattr(torch, name)]
    return f"PyTorch {torch.__version__} has no {', '.join(missing)}" if missing else ""


def foreach_step(params: list[Tensor], states: list[State], rule: Rule) -> None:
    """The same step with one call for all tensors of a device and dtype: fewer launches on a GPU."""
    for batch, batch_states in by_device_and_dtype(params, states):
        directions, lr = _directions(batch, batch_states, rule), rule.lr
        if isinstance(lr, Tensor):
            directions, lr = list(torch._foreach_mul(directions, lr)), 1.0
        if rule.phase is Phase.PLAIN:
            torch._foreach_add_(batch, directions, alpha=-lr)
        elif rule.phase is Phase.START:
            for state, displacement in zip(batch_states, torch._foreach_mul(directions, -lr), strict=True):
                remember(state, displacement)
            torch._foreach_add_(batch, [state[NEWEST] for state in batch_states])
        else:
            _foreach_history(batch_states, directions, lr * rule.gain, rule)
            torch._foreach_add_(batch, [state[NEWEST] for state in batch_states])


def _foreach_history(states: list[State], directions: list[Tensor], rate: float, rule: Rule) -> None:
    newest, older = [state[NEWEST] for state in states], [state[OLDER] for state in states]
    if rule.in_place:
        before = torch._foreach_mul(older, rule.beta)
        torch._foreach_copy_(older, newest)
        torch._foreach_mul_(newest, rule.alpha)
        torch._foreach_add_(newest, before)
        torch._foreach_add_(newest, directions, alpha=-rate)
        return
    torch._foreach_mul_(older, rule.beta)
    torch._foreach_add_(older, newest, alpha=rule.alpha)
    torch._foreach_add_(older, directions, alpha=-rate)
    for state in states:
        exchange(state)


def _directions(params: list[Tensor], states: list[State], rule: Rule) -> list[Tensor]:
    grads: list[Any] = [p.grad for p in params]
    directions = list(torch._foreach_neg(grads)) if rule.maximize else grads
    if rule.weight_decay != 0:
        directions = list(torch._foreach_add(directions, params, alpha=rule.weight_decay))
    if rule.momentum == 0:
        return directions
    existing = [(s[DIRECTION], d) for s, d in zip(states, directions, strict=True) if not fresh(s)]
    if existing:
        buffers = [buffer for buffer, _ in existing]
        torch._foreach_mul_(buffers, rule.momentum)
        torch._foreach_add_(buffers, [direction for _, direction in existing])
    for state, direction in zip(states, directions, strict=True):
        if fresh(state):
            state[DIRECTION] = direction.detach().clone(memory_format=torch.preserve_format)
    return [state[DIRECTION] for state in states]


def by_device_and_dtype(params: list[Tensor], states: list[State]) -> Iterable[tuple[list[Tensor], list[State]]]:
    """Parameters and their states, split so that the tensors of one batch share device and dtype."""
    batches: dict[tuple[torch.device, torch.dtype], tuple[list[Tensor], list[State]]] = {}
    for param, state in zip(params, states, strict=True):
        batch = batches.setdefault((param.device, param.dtype), ([], []))
        batch[0].append(param)
        batch[1].append(state)
    return batches.values()
