"""The fused step on a GPU: one Triton kernel, launched once for all tensors of a dtype.

Triton comes with PyTorch's CUDA builds. The kernel is handed a table of addresses, so that sixty small tensors cost
one launch and not sixty; the table goes to the GPU again only when an address in it has changed.
"""

from __future__ import annotations

import functools
import importlib.util
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from tmsgd_bench.optim.fused.cpu import row
from tmsgd_bench.optim.kernels import DIRECTION, Phase, Rule, State, exchange, remember

BLOCK = 4096  # elements of one program
WARPS = 8
ALIGNMENT = 16  # bytes; tensors that begin there are read four floats at a time
COLUMNS = 6  # of the table: number of elements, then the addresses of parameter, gradient, u, u₋₁, momentum buffer
TABLES = 8  # kept on the GPU: the two names of the displacements change places, so at least two recur


def unavailable() -> str:
    """Why there is no fused step for GPUs; empty if there is one."""
    if not torch.cuda.is_available():
        return "there is no GPU"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    return _trial()


@functools.cache
def _trial() -> str:
    """Step one weight, to learn whether Triton can build its kernel on this machine; empty if it can."""
    param = torch.nn.Parameter(torch.zeros(1, device="cuda"))
    param.grad = torch.ones_like(param)
    try:
        with torch.no_grad():
            step([param], [{}], Rule(Phase.PLAIN, 1.0, 0.0, 0.0, False, 0.0, 0.0, 1.0), first=False)
    except Exception as error:  # Triton raises many kinds: no C compiler, an unknown GPU, a driver too old
        return f"Triton cannot build its kernel ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    return ""


def step(params: list[Tensor], states: list[State], rule: Rule, first: bool) -> None:
    """One step of dense tensors of one dtype on one GPU.

    Args:
        first: the momentum buffers are still to be made.
    """
    for param, state in zip(params, states, strict=True):
        if rule.phase is Phase.START:
            remember(state, torch.empty_like(param, requires_grad=False))
        if first:
            state[DIRECTION] = torch.empty_like(param, requires_grad=False)
    rows = tuple(row(param, state, rule) for param, state in zip(params, states, strict=True))
    device = params[0].device
    blocks = _blocks(tuple(row[0] for row in rows), device)
    if not len(blocks):
        return
    lr, dtype = float(rule.lr), params[0].dtype
    with torch.cuda.device_of(params[0]):
        _kernel()[(len(blocks),)](
            _table(rows, device),
            blocks,
            *(-lr, rule.weight_decay, rule.momentum, rule.alpha, rule.beta, -lr * rule.gain),
            PHASE=int(rule.phase),
            DECAY=rule.weight_decay != 0,
            MOMENTUM=rule.momentum != 0,
            FIRST=first,
            MAXIMIZE=rule.maximize,
            ALIGNED=all(address % ALIGNMENT == 0 for row in rows for address in row[1:]),
            DTYPE=_triton_dtype(dtype),
            ARITHMETIC=_triton_dtype(torch.float64 if dtype is torch.float64 else torch.float32),
            COLUMNS=COLUMNS,
            BLOCK=BLOCK,
            num_warps=WARPS,
            enable_fp_fusion=True,
        )
    if rule.phase is Phase.HISTORY:
        for state in states:
            exchange(state)


@functools.lru_cache(maxsize=TABLES)
def _blocks(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Which block each program steps, as (row of the table, block within its tensor), int32, shape (programs, 2)."""
    counts = torch.tensor([-(-size // BLOCK) for size in sizes])
    rows = torch.repeat_interleave(torch.arange(len(sizes)), counts)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    within = torch.arange(len(rows)) - starts
    return torch.stack([rows, within], dim=1).to(torch.int32).to(device)


_tables: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()


def _table(rows: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    """The addresses on the GPU, int64, shape (tensors, COLUMNS).

    The copy is queued behind the work before it, and the pages it comes from stay in use until it is done, so nothing
    waits.
    """
    key = (device, rows)
    if key not in _tables:
        host = torch.tensor(rows, dtype=torch.int64)
        _tables[key] = host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host
        while len(_tables) > TABLES:
            _tables.popitem(last=False)
    _tables.move_to_end(key)
    return _tables[key]


def _kernel() -> Any:
    from tmsgd_bench.optim.fused.triton_kernel import tmsgd_step

    return tmsgd_step


def _triton_dtype(dtype: torch.dtype) -> Any:
    import triton.language as tl

    return {torch.float32: tl.float32, torch.float64: tl.float64, torch.bfloat16: tl.bfloat16}[dtype]
