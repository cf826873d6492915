"""TM-SGD's state with the same tensors for each parameter before and after the switch.

``torch.distributed.checkpoint``, and full states of FSDP2, are loaded into tensors that the receiving optimizer must
already have, and before the switch it has no history. So missing tensors are filled with zeros. The entry ``present``
tells these from displacements that are zero.
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
"""``present`` is the sum of 1, 2 and 4 for those of these tensors that are not filled in."""


def in_use() -> bool:
    """Whether this program may use ``torch.distributed.checkpoint.state_dict``: it has imported it."""
    return "torch.distributed.checkpoint.state_dict" in sys.modules


def completed(param: Tensor, state: dict[str, Any], momentum: float) -> dict[str, Any]:
    """A state with zeros for the tensors that it lacks; its own tensors are not copied."""
    real = settled(state)
    names = TENSORS if momentum != 0 or DIRECTION in real else (NEWEST, OLDER)
    tensors = {name: real[name] if name in real else torch.zeros_like(param, requires_grad=False) for name in names}
    present = float(sum(1 << bit for bit, name in enumerate(TENSORS) if name in real))
    return {**tensors, PRESENT: torch.tensor(present, dtype=torch.float32, device="cpu")}  # like Adam's step count


def settled(state: dict[str, Any]) -> dict[str, Any]:
    """A state without the tensors that :func:`completed` filled in, if it did."""
    present = int(state.get(PRESENT, (1 << len(TENSORS)) - 1))
    real = {name for bit, name in enumerate(TENSORS) if present >> bit & 1}
    return {name: value for name, value in state.items() if name in real and value is not None}


def initialises(groups: Iterable[dict[str, Any]]) -> bool:
    """Whether torch takes this step only to create the state, so that it must not count as a step of training.

    ``get_optimizer_state_dict`` takes such a step with an optimizer without state: learning rates and all gradients are
    zero.
    """
    groups = list(groups)
    if not in_use() or any(float(group["lr"]) != 0.0 for group in groups):
        return False
    params = [p for group in groups for p in group["params"] if p.requires_grad]
    return all(p.grad is not None for p in params) and not any(is_nonzero(p.grad) for p in params)


def is_nonzero(tensor: Any) -> bool:
    """Whether a tensor has a non-zero element; for a tensor that is sharded over processes, on any of them."""
    different = (tensor != 0).any()
    return bool(different.full_tensor() if hasattr(different, "full_tensor") else different)
