"""TM-SGD's state in the form that travels by name: each parameter has the same tensors before the switch and after it.

``torch.distributed.checkpoint``, and full states of FSDP2, are read into tensors that the receiving optimizer must
already have. A history would have no place to go to, because there is none before the switch. So zeros fill the places
of what a parameter does not keep, and ``present`` tells them from displacements that are zero.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tmsgd_bench.optim.kernels import DIRECTION, NEWEST, OLDER

PRESENT = "present"
TENSORS = (DIRECTION, NEWEST, OLDER)
"""``present`` is the sum of 1, 2 and 4 for those of them that are more than a place."""


def in_use() -> bool:
    """Whether this program can move states by name: it has imported ``torch.distributed.checkpoint.state_dict``."""
    return "torch.distributed.checkpoint.state_dict" in sys.modules


def completed(param: Tensor, state: dict[str, Any], momentum: float) -> dict[str, Any]:
    """A state with a place for all that the parameter may ever keep; its own tensors are not copied."""
    kept = settled(state)
    names = TENSORS if momentum != 0 or DIRECTION in kept else (NEWEST, OLDER)
    tensors = {name: kept[name] if name in kept else _zeros(param) for name in names}
    present = float(sum(1 << bit for bit, name in enumerate(TENSORS) if name in kept))
    return {**tensors, PRESENT: torch.tensor(present, dtype=torch.float32, device="cpu")}  # as Adam keeps its steps


def settled(state: dict[str, Any]) -> dict[str, Any]:
    """What a state truly keeps: ``state`` without empty places, whether or not it was completed."""
    present = int(state.get(PRESENT, (1 << len(TENSORS)) - 1))
    true = {name for bit, name in enumerate(TENSORS) if present >> bit & 1}
    return {name: value for name, value in state.items() if name in true and value is not None}


def initialises(groups: Iterable[dict[str, Any]]) -> bool:
    """Whether torch takes this step only to have the state made: all rates and gradients are zero, and none is missing.

    ``get_optimizer_state_dict`` does so with an optimizer that has neither state nor gradients. Such a step is none of
    the training's.
    """
    groups = list(groups)
    if not in_use() or any(float(group["lr"]) != 0.0 for group in groups):
        return False
    params = [p for group in groups for p in group["params"] if p.requires_grad]
    return all(p.grad is not None for p in params) and not any(is_nonzero(p.grad) for p in params)


def is_nonzero(tensor: Any) -> bool:
    """Whether a number of a tensor is not zero; if it is divided among processes, on any of them, so that all agree."""
    different = (tensor != 0).any()
    return bool(different.full_tensor() if hasattr(different, "full_tensor") else different)


def _zeros(param: Tensor) -> Tensor:
    return torch.zeros_like(param, requires_grad=False)
