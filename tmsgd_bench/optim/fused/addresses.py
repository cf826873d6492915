"""Where the tensors of a fused step lie, as its kernels are told. In columns, which takes less time than row by row."""

from __future__ import annotations

import itertools
from array import array

from torch import Tensor

from tmsgd_bench.optim.kernels import DIRECTION, NEWEST, OLDER, Phase, Rule, State

Columns = tuple[tuple[int, ...], ...]


def sizes_of(params: list[Tensor]) -> tuple[int, ...]:
    """Numbers of elements."""
    return tuple([param.numel() for param in params])


def addresses_of(params: list[Tensor], states: list[State], rule: Rule) -> Columns:
    """Of the parameters, gradients, u, u₋₁ and momentum buffers; 0 for those that the step does not use."""
    unused = (0,) * len(params)
    return (
        tuple([param.data_ptr() for param in params]),
        tuple([param.grad.data_ptr() for param in params]),  # type: ignore[union-attr]
        unused if rule.phase is Phase.PLAIN else tuple([state[NEWEST].data_ptr() for state in states]),
        tuple([state[OLDER].data_ptr() for state in states]) if rule.phase is Phase.HISTORY else unused,
        tuple([state[DIRECTION].data_ptr() for state in states]) if rule.momentum else unused,
    )


def table_of(sizes: tuple[int, ...], addresses: Columns) -> array[int]:
    """A row for each parameter: its number of elements, and its addresses."""
    return array("q", itertools.chain.from_iterable(zip(sizes, *addresses, strict=True)))
