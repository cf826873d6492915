"""The grid of learning rates and the seeds of ``protocol=tuned`` (``tuning.yaml``).

Each optimizer is trained with every rate of its grid and evaluated on the validation split. The rate that does best is
then tested with fresh seeds on the test split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from tmsgd_bench.checks import choice, whole
from tmsgd_bench.errors import ConfigError

PROTOCOL = "tuned"
ROUNDING = 0.01
"""Of a rate's step: it has few digits."""
DIGITS = 4
"""Significant digits of a rate, so that it can be typed."""


@cache
def half_decades() -> tuple[int, ...]:
    """The steps of the grid from its centre, ascending."""
    return tuple(_values()["half_decades"])


@cache
def search_seeds() -> tuple[int, ...]:
    """The seeds of the runs that choose a rate."""
    return tuple(_values()["search_seeds"])


@cache
def fresh_seeds() -> range:
    """The seeds that a chosen rate may be tested with."""
    first, last = _values()["test_seeds"]
    return range(first, last + 1)


@cache
def _values() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(files("tmsgd_bench").joinpath("tuning.yaml").read_text(encoding="utf-8"))
    check_apart(values["search_seeds"], values["test_seeds"])
    return values


def check_apart(search: list[int], test: list[int]) -> None:
    """Raise ConfigError if a seed that chooses a rate may also test it.

    Args:
        search: the seeds of the search.
        test: the first and the last seed of the test.
    """
    shared = [seed for seed in search if test[0] <= seed <= test[1]]
    if shared:
        raise ConfigError(
            f"tuning.yaml has the seed {shared[0]} in search_seeds and in test_seeds: a rate must be tested with seeds "
            "that did not choose it, so take it out of one of them."
        )


def rate(centre: float, step: int) -> float:
    """The learning rate so many half-decades above ``centre``, to DIGITS significant digits.

    Example:
        >>> [rate(0.1, step) for step in (-1, 0, 1, 2)]
        [0.03162, 0.1, 0.3162, 1.0]
    """
    return float(f"{centre * 10.0 ** (step / 2.0):.{DIGITS}g}") if step else centre


def of_one_grid(rates: Sequence[float]) -> bool:
    """Whether learning rates belong to one grid, which need not be complete: half decades apart, and not too far.

    Args:
        rates: ascending.

    Example:
        >>> of_one_grid([0.01, 0.1, 0.3162]), of_one_grid([0.01, 0.015]), of_one_grid([1e-6, 1.0])
        (True, False, False)
    """
    steps = [2.0 * math.log10(rate / rates[0]) for rate in rates]
    apart = all(abs(step - round(step)) < ROUNDING for step in steps)
    return apart and max(steps, default=0.0) < half_decades()[-1] - half_decades()[0] + 0.5


def rate_of_step(centre: Any, step: Any) -> float:
    """The same for the setting ``lr_step``, which it checks.

    Raises:
        ConfigError: the grid has no such step.
    """
    choice(*half_decades())("lr_step", step)
    return rate(centre, step)


def grid(centre: float) -> tuple[float, ...]:
    """The learning rates that an optimizer is tried with, ascending; ``centre`` is the one in the middle."""
    return tuple(rate(centre, step) for step in half_decades())


def first_fresh_seeds(count: Any) -> range:
    """So many seeds for a test.

    Raises:
        ConfigError: there are not so many.
    """
    whole(1, len(fresh_seeds()))("n_seeds", count)
    return fresh_seeds()[:count]


def seeds_of(split: str) -> range | tuple[int, ...]:
    """The seeds of runs that are evaluated on a split: those that choose a rate, or those that test it."""
    return search_seeds() if split == "validation" else fresh_seeds()


def check_seed(seed: int, split: str) -> None:
    """Raise ConfigError for a seed that a run of ``protocol=tuned`` may not have on a split."""
    if seed not in seeds_of(split):
        search = ", ".join(map(str, search_seeds()))
        test = fresh_seeds()
        raise ConfigError(
            f"protocol={PROTOCOL} on the {split} split cannot have seed={seed}, because seeds that choose a learning "
            f"rate never test it: take one of {search} with task.evaluate_on=validation, and one from {test[0]} to "
            f"{test[-1]} otherwise."
        )
