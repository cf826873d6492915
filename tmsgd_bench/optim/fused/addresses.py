"""What the fused steps on CPU and GPU share: new state tensors, and the table of addresses that their kernels get.

The table is built from columns, which takes less time than row by row.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable

from torch import Tensor

from tmsgd_bench.optim.kernels import DIRECTION, NEWEST, OLDER, Phase, Rule, State, remember

Columns = tuple[tuple[int, ...], ...]


def allocate(
    params: list[Tensor], states: list[State], rule: Rule, first: bool, empty: Callable[[Tensor, int], Tensor]
) -> None:
    """Add the tensors that a step writes for the first time, uninitialised, to the states.

    Args:
        first: whether there are no momentum buffers yet.
        empty: makes a tensor like a parameter; its second argument is 1 or 2 for u or u₋₁, 3 for a momentum buffer.
    """
    for param, state in zip(params, states, strict=True):
        if rule.phase is Phase.START:
            remember(state, empty(param, 1 + (NEWEST in state)))
        if first:
            state[DIRECTION] = empty(param, 3)


def sizes_of(params: list[Tensor]) -> tuple[int, ...]:
    """Numbers of elements."""
    return tuple([param.numel() for param in params])


def addresses_of(params: list[Tensor], states: list[State], rule: Rule) -> Columns:
    """Addresses of the parameters, gradients, u, u₋₁ and momentum buffers; 0 for those that the step does not use."""
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
