"""The fused step on a GPU: one Triton kernel, launched once for all tensors of a dtype.

Triton comes with PyTorch's CUDA builds. The kernel gets a table of addresses, so that sixty small tensors need one
launch and not sixty. The table is copied to the GPU only when an address has changed. The GPU may wait while the host
collects the addresses.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import operator
from typing import Any

import torch
from torch import Tensor

from tmsgd_bench.optim.fused.addresses import Columns, addresses_of, allocate, sizes_of, table_of
from tmsgd_bench.optim.kernels import Phase, Rule, State, exchange

BLOCK = 4096  # elements of one program
WARPS = 8
ALIGNMENT = 16  # bytes; tensors that begin there are read four floats at a time
COLUMNS = 6  # of the table: number of elements, then the addresses of parameter, gradient, u, u₋₁, momentum buffer
TABLES = 64  # kept on the GPU, some kB each: two for each parameter group recur, as the displacements change places


def unavailable() -> str:
    """Why there is no fused step for GPUs; empty if there is one."""
    if not torch.cuda.is_available():
        return "there is no GPU"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    return _trial()


@functools.cache
def _trial() -> str:
    """Try the step on one weight; returns why Triton cannot build its kernel on this machine, or an empty text."""
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
        first: whether there are no momentum buffers yet.
    """
    if first or rule.phase is Phase.START:
        allocate(params, states, rule, first, lambda param, _: torch.empty_like(param, requires_grad=False))
    device, sizes = params[0].device, sizes_of(params)
    place = device, _stream(device)
    blocks = _blocks(sizes, place)
    if not len(blocks):
        return
    table, aligned = _table(sizes, addresses_of(params, states, rule), place)
    variant = (
        *(int(rule.phase), rule.weight_decay != 0, rule.momentum != 0, first, rule.maximize, aligned),
        params[0].dtype,
    )
    rate = -float(rule.lr)
    numbers = (rate, rule.weight_decay, rule.momentum, rule.alpha, rule.beta, rate * rule.gain)
    with torch.cuda.device(device):
        _launch(variant, device, (len(blocks), 1, 1), (table, blocks, *numbers))
    if rule.phase is Phase.HISTORY:
        for state in states:
            exchange(state)


Place = tuple[torch.device, int]
"""A device and one of its streams. A table is only used on the stream on which it was copied, without waiting."""


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


@functools.lru_cache(maxsize=TABLES)
def _blocks(sizes: tuple[int, ...], place: Place) -> Tensor:
    """Which block each program steps, as (row of the table, block within its tensor), int32, shape (programs, 2)."""
    counts = torch.tensor([-(-size // BLOCK) for size in sizes])
    rows = torch.repeat_interleave(torch.arange(len(sizes)), counts)
    starts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    within = torch.arange(len(rows)) - starts
    return torch.stack([rows, within], dim=1).to(torch.int32).to(place[0])


@functools.lru_cache(maxsize=TABLES)
def _table(sizes: tuple[int, ...], addresses: Columns, place: Place) -> tuple[Tensor, bool]:
    """Sizes and addresses on the GPU, int64, shape (tensors, COLUMNS), and whether every address is aligned.

    The copy is queued on the stream, and its source stays allocated until it is done, so the host does not wait.
    """
    aligned = functools.reduce(operator.or_, itertools.chain.from_iterable(addresses)) % ALIGNMENT == 0
    host = torch.frombuffer(table_of(sizes, addresses), dtype=torch.int64).view(len(sizes), COLUMNS)
    device, _ = place
    return (host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host), aligned


_compiled: dict[tuple[Any, ...], Any] = {}


def _launch(variant: tuple[Any, ...], device: torch.device, grid: tuple[int, int, int], arguments: Any) -> None:
    """Launch the kernel. The first launch of a variant compiles it; later ones skip Triton's check of the arguments.

    That is safe, because only the constants are specialised. Triton's interpreter returns no compiled kernel.
    """
    *flags, dtype = variant
    kernel = _compiled.get((device, variant))
    if kernel is None:
        kernel = _kernel()[grid](*arguments, *flags, *_constants(dtype), num_warps=WARPS, enable_fp_fusion=True)
        if kernel is not None:
            _compiled[device, variant] = kernel
        return
    kernel[grid](*arguments, *flags, *_constants(dtype))


@functools.cache
def _constants(dtype: torch.dtype) -> tuple[Any, ...]:
    """The kernel's DTYPE, ARITHMETIC, COLUMNS and BLOCK."""
    import triton.language as tl

    stored = {torch.float32: tl.float32, torch.float64: tl.float64, torch.bfloat16: tl.bfloat16}[dtype]
    return stored, tl.float64 if dtype is torch.float64 else tl.float32, COLUMNS, BLOCK


def _kernel() -> Any:
    from tmsgd_bench.optim.fused.triton_kernel import tmsgd_step

    return tmsgd_step
