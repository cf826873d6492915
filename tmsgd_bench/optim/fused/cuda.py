"""The fused step on a GPU: one Triton kernel, launched once for all tensors of a dtype.

Triton comes with PyTorch's CUDA builds. The kernel is handed a table of addresses, so that sixty small tensors cost
one launch and not sixty; the table goes to the GPU again only when an address in it has changed. The GPU may wait while
the host collects them.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import operator
from typing import Any

import torch
from torch import Tensor

from tmsgd_bench.optim.fused.addresses import Columns, addresses_of, sizes_of, table_of
from tmsgd_bench.optim.kernels import DIRECTION, Phase, Rule, State, exchange, remember

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
    if first or rule.phase is Phase.START:
        _allocate(params, states, rule, first)
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


def _allocate(params: list[Tensor], states: list[State], rule: Rule, first: bool) -> None:
    for param, state in zip(params, states, strict=True):
        if rule.phase is Phase.START:
            remember(state, torch.empty_like(param, requires_grad=False))
        if first:
            state[DIRECTION] = torch.empty_like(param, requires_grad=False)


Place = tuple[torch.device, int]
"""A device and a stream of it. What is made on one stream is used on no other, where nothing waits for its copy."""


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

    The copy is queued behind the work before it, and the pages it comes from stay in use until it is done, so nothing
    waits.
    """
    aligned = functools.reduce(operator.or_, itertools.chain.from_iterable(addresses)) % ALIGNMENT == 0
    host = torch.frombuffer(table_of(sizes, addresses), dtype=torch.int64).view(len(sizes), COLUMNS)
    device, _ = place
    return (host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host), aligned


_compiled: dict[tuple[Any, ...], Any] = {}


def _launch(variant: tuple[Any, ...], device: torch.device, grid: tuple[int, int, int], arguments: Any) -> None:
    """Launch the kernel; a variant's first launch compiles it, and later ones skip Triton's own look at each argument.

    They may: no argument but the constants is specialised. Triton's interpreter has nothing to keep.
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
