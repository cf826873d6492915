"""The comparisons that the paper's claims are about, each corrected in the one family that it belongs to.

A family is the claims of one table of the paper on the runs of one protocol. Its size is fixed: it counts every claim
about an experiment (a model on a data set) that has a finished run, also those that cannot be tested yet. Tables,
claims, comparisons and the report take a claim's corrected p from here, so it is the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pandas as pd

from tmsgd_bench.results import last_epochs, margins, selection
from tmsgd_bench.results.paper import Experiment, every_experiment, experiments, load
from tmsgd_bench.results.statistics import Comparison, compare, correct
from tmsgd_bench.results.status import FINISHED
from tmsgd_bench.results.verdicts import NOT_TESTED, Judgement, judge

Pair = tuple[str, str]
Key = tuple[str, Pair]
"""An experiment's key and a pair of optimizers, "better" before "than"."""
FROM_START = "@0"
"""Behind an optimizer's name: with switch epoch 0, everything else as the protocol has it."""
PRINTED_FROM = 10
"""Below this many pairs our interval says nothing about a printed difference."""


@dataclass(frozen=True)
class PrintedDifference:
    """Difference of two printed numbers, and whether our interval excludes it.

    Args:
        value: their difference.
        tolerance: the sum of their tolerances (last digit and printed spread).
        outside: whether all of value ± tolerance lies outside our interval; None without one, or below PRINTED_FROM
            pairs.
    """

    value: float
    tolerance: float
    outside: bool | None


@dataclass(frozen=True)
class Tested:
    """Two optimizers of an experiment, compared.

    Args:
        experiment, pair: what is compared.
        comparison: better − than, corrected in its family.
        judgement: the verdict on "better" being better than "than".
        sides: the runs of each of the two, by label; empty without any run of the experiment.
        printed: the difference that the paper prints, if it prints both numbers.
        last: the same for the mean over the last epochs; None where it is not reported.
    """

    experiment: Experiment
    pair: Pair
    comparison: Comparison
    judgement: Judgement
    sides: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    printed: PrintedDifference | None = None
    last: Comparison | None = None


def tested(runs: pd.DataFrame, blocks: Sequence[Experiment], selected: Sequence[pd.DataFrame]) -> dict[Key, Tested]:
    """All claimed comparisons of one table of the paper. They are one family.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        blocks: the table's experiments.
        selected: the runs of each, from :func:`tmsgd_bench.results.selection.select`.
    """
    family = [
        _compare(experiment, pair, runs, chosen)
        for experiment, chosen in zip(blocks, selected, strict=True)
        for pair in claimed_pairs()[experiment.key]
    ]
    finished = (chosen["status"].isin(FINISHED).any() for chosen in selected)
    begun = {experiment.key for experiment, has_runs in zip(blocks, finished, strict=True) if has_runs}
    size = sum(test.experiment.key in begun for test in family)
    corrected = correct([test.comparison for test in family], size)
    return {
        (test.experiment.key, test.pair): _judged(replace(test, comparison=comparison))
        for test, comparison in zip(family, corrected, strict=True)
    }


def of_conditions(runs: pd.DataFrame, number: str, data: str, protocol: str) -> dict[Key, Tested]:
    """The same, of the runs on one kind of data that follow a protocol.

    Raises:
        StoreError: such a run reports another metric than the paper's table asks for.
    """
    blocks = experiments(number, protocol)
    return tested(runs, blocks, [selection.select(runs, experiment, data, protocol) for experiment in blocks])


def claim(tested: Mapping[Key, Tested], experiment: Experiment, pair: Pair) -> Tested | None:
    """The claim that a comparison of two optimizers is, in either direction; None if it is none."""
    return tested.get((experiment.key, pair)) or tested.get((experiment.key, (pair[1], pair[0])))


def complete(comparisons: Sequence[Comparison], claimed: Sequence[Tested | None]) -> list[Comparison]:
    """Comparisons printed together, corrected: each claim as in its family, all others as one family of their own.

    Args:
        comparisons: before correction.
        claimed: for each of them the claim that it is, or None.
    """
    pairs = list(zip(comparisons, claimed, strict=True))
    others = iter(correct([comparison for comparison, claim in pairs if claim is None]))
    return [next(others) if claim is None else _as_in_family(comparison, claim) for comparison, claim in pairs]


