"""The paper's claims, each with the evidence of our runs and a verdict.

Claims are a pure function of the frame of runs, the numerical experiments and the YAMLs with the paper's sentences and
numbers. Runs count as they do in the tables: on real data, following the protocol to the letter.

The rule. A claim "A is better than B" is *supported* if the paired test, corrected by Holm over the claims of the same
task, has p < ALPHA and the difference points to A; *contradicted* if it points to B; *undecided* otherwise. The family
is the task, because its runs are one study: what arrives for one task changes no verdict on another. In each task, and
for normal differences, the probability of deciding any claim between equals is at most ALPHA. A claim made of several
is contradicted if one of them is, supported if all are, and undecided in between.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, get_args

import pandas as pd

from tmsgd_bench.results import numerical, selection
from tmsgd_bench.results.numerical import Numerics
from tmsgd_bench.results.paper import Experiment, every_experiment, load
from tmsgd_bench.results.statistics import ALPHA, POWER, Comparison, Verdict, compare, correct, verdict

Pair = tuple[str, str]
FROM_START = "@0"
"""Behind an optimizer's name: with switch epoch 0, everything else as the protocol has it."""


@dataclass(frozen=True)
class PrintedDifference:
    """Difference of two printed numbers, and whether ours agrees with it.

    Args:
        value: their difference.
        tolerance: the sum of their tolerances (last digit and printed spread).
        inside: whether our mean difference lies within value ± tolerance; None without one.
    """

    value: float
    tolerance: float
    inside: bool | None


@dataclass(frozen=True)
class Claim:
    """One claim with its evidence and verdict.

    Args:
        id: unique; names experiment and pair.
        place: where the paper says it.
        says: its words; empty where the claim is two printed numbers.
        note: what to know of it.
        statement: what is tested.
        experiment: on what; None for a claim about several experiments or about none.
        verdict: by the rule above.
        evidence: in words, for a claim without a comparison of its own.
        comparison: better − than; None for such a claim.
        printed: the difference that the paper prints, if it prints both numbers.
        marks: what a reader must know about the runs behind it.
        run_ids: the evidence.
        parts: ids of the claims that it is made of.
    """

    id: str
    place: str
    says: str
    note: str
    statement: str
    experiment: Experiment | None = None
    verdict: Verdict = "not yet tested"
    evidence: str = ""
    comparison: Comparison | None = None
    printed: PrintedDifference | None = None
    marks: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdicts:
    """All claims, in the paper's order. ``conditions`` says which runs count, and names the damaged ones left out."""

    claims: tuple[Claim, ...]
    conditions: str

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many claims have each verdict."""
        counts = Counter(claim.verdict for claim in self.claims)
        return {verdict: counts[verdict] for verdict in get_args(Verdict)}

    @property
    def run_ids(self) -> set[str]:
        """The evidence of all claims."""
        return {run_id for claim in self.claims for run_id in claim.run_ids}


def evaluate(runs: pd.DataFrame, numerics: Numerics, protocol: str = "table2") -> Verdicts:
    """Every claim of ``claims.yaml`` with its verdict.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        numerics: from :func:`tmsgd_bench.results.numerical.read_numerics`.
        protocol: the protocol's name; the paper's own settings are "table2".

    Raises:
        StoreError: a run reports another metric than the paper's.
    """
    every = {experiment.key: experiment for experiment in every_experiment(protocol)}
    chosen = {key: selection.select(runs, experiment, "real", protocol) for key, experiment in every.items()}
    compared = _correct_holm_families(_compared(runs, every, chosen))
    claims: list[Claim] = []
    for entry in entries():
        if "pairs" in entry:
            claims += [
                compared[_id(experiment, pair)]
                for experiment in _experiments(entry, every)
                for pair in _pairs(entry["pairs"])
            ]
        elif "every" in entry:
            claims.append(_joined(entry, every, compared))
        else:
            rule = entry["numerics"]
            finding = numerical.RULES[rule](numerics)
            values = {"verdict": finding.verdict, "evidence": finding.evidence}
            claims.append(_claim(entry, rule, numerical.STATEMENTS[rule], **values))
    lost = selection.left_out(runs, chosen.values())
    return Verdicts(tuple(claims), "; ".join(filter(None, [f"real data, protocol {protocol}", lost])))


@cache
def entries() -> list[dict[str, Any]]:
    """The contents of ``claims.yaml``."""
    claims: list[dict[str, Any]] = load("claims.yaml")["claims"]
    return claims


def footnote() -> str:
    """The rule, for a reader of the table."""
    return (
        "A claim “A better than B” is supported if the paired test, after Holm's correction over the claims of its "
        f"task, has p < {ALPHA:g} and the difference points to A; contradicted if it points to B; undecided otherwise. "
        "A claim made of several is contradicted if one of them is and supported if all are. Primary metric after the "
        "last epoch; A − B paired by seed, 95 % percentile bootstrap interval. Paired t-test, or the exact sign test "
        "where a run diverged. Detectable: the smallest true difference that as many pairs with this spread would have "
        f"decided with probability {POWER:g}. Printed: the paper's difference ± its rounding and printed spread, and "
        "whether ours lies within."
    )


def _compared(
    runs: pd.DataFrame, every: Mapping[str, Experiment], chosen: Mapping[str, pd.DataFrame]
) -> dict[str, Claim]:
    """All claims about a pair of optimizers, before correction.

    Args:
        every: all experiments, by their keys.
        chosen: the runs of each experiment, by its key.
    """
    tried = {key: _elsewhere(runs, experiment) for key, experiment in every.items() if chosen[key].empty}
    return {
        claim.id: claim
        for entry in entries()
        if "pairs" in entry
        for experiment in _experiments(entry, every)
        for pair in _pairs(entry["pairs"])
        for claim in [
            _untried(entry, experiment, pair, tried[experiment.key])
            if experiment.key in tried
            else _compare(entry, experiment, pair, runs, chosen[experiment.key])
        ]
    }


def _elsewhere(runs: pd.DataFrame, experiment: Experiment) -> tuple[str, ...]:
    """That the paper's other settings have been tried, for a claim without any evidence."""
    counts = selection.elsewhere(runs, experiment)
    return tuple(
        f"{count} runs of protocol {name}" for (data, name), count in counts.items() if data == "real" and name
    )


