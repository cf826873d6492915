"""The Triton kernel of the fused step. Importing it needs Triton; compiling it waits for the first launch.

mypy does not look inside: the functions are Triton's language in Python's clothes.
"""
# mypy: ignore-errors

import triton
import triton.language as tl


@triton.jit
def _address(table, row, COLUMN: tl.constexpr, DTYPE: tl.constexpr, ALIGNED: tl.constexpr, COLUMNS: tl.constexpr):
    pointer = tl.load(table + row * COLUMNS + COLUMN).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _load(base, offsets, size, FULL: tl.constexpr, ARITHMETIC: tl.constexpr):
    if FULL:
        return tl.load(base + offsets).to(ARITHMETIC)
    return tl.load(base + offsets, mask=offsets < size).to(ARITHMETIC)


@triton.jit
def _store(base, offsets, value, size, FULL: tl.constexpr, DTYPE: tl.constexpr):
    if FULL:
        tl.store(base + offsets, value.to(DTYPE))
    else:
        tl.store(base + offsets, value.to(DTYPE), mask=offsets < size)


@triton.jit
def _step_block(
    param_at, grad_at, newest_at, older_at, momentum_at, offsets, size, lr, decay, mu, alpha, beta, rate,
    PHASE: tl.constexpr, DECAY: tl.constexpr, MOMENTUM: tl.constexpr, FIRST: tl.constexpr, MAXIMIZE: tl.constexpr,
    DTYPE: tl.constexpr, ARITHMETIC: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    """One block: the operations of step.c, in its order."""
    param = _load(param_at, offsets, size, FULL, ARITHMETIC)
    d = _load(grad_at, offsets, size, FULL, ARITHMETIC)
    if MAXIMIZE:
        d = -d
    if DECAY:
        d = d + decay * param
    if MOMENTUM:
        if not FIRST:
            d = mu * _load(momentum_at, offsets, size, FULL, ARITHMETIC) + d
        _store(momentum_at, offsets, d, size, FULL, DTYPE)
    if PHASE == 0:
        param = param + lr * d
    else:
        if PHASE == 1:
            u = lr * d
            _store(newest_at, offsets, u, size, FULL, DTYPE)
        else:
            newest = _load(newest_at, offsets, size, FULL, ARITHMETIC)
            older = _load(older_at, offsets, size, FULL, ARITHMETIC)
            u = beta * older + alpha * newest + rate * d
            _store(older_at, offsets, u, size, FULL, DTYPE)
        param = param + u
    _store(param_at, offsets, param, size, FULL, DTYPE)


@triton.jit(do_not_specialize=["table", "blocks"])  # so that a compiled kernel can be launched again as it is
def tmsgd_step(
    table, blocks,
    lr: tl.float64, decay: tl.float64, mu: tl.float64, alpha: tl.float64, beta: tl.float64, rate: tl.float64,
    PHASE: tl.constexpr, DECAY: tl.constexpr, MOMENTUM: tl.constexpr, FIRST: tl.constexpr, MAXIMIZE: tl.constexpr,
    ALIGNED: tl.constexpr, DTYPE: tl.constexpr, ARITHMETIC: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each program steps one block of one tensor; the numbers arrive as −ε, weight decay, μ, α, β, −gain·ε."""
    program = tl.program_id(0).to(tl.int64)
    row = tl.load(blocks + 2 * program).to(tl.int64)
    start = tl.load(blocks + 2 * program + 1).to(tl.int64) * BLOCK
    size = tl.load(table + row * COLUMNS)
    param_at = _address(table, row, 1, DTYPE, ALIGNED, COLUMNS)
    grad_at = _address(table, row, 2, DTYPE, ALIGNED, COLUMNS)
    newest_at = _address(table, row, 3, DTYPE, ALIGNED, COLUMNS)
    older_at = _address(table, row, 4, DTYPE, ALIGNED, COLUMNS)
    momentum_at = _address(table, row, 5, DTYPE, ALIGNED, COLUMNS)
    offsets = start + tl.arange(0, BLOCK)
    lr_ = tl.full((1,), lr, ARITHMETIC)
    decay_ = tl.full((1,), decay, ARITHMETIC)
    mu_ = tl.full((1,), mu, ARITHMETIC)
    alpha_ = tl.full((1,), alpha, ARITHMETIC)
    beta_ = tl.full((1,), beta, ARITHMETIC)
    rate_ = tl.full((1,), rate, ARITHMETIC)
    if start + BLOCK <= size:  # all but a tensor's last block need no mask, which would forbid wide loads
        _step_block(
            param_at, grad_at, newest_at, older_at, momentum_at, offsets, size, lr_, decay_, mu_, alpha_, beta_, rate_,
            PHASE, DECAY, MOMENTUM, FIRST, MAXIMIZE, DTYPE, ARITHMETIC, True,
        )  # fmt: skip
    else:
        _step_block(
            param_at, grad_at, newest_at, older_at, momentum_at, offsets, size, lr_, decay_, mu_, alpha_, beta_, rate_,
            PHASE, DECAY, MOMENTUM, FIRST, MAXIMIZE, DTYPE, ARITHMETIC, False,
        )  # fmt: skip