def _as_in_family(comparison: Comparison, claim: Tested) -> Comparison:
    known = claim.comparison
    return replace(comparison, p_holm=known.p_holm, family=known.family, detectable=known.detectable)


def evidence(test: Tested) -> tuple[str, ...]:
    """The names of the runs behind a comparison; none without a pair."""
    counts = test.comparison.pairs + test.comparison.void
    return tuple(name for side in test.sides.values() for name in selection.evidence(side)) if counts else ()


def runs_behind(*sides: pd.DataFrame) -> frozenset[frozenset[str]]:
    """What tells a comparison from others: the names of the finished runs of both sides, in any order."""
    return frozenset(frozenset(side.loc[side["status"].isin(FINISHED), "run_id"]) for side in sides)


# ---------------------------------------------------------------- claims.yaml


@cache
def entries() -> list[dict[str, Any]]:
    """The contents of ``claims.yaml``."""
    claims: list[dict[str, Any]] = load("claims.yaml")["claims"]
    return claims


def experiments_of(entry: Mapping[str, Any]) -> list[Experiment]:
    """The experiments that an entry of ``claims.yaml`` is about."""
    every = {experiment.key: experiment for experiment in every_experiment()}
    return list(every.values()) if entry["experiments"] == "all" else [every[key] for key in entry["experiments"]]


def pairs_of(values: Iterable[Iterable[str]]) -> list[Pair]:
    """The pairs of an entry of ``claims.yaml``."""
    return [(better, than) for better, than in values]


@cache
def claimed_pairs() -> Mapping[str, list[Pair]]:
    """The pairs that are claims of their own, by the key of their experiment."""
    pairs: dict[str, list[Pair]] = {experiment.key: [] for experiment in every_experiment()}
    for entry in entries():
        for experiment in experiments_of(entry) if "pairs" in entry else ():
            pairs[experiment.key] += pairs_of(entry["pairs"])
    return pairs


def label(name: str, experiment: Experiment) -> str:
    """An optimizer's name as the paper has it."""
    words = experiment.labels[name.removesuffix(FROM_START)]
    return f"{words} from the first epoch" if name.endswith(FROM_START) else words


# ---------------------------------------------------------------- one comparison


@cache
def no_comparison() -> Comparison:
    """Of two optimizers without a run."""
    nothing = pd.Series(dtype=float)
    return compare(nothing, nothing)


def _compare(experiment: Experiment, pair: Pair, runs: pd.DataFrame, chosen: pd.DataFrame) -> Tested:
    """Before correction."""
    if chosen.empty:  # most are, where a few tasks were trained
        return Tested(experiment, pair, no_comparison(), NOT_TESTED)
    better, than = (_runs_of(name, runs, chosen) for name in pair)
    comparison = compare(*(selection.outcomes(side, experiment.direction) for side in (better, than)))
    by_label = {label(name, experiment): side for name, side in zip(pair, (better, than), strict=True)}
    last = last_epochs.compared(better, than, experiment)
    return Tested(experiment, pair, comparison, NOT_TESTED, by_label, last=last)


def _runs_of(name: str, runs: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    if not name.endswith(FROM_START):
        return selection.counted(chosen, name)
    swept = selection.sweep(runs, chosen, name.removesuffix(FROM_START))
    return swept[swept["switch_epoch"].astype(float) == 0.0]


def _judged(test: Tested) -> Tested:
    experiment, comparison = test.experiment, test.comparison
    margin = margins.margin(experiment, *test.pair, comparison.base)
    judgement = judge(comparison, margin, experiment.direction)
    return replace(test, judgement=judgement, printed=printed_difference(experiment, test.pair, comparison))


def printed_difference(experiment: Experiment, pair: Pair, comparison: Comparison) -> PrintedDifference | None:
    """The difference that the paper prints of a pair beside our interval; None if it does not print both numbers."""
    first, second = (experiment.printed.get(name) for name in pair)
    if first is None or second is None:
        return None
    value, tolerance = first.value - second.value, first.tolerance + second.tolerance
    difference, scale = comparison.difference, margins.scale(experiment, pair[1], comparison.base)
    known = difference.n >= PRINTED_FROM and not (comparison.diverged or comparison.void or math.isnan(difference.low))
    above, below = (value - tolerance) * scale > difference.high, (value + tolerance) * scale < difference.low
    return PrintedDifference(value, tolerance, (above or below) if known else None)