def _untried(entry: Mapping[str, Any], experiment: Experiment, pair: Pair, marks: tuple[str, ...]) -> Claim:
    """The claim of an experiment without a run, which most are where a few tasks were trained."""
    return _of_pair(entry, experiment, pair, _no_comparison(), marks, ())


@cache
def _no_comparison() -> Comparison:
    nothing = pd.Series(dtype=float)
    return compare(nothing, nothing)


def _compare(
    entry: Mapping[str, Any], experiment: Experiment, pair: Pair, runs: pd.DataFrame, chosen: pd.DataFrame
) -> Claim:
    sides = [_runs_of(name, runs, chosen) for name in pair]
    better, than = (selection.outcomes(side, experiment.direction) for side in sides)
    comparison = compare(better, than)
    marks = _marks(dict(zip(_labels(pair, experiment), sides, strict=True)), comparison)
    counts = comparison.pairs + comparison.void
    run_ids = tuple(run_id for side in sides for run_id in selection.evidence(side)) if counts else ()
    return _of_pair(entry, experiment, pair, comparison, marks, run_ids)


def _of_pair(
    entry: Mapping[str, Any],
    experiment: Experiment,
    pair: Pair,
    comparison: Comparison,
    marks: tuple[str, ...],
    run_ids: tuple[str, ...],
) -> Claim:
    return _claim(
        entry,
        _id(experiment, pair),
        " better than ".join(_labels(pair, experiment)),
        experiment=experiment,
        comparison=comparison,
        printed=_printed(pair, experiment, comparison),
        marks=marks,
        run_ids=run_ids,
    )


def _labels(pair: Pair, experiment: Experiment) -> list[str]:
    return [_label(name, experiment) for name in pair]


