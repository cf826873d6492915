"""The paper's claims, each with the evidence of our runs and a verdict at each level of evidence.

Claims are a pure function of the frame of runs, the numerical experiments and the YAMLs with the paper's sentences and
numbers. Runs count as they do in the tables: on real data, following the protocol to the letter.

The rule is :data:`tmsgd_bench.results.verdicts.RULE`. p is corrected in the family of the claim's table and level
(:mod:`tmsgd_bench.results.families`), so what arrives for one table changes no verdict on another. In each family, and
for normal differences, the probability of telling any two equal optimizers apart is at most 5 %. A claim made of
several is contradicted if one of them is, supported if all are, no such difference if all are that, and undecided in
between.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import pandas as pd

from tmsgd_bench.results import families, numerical, selection
from tmsgd_bench.results.families import Key, PrintedDifference, Tested
from tmsgd_bench.results.numerical import Numerics
from tmsgd_bench.results.paper import OWN_PROTOCOL, Experiment, every_experiment, experiments, paper
from tmsgd_bench.results.statistics import BOOTSTRAP_FROM, POWER, Comparison
from tmsgd_bench.results.verdicts import NOT_TESTED, RULE, Judgement, Verdict
from tmsgd_bench.version import LEVELS
from tmsgd_bench.wording import number_of

NUMERICAL = "numerical"
"""The level of claims about the method as an integrator, which need no training."""


@dataclass(frozen=True)
class Claim:
    """One claim at one level with its evidence and verdict.

    Args:
        id: unique at its level; names experiment and pair.
        level: of evidence, one of LEVELS or NUMERICAL.
        place: where the paper says it.
        says: its words; empty where the claim is two printed numbers.
        note: what to know of it.
        statement: what is tested.
        experiment: on what; None for a claim about several experiments or about none.
        judgement: by the rule.
        evidence: in words, for a claim without a comparison of its own.
        comparison: better − than; None for such a claim.
        printed: the difference that the paper prints, if it prints both numbers.
        last: better − than of the mean over the last epochs; None where it is not reported.
        marks: what a reader must know about the runs behind it.
        run_ids: the evidence.
        parts: ids of the claims that it is made of.
    """

    id: str
    level: str
    place: str
    says: str
    note: str
    statement: str
    experiment: Experiment | None = None
    judgement: Judgement = NOT_TESTED
    evidence: str = ""
    comparison: Comparison | None = None
    printed: PrintedDifference | None = None
    last: Comparison | None = None
    marks: tuple[str, ...] = ()
    run_ids: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """In a word."""
        return self.judgement.verdict


@dataclass(frozen=True)
class Verdicts:
    """All claims, in the paper's order. ``conditions`` says which runs count, and names the damaged ones left out."""

    claims: tuple[Claim, ...]
    conditions: str

    @property
    def counts(self) -> dict[str, dict[Verdict, int]]:
        """How many claims have each verdict, by level."""
        counts = Counter((claim.level, claim.verdict) for claim in self.claims)
        levels = [level for level in (*LEVELS.values(), NUMERICAL) if any(level == known for known, _ in counts)]
        return {level: {verdict: counts[level, verdict] for verdict in get_args(Verdict)} for level in levels}

    @property
    def run_ids(self) -> set[str]:
        """The evidence of all claims."""
        return {run_id for claim in self.claims for run_id in claim.run_ids}


@dataclass(frozen=True)
class _Level:
    """The claimed comparisons at one level.

    Args:
        name: of the level.
        lists_untested: whether a claim without a run is listed too.
        selected: the runs of each experiment, by its key.
        tested: all comparisons.
        tried: for each experiment without a run at this level, what there is at others.
    """

    name: str
    lists_untested: bool
    selected: Mapping[str, pd.DataFrame]
    tested: Mapping[Key, Tested]
    tried: Mapping[str, tuple[str, ...]]


def evaluate(runs: pd.DataFrame, numerics: Numerics | None, protocol: str | None = None) -> Verdicts:
    """Every claim of ``claims.yaml`` with its verdict at each level that has runs.

    A claim without a run is listed once, at the level of the paper's settings.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        numerics: from :func:`tmsgd_bench.results.numerical.read_numerics`; None leaves out the claims about them.
        protocol: one of LEVELS, for the verdicts at its level alone; None for all levels.

    Raises:
        StoreError: a run reports another metric than the paper's.
    """
    levels = list(_levels(runs, protocol))
    claims = [claim for entry in families.entries() for claim in _claims(entry, levels, numerics)]
    lost = selection.left_out(runs, [chosen for level in levels for chosen in level.selected.values()])
    asked = "real data" if protocol is None else f"real data, protocol {protocol}"
    return Verdicts(tuple(_without_repeats(claims)), "; ".join(filter(None, [asked, lost])))


def _levels(runs: pd.DataFrame, asked: str | None) -> Iterator[_Level]:
    followed = {name for names in runs.loc[runs["data"] == "real", "protocols"] for name in names}
    for protocol, name in LEVELS.items():
        lists_untested = protocol == (asked or OWN_PROTOCOL)
        if lists_untested or (asked is None and protocol in followed):
            yield _level(runs, protocol, name, lists_untested)


def _level(runs: pd.DataFrame, protocol: str, name: str, lists_untested: bool) -> _Level:
    every = list(every_experiment(protocol))
    selected = {experiment.key: selection.select(runs, experiment, "real", protocol) for experiment in every}
    tested: dict[Key, Tested] = {}
    for number in paper()["tables"]:
        blocks = experiments(number, protocol)
        tested |= families.tested(runs, blocks, [selected[experiment.key] for experiment in blocks])
    untried = [experiment for experiment in every if lists_untested and selected[experiment.key].empty]
    tried = {experiment.key: _elsewhere(runs, experiment) for experiment in untried}
    return _Level(name, lists_untested, selected, tested, tried)


