"""Verdicts of the numerical experiments on the paper's claims about the multistep method as an integrator.

Their results are exact up to rounding, so the rules here count cases; there is nothing to test for significance.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from tmsgd_bench import manifest
from tmsgd_bench.errors import StoreError
from tmsgd_bench.files import os_reason
from tmsgd_bench.results.verdicts import Verdict

log = logging.getLogger(__name__)

EULER, TAYLOR = "euler", "taylor3"
CLAIMED_ORDER = {TAYLOR: 2, EULER: 1}
"""Truncation errors O(τ³) and O(τ²) of one step are second and first order over a fixed time."""
COLUMNS = {
    "order_fitted": ["problem", "rule", "fitted"],
    "order": ["problem", "rule", "steps", "error"],
    "early": ["problem", "start", "total_rise"],
}
NUMBERS = ("fitted", "steps", "error", "total_rise")
FROM_START, SGD = "TM-SGD from the start", "SGD"
LABELS = {"rule": {EULER, TAYLOR}, "start": {FROM_START, SGD}}
"""What a column must name."""
COMMAND = "python -m tmsgd_bench numerics"


@dataclass(frozen=True)
class Numerics:
    """What is known of the rules.

    Args:
        orders: of each rule, computed from its coefficients.
        tables: those of COLUMNS that have been measured.
        problems: of those that are there but cannot be used, by name; each names its file.
    """

    orders: Mapping[str, int]
    tables: Mapping[str, pd.DataFrame]
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """A verdict and what it rests on."""

    verdict: Verdict
    evidence: str


def read_numerics(folder: Path) -> Numerics:
    """The orders from theory, and the tables that ``python -m tmsgd_bench numerics`` left in a folder.

    A table that differs from its checksum, or is not what the command writes, is named and left out.
    """
    from tmsgd_bench.optim import SCHEMES  # torch, which takes seconds

    tables, problems = {}, {}
    for name in COLUMNS:
        try:
            if (table := read_table(folder, name)) is not None:
                tables[name] = _checked(table, name)
        except StoreError as error:
            problems[name] = str(error)
            log.warning("%s: %s: write it again with '%s'", folder, error, COMMAND)
    return Numerics({name: SCHEMES[name].order for name in CLAIMED_ORDER}, tables, problems)


def read_table(folder: Path, name: str) -> pd.DataFrame | None:
    """One of the tables that ``python -m tmsgd_bench numerics`` left in a folder; None if it did not.

    Raises:
        StoreError: it differs from its checksum, or cannot be read; the message is a phrase that names it.
    """
    file = f"{name}.csv"
    if not (folder / file).exists() and file not in (manifest.read(folder) or {}):
        return None
    if problems := manifest.problems(folder, [file]):
        raise StoreError(problems[0] if file in problems[0] else f"{file} has no checksum, since {problems[0]}")
    try:
        return pd.read_csv(folder / file)
    except (OSError, ValueError) as error:
        raise StoreError(f"{file} cannot be read ({os_reason(error)})") from error


def _checked(table: pd.DataFrame, name: str) -> pd.DataFrame:
    lacking = [column for column in COLUMNS[name] if column not in table]
    if lacking:
        raise StoreError(f"{name}.csv has no column {', '.join(lacking)}")
    for column in COLUMNS[name]:
        if column in NUMBERS and not pd.api.types.is_numeric_dtype(table[column]):
            raise StoreError(f"{column} of {name}.csv is not all numbers")
        if not LABELS.get(column, set()) <= set(table[column]):
            raise StoreError(f"{column} of {name}.csv does not name {' and '.join(sorted(LABELS[column]))}")
    return table


def order(numerics: Numerics) -> Finding:
    """The computed orders are the claimed ones, and every measured slope rounds to its rule's."""
    computed = f"computed from the coefficients: order {numerics.orders[TAYLOR]}, Euler's {numerics.orders[EULER]}"
    if dict(numerics.orders) != CLAIMED_ORDER:
        return Finding("contradicted", computed)
    if "order_fitted" in numerics.problems:
        return _unmeasured(numerics, "order_fitted")
    if "order_fitted" not in numerics.tables:
        return Finding("supported", f"{computed}; not measured here: {COMMAND}")
    fitted = numerics.tables["order_fitted"].groupby("rule")["fitted"]
    slopes = {name: fitted.get_group(name) for name in CLAIMED_ORDER}
    texts = [f"{of_rule.min():.2f} to {of_rule.max():.2f}" for of_rule in slopes.values()]
    agree = all((of_rule.round() == CLAIMED_ORDER[name]).all() for name, of_rule in slopes.items())
    evidence = f"{computed}; measured slopes on {len(slopes[TAYLOR])} problems: {texts[0]}, Euler's {texts[1]}"
    return Finding("supported" if agree else "undecided", evidence)


def accuracy(numerics: Numerics) -> Finding:
    """The error at the end time is smaller than Euler's with the same step size, on every problem."""
    if "order" not in numerics.tables:
        return _unmeasured(numerics, "order")
    wide = numerics.tables["order"].pivot_table(index=["problem", "steps"], columns="rule", values="error")
    smaller = wide[TAYLOR] < wide[EULER]
    worse = smaller[~smaller].index.to_frame(index=False)
    where = "; not " + ", ".join(f"{row.problem} in {row.steps} steps" for row in worse.itertuples())
    return _counted(smaller, "smaller error than Euler's", where if len(worse) else "")


def fluctuation(numerics: Numerics) -> Finding:
    """Used from the start, eq. (8) lets the loss rise more in all than SGD does, on every problem."""
    if "early" not in numerics.tables:
        return _unmeasured(numerics, "early")
    wide = numerics.tables["early"].pivot_table(index="problem", columns="start", values="total_rise")
    return _counted(wide[FROM_START] > wide[SGD], "the loss rises more in all than with SGD")


RULES: dict[str, Callable[[Numerics], Finding]] = {"order": order, "accuracy": accuracy, "fluctuation": fluctuation}
STATEMENTS = {
    "order": "eq. (8) is of second order, Euler's method of first",
    "accuracy": "eq. (8) errs less than Euler's method with the same step size, on every problem",
    "fluctuation": "used from the start, eq. (8) lets the loss rise more in all than SGD does, on every problem",
}
"""What each rule tests, in words."""


def _counted(holds: pd.Series, what: str, exceptions: str = "") -> Finding:
    evidence = f"{what} in {int(holds.sum())} of {len(holds)} cases{exceptions}"
    if holds.all():
        return Finding("supported", evidence)
    return Finding("undecided" if holds.any() else "contradicted", evidence)


def _unmeasured(numerics: Numerics, name: str) -> Finding:
    problem = numerics.problems.get(name)
    return Finding("not yet tested", f"not judged: {problem}" if problem else f"not measured here: {COMMAND}")