def _runs_of(name: str, runs: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    if not name.endswith(FROM_START):
        return selection.counted(chosen, name)
    swept = selection.sweep(runs, chosen, name.removesuffix(FROM_START))
    return swept[swept["switch_epoch"].astype(float) == 0.0]


def _correct_holm_families(claims: Mapping[str, Claim]) -> dict[str, Claim]:
    """The claims with p corrected over those of the same task, which are a family, and with their verdicts."""
    done: dict[str, Claim] = {}
    for task in dict.fromkeys(_experiment_of(claim).task for claim in claims.values()):
        holm_family = [claim for claim in claims.values() if _experiment_of(claim).task == task]
        corrected = correct([_comparison_of(claim) for claim in holm_family])
        done |= {
            claim.id: replace(claim, comparison=comparison, verdict=_verdict(comparison, _experiment_of(claim)))
            for claim, comparison in zip(holm_family, corrected, strict=True)
        }
    return done


def _verdict(comparison: Comparison, experiment: Experiment) -> Verdict:
    return verdict(comparison.direction, comparison.p_holm, experiment.direction)


def _joined(entry: Mapping[str, Any], every: Mapping[str, Experiment], compared: Mapping[str, Claim]) -> Claim:
    """A claim that holds if all of its parts do."""
    where, pairs = _experiments(entry, every), _pairs(entry["every"])
    parts = [compared[_id(experiment, pair)] for experiment in where for pair in pairs]
    tested = [claim for claim in parts if claim.verdict != "not yet tested"]
    counts = Counter(claim.verdict for claim in tested)
    words = [f"{len(tested)} of {len(parts)} tested", *(f"{count} {word}" for word, count in counts.items())]
    few = any(mark.startswith("few seeds") for claim in tested for mark in claim.marks)
    return _claim(
        entry,
        "every " + " ".join(["/".join(pair) for pair in pairs] + [entry["place"]]),
        " and ".join(dict.fromkeys(claim.statement for claim in parts)) + ("" if len(where) == 1 else ", everywhere"),
        verdict=_verdict_of_all({claim.verdict for claim in parts}),
        evidence=", ".join(words),
        marks=("few seeds",) if few else (),
        run_ids=tuple(dict.fromkeys(run_id for claim in tested for run_id in claim.run_ids)),
        parts=tuple(claim.id for claim in parts),
    )


def _verdict_of_all(verdicts: set[Verdict]) -> Verdict:
    for decisive in ("not yet tested", "supported"):
        if verdicts == {decisive}:
            return next(iter(verdicts))
    return "contradicted" if "contradicted" in verdicts else "undecided"


def _claim(entry: Mapping[str, Any], name: str, statement: str, **values: Any) -> Claim:
    return Claim(name, entry["place"], entry.get("says", ""), entry.get("note", ""), statement, **values)


def _printed(pair: Pair, experiment: Experiment, comparison: Comparison) -> PrintedDifference | None:
    numbers = [experiment.printed.get(name) for name in pair]
    if numbers[0] is None or numbers[1] is None:
        return None
    value, tolerance = numbers[0].value - numbers[1].value, numbers[0].tolerance + numbers[1].tolerance
    ours = comparison.difference.mean
    near = abs(ours - value) <= tolerance * (1.0 + 1e-9)  # 90.9 − 90.6 is not 0.3 in binary
    return PrintedDifference(value, tolerance, None if math.isnan(ours) else near)


def _marks(sides: Mapping[str, pd.DataFrame], comparison: Comparison) -> tuple[str, ...]:
    """What a reader must know: of each side, and of the pairs."""
    marks = [
        f"{label}: {mark}"
        for label, runs_of_side in sides.items()
        for mark in selection.marks(runs_of_side)
        if "seeds" not in mark
    ]
    if comparison.diverged:
        marks.append(f"sign test: {comparison.above} pairs above, {comparison.below} below")
    if comparison.pairs >= 2 and math.isnan(comparison.p):
        marks.append("all differences are equal")
    return (*marks, *selection.few_seeds(comparison.pairs))


def _label(name: str, experiment: Experiment) -> str:
    label = experiment.labels[name.removesuffix(FROM_START)]
    return f"{label} from the first epoch" if name.endswith(FROM_START) else label


def _experiments(entry: Mapping[str, Any], every: Mapping[str, Experiment]) -> list[Experiment]:
    return list(every.values()) if entry["experiments"] == "all" else [every[key] for key in entry["experiments"]]


def _pairs(values: Iterable[Iterable[str]]) -> list[Pair]:
    return [(better, than) for better, than in values]


def _id(experiment: Experiment, pair: Pair) -> str:
    return f"{experiment.key} {pair[0]}/{pair[1]}"


def _experiment_of(claim: Claim) -> Experiment:
    assert claim.experiment is not None
    return claim.experiment


def _comparison_of(claim: Claim) -> Comparison:
    assert claim.comparison is not None
    return claim.comparison