def _elsewhere(runs: pd.DataFrame, experiment: Experiment) -> tuple[str, ...]:
    """That the paper's other settings have been tried, for a claim without any evidence."""
    counts = selection.elsewhere(runs, experiment)
    return tuple(
        f"{number_of(count, 'run')} of protocol {name}"
        for (data, name), count in counts.items()
        if data == "real" and name
    )


def _claims(entry: Mapping[str, Any], levels: list[_Level], numerics: Numerics | None) -> Iterator[Claim]:
    """The claims of one entry of ``claims.yaml``."""
    if "numerics" in entry:
        if numerics is not None:
            yield _numerical(entry, numerics)
    elif "every" in entry:
        yield from (claim for level in levels for claim in _joined(entry, level))
    else:
        for experiment in families.experiments_of(entry):
            for pair in families.pairs_of(entry["pairs"]):
                yield from (claim for level in levels for claim in _compared(entry, (experiment.key, pair), level))


def _without_repeats(claims: list[Claim]) -> Iterator[Claim]:
    """Without the claims whose runs are those of another level: most settings are the same in both."""
    seen: set[tuple[str, str, tuple[str, ...]]] = set()
    for claim in claims:
        key = claim.id, claim.place, claim.run_ids
        if key not in seen or not claim.run_ids:
            yield claim
        seen.add(key)


def footnote() -> str:
    """What every printed form of the claims must say."""
    return (
        "Each verdict is at a level: full (the paper's settings as printed), full (corrected) (the same with misprints "
        f"corrected), reduced, or tuned. {RULE} “p, Holm” is p after Holm's correction over the claims of one table "
        "of the paper at one level, tested or not, about models that have been trained. A claim made of several is "
        "contradicted if one of them is; it is supported, or no such difference, if all of them are. Primary metric "
        "after the last epoch; A − B paired by seed, 95 % interval: "
        f"Student's t below {BOOTSTRAP_FROM} pairs, a percentile bootstrap from there on. Paired t-test, or the exact "
        "sign test where a run diverged. Detectable: the smallest true difference that as many pairs with this spread "
        f"would have decided with probability {POWER:g}. Printed: the paper's difference ± its rounding and printed "
        f"spread. Outside: whether all of that lies outside our interval; from {families.PRINTED_FROM} pairs on."
    )


def _numerical(entry: Mapping[str, Any], numerics: Numerics) -> Claim:
    rule = entry["numerics"]
    finding = numerical.RULES[rule](numerics)
    values = {"judgement": Judgement(finding.verdict), "evidence": finding.evidence}
    return _claim(entry, rule, NUMERICAL, numerical.STATEMENTS[rule], **values)


def _compared(entry: Mapping[str, Any], key: Key, level: _Level) -> Iterator[Claim]:
    """The claim about a pair of optimizers, if it is to be listed at this level."""
    test = level.tested[key]
    if not (level.lists_untested or test.comparison.pairs or test.comparison.void):
        return
    yield _claim(
        entry,
        _id(key),
        level.name,
        _statement(test),
        experiment=test.experiment,
        judgement=test.judgement,
        comparison=test.comparison,
        printed=test.printed,
        last=test.last,
        marks=level.tried.get(test.experiment.key) or _marks(test.sides, test.comparison),
        run_ids=families.evidence(test),
    )


def _joined(entry: Mapping[str, Any], level: _Level) -> Iterator[Claim]:
    """A claim that holds if all of its parts do, if it is to be listed at this level."""
    where, pairs = families.experiments_of(entry), families.pairs_of(entry["every"])
    keys = [(experiment.key, pair) for experiment in where for pair in pairs]
    parts = [level.tested[key] for key in keys]
    tested = [part for part in parts if part.judgement.verdict != "not yet tested"]
    if not (tested or level.lists_untested):
        return
    counts = Counter(part.judgement.verdict for part in tested)
    words = [f"{len(tested)} of {len(parts)} tested", *(f"{count} {word}" for word, count in counts.items())]
    few = any(selection.few_seeds(part.comparison.pairs) for part in tested)
    run_ids = dict.fromkeys(name for part in tested for name in families.evidence(part))
    yield _claim(
        entry,
        "every " + " ".join(["/".join(pair) for pair in pairs] + [entry["place"]]),
        level.name,
        " and ".join(dict.fromkeys(map(_statement, parts))) + ("" if len(where) == 1 else ", everywhere"),
        judgement=Judgement(_verdict_of_all({part.judgement.verdict for part in parts})),
        evidence=", ".join(words),
        marks=("few seeds",) if few else (),
        run_ids=tuple(run_ids),
        parts=tuple(map(_id, keys)),
    )


def _verdict_of_all(verdicts: set[Verdict]) -> Verdict:
    if len(verdicts) == 1:
        return next(iter(verdicts))
    return "contradicted" if "contradicted" in verdicts else "undecided"


def _claim(entry: Mapping[str, Any], name: str, level: str, statement: str, **values: Any) -> Claim:
    return Claim(name, level, entry["place"], entry.get("says", ""), entry.get("note", ""), statement, **values)


def _statement(test: Tested) -> str:
    return " better than ".join(families.label(name, test.experiment) for name in test.pair)


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
    if comparison.pairs >= 2 and math.isnan(comparison.spread) and not comparison.diverged:
        marks.append("all differences are equal")
    return (*marks, *selection.few_seeds(comparison.pairs))


def _id(key: Key) -> str:
    experiment, pair = key
    return f"{experiment} {pair[0]}/{pair[1]}"
