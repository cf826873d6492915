"""Does TM-SGD gain anything where every optimizer has its best learning rate? The table of ``protocol=tuned``.

The rates come from the stored searches (:mod:`tmsgd_bench.results.learning_rates`), the numbers from the runs on the
test split with those rates, whose seeds did not choose them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from tmsgd_bench import escaping
from tmsgd_bench.results import cells, families, learning_rates, margins, selection
from tmsgd_bench.results.families import Pair, Tested
from tmsgd_bench.results.learning_rates import Search
from tmsgd_bench.results.paper import Experiment, every_experiment
from tmsgd_bench.results.statistics import Comparison, Summary, compare, summarise
from tmsgd_bench.results.status import Status
from tmsgd_bench.results.verdicts import RULE, Judgement, judge
from tmsgd_bench.tuning import PROTOCOL
from tmsgd_bench.wording import number_of

PAIRS: tuple[Pair, ...] = (("tmsgd", "sgd"), ("tmsgdm", "sgdm"), ("tmsgd", "sgdm"))
"""The questions: is the first better than the second, each with its best learning rate?"""
OF_OWN = ("sgd", "tmsgd")
"""What the user's own optimizers are compared with."""


@dataclass(frozen=True)
class Row:
    """One optimizer on one task.

    Args:
        experiment: task, model, data set and metric.
        optimizer: its name.
        search: for its learning rate; its metric is on the validation split.
        final: the metric on the test split after the last epoch, over the fresh seeds.
        marks: what a reader must know.
        run_ids: the evidence: the search's runs and the tests.
    """

    experiment: Experiment
    optimizer: str
    search: Search
    final: Summary
    marks: tuple[str, ...]
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """Two optimizers compared on one task, each with its best learning rate, paired by seed."""

    experiment: Experiment
    pair: Pair
    comparison: Comparison
    judgement: Judgement
    marks: tuple[str, ...]

    @property
    def question(self) -> str:
        """What the verdict is about."""
        return " better than ".join(families.label(name, self.experiment) for name in self.pair)


@dataclass(frozen=True)
class Tuned:
    """All tasks that have a search. ``conditions`` says which runs count, and names the damaged ones left out."""

    rows: tuple[Row, ...]
    answers: tuple[Answer, ...]
    conditions: str

    @property
    def run_ids(self) -> set[str]:
        """The evidence."""
        return {run_id for row in self.rows for run_id in row.run_ids}


def build(runs: pd.DataFrame, data: str = "real") -> Tuned:
    """Every optimizer with its best learning rate, and what they say of each other.

    The paper's experiments come first, then other tasks and models.
    A comparison that is a claim of the paper is corrected with the other claims of its table, the others as one family.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        data: "real" or "synthetic".

    Raises:
        StoreError: a run reports another metric than the paper's table asks for, or a search has rates of two grids.
    """
    rows: list[Row] = []
    pairs: list[tuple[Answer, Tested | None]] = []
    selected: list[pd.DataFrame] = []
    for experiment in [*every_experiment(PROTOCOL), *_own_experiments(runs, data)]:
        searches = learning_rates.of_place(runs, experiment.task, experiment.model, experiment.dataset, data)
        if not searches:
            continue
        chosen = selection.select(runs, experiment, data, PROTOCOL)
        selected.append(chosen)
        tested = families.of_conditions(runs, experiment.table, data, PROTOCOL) if experiment.table else {}
        searched = pd.concat([search.runs for search in searches.values()])
        experiment = selection.with_own_optimizers(experiment, searched)
        rows += [_row(experiment, name, searches[name], chosen) for name in experiment.labels if name in searches]
        answers = [_answer(experiment, pair, chosen) for pair in _questions(searches)]
        pairs += [(answer, families.claim(tested, experiment, answer.pair)) for answer in answers]
    lost = selection.left_out(runs, selected)
    return Tuned(tuple(rows), tuple(_judged(pairs)), "; ".join(filter(None, [f"{data} data", lost])))


def _questions(optimizers: Collection[str]) -> list[Pair]:
    """Which of the searched optimizers are compared: as in ``PAIRS``, and each of the user's own with ``OF_OWN``."""
    papers = {name for experiment in every_experiment() for name in experiment.labels}
    of_own = [(name, than) for name in sorted(set(optimizers) - papers) for than in OF_OWN]
    return [pair for pair in (*PAIRS, *of_own) if set(pair) <= set(optimizers)]


def _own_experiments(runs: pd.DataFrame, data: str) -> Iterator[Experiment]:
    """What was searched besides the paper's experiments: own tasks, and other models and data sets."""
    known = learning_rates.searches(runs[~selection.of_the_paper(runs) & (runs["data"] == data)])
    for where, group in itertools.groupby(known, key=lambda search: search.where):
        searches = list(group)
        first = next((search for search in searches if search.metric), searches[0])
        finals = pd.concat([search.runs["final"] for search in searches])
        metric = first.metric, first.unit, first.direction
        labels = {search.optimizer: search.label for search in searches}
        yield Experiment.own(where[:3], metric, cells.decimals(finals) - 1, labels)


def _row(experiment: Experiment, optimizer: str, search: Search, chosen: pd.DataFrame) -> Row:
    of_optimizer = selection.counted(chosen, optimizer)
    marks = selection.marks(of_optimizer) if len(of_optimizer) else [search.edge] if search.edge else []
    missing = [f"search incomplete: {number_of(search.missing, 'run')} missing"] if search.missing else []
    if search.best is None and not search.missing:
        missing = ["diverged with every learning rate"]
    return Row(
        experiment,
        optimizer,
        search,
        summarise(of_optimizer.loc[of_optimizer["status"] == Status.DONE, "final"]),
        (*missing, *marks),
        (*search.runs["run_id"], *selection.evidence(of_optimizer)),
    )


def _answer(experiment: Experiment, pair: Pair, chosen: pd.DataFrame) -> Answer:
    """Before correction."""
    sides = [selection.counted(chosen, name) for name in pair]
    comparison = compare(*(selection.outcomes(side, experiment.direction) for side in sides))
    margin = margins.margin(experiment, *pair, comparison.base)
    of_sides = [
        f"{families.label(name, experiment)}: {mark}"
        for name, side in zip(pair, sides, strict=True)
        for mark in _marks_of_side(side)
    ]
    marks = (*of_sides, *selection.few_seeds(comparison.pairs))
    return Answer(experiment, pair, comparison, Judgement("not yet tested", margin), marks)


def _marks_of_side(runs: pd.DataFrame) -> list[str]:
    """What must be said of an optimizer's tests beside a verdict: what its rate is worth, and runs that diverged."""
    diverged = int((runs["status"] == Status.DIVERGED).sum())
    remarks = sorted(set(runs["remark"].dropna())) if "remark" in runs else []
    return [*remarks, *([f"{diverged} diverged"] if diverged else [])]


def _judged(pairs: Sequence[tuple[Answer, Tested | None]]) -> list[Answer]:
    corrected = families.complete([answer.comparison for answer, _ in pairs], [claim for _, claim in pairs])
    return [
        replace(
            answer,
            comparison=comparison,
            judgement=judge(comparison, answer.judgement.margin, answer.experiment.direction),
        )
        for (answer, _), comparison in zip(pairs, corrected, strict=True)
    ]


# ---------------------------------------------------------------- printed forms

ROW_HEADS = ("Task, model", "Optimizer", "Learning rate", "Validation, search seeds", "Test, fresh seeds", "Marks")
ANSWER_HEADS = ("Task, model", "Question", "Difference, paired", "p, Holm", "Margin", "Verdict", "Marks")
LEAST = ("Margin", "Validation, search seeds", "p, Holm")
"""The columns that a narrow terminal may lack, the least needed first."""


def sentences(tuned: Tuned) -> list[str]:
    """The answer to each question in a sentence: how many tasks have which verdict."""
    lines = []
    for pair in dict.fromkeys([*PAIRS, *(answer.pair for answer in tuned.answers)]):
        answers = [answer for answer in tuned.answers if answer.pair == pair]
        verdicts: dict[str, list[str]] = {}
        for answer in answers:
            verdicts.setdefault(answer.judgement.verdict, []).append(_name(answer.experiment))
        by_verdict = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in verdicts.items())
        if answers:
            lines.append(f"{answers[0].question}, each with its best learning rate? {by_verdict}.")
    return lines


def to_markdown(tuned: Tuned) -> str:
    """The answers, then the rates and numbers behind them, in GitHub's Markdown."""
    interval = cells.interval_name(answer.comparison for answer in tuned.answers)
    heads = [f"{head} [{interval}]" if head == "Difference, paired" else head for head in ANSWER_HEADS]
    lines = [f"**Each optimizer with its best learning rate** — {tuned.conditions}, protocol {PROTOCOL}", ""]
    lines += [f"- {escaping.markdown(sentence)}" for sentence in sentences(tuned)]
    lines += ["", *_table(heads, [_answer_cells(answer) for answer in tuned.answers])]
    lines += ["", *_table(ROW_HEADS, [_row_cells(row) for row in tuned.rows])]
    general = cells.footnote().partition(" ¹")[0]  # the rest is about columns that are not here
    return "\n".join([*lines, "", f"{learning_rates.RULE} {RULE} {general}"]) + "\n"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = ([*map(escaping.markdown, row)] for row in rows)
    return [cells.markdown_row(heads), "|---" * len(heads) + "|", *map(cells.markdown_row, escaped)]


def _name(experiment: Experiment) -> str:
    return f"{experiment.task}, {experiment.model}" + (f", {experiment.dataset}" if experiment.dataset else "")


def _answer_cells(answer: Answer) -> tuple[str, ...]:
    digits, margin = answer.experiment.digits + 1, answer.judgement.margin
    return (
        _name(answer.experiment),
        answer.question,
        cells.difference(answer.comparison, digits, answer.experiment.direction),
        cells.p_value(answer.comparison.p_holm),
        "–" if math.isnan(margin) else f"{margin:.2g}",
        answer.judgement.text,
        "; ".join(answer.marks),
    )


def _row_cells(row: Row) -> tuple[str, ...]:
    digits, best = row.experiment.digits + 1, row.search.best
    validation = "–" if best is None else cells.summary(summarise(pd.Series(best.finals)), digits)
    return (
        _name(row.experiment),
        row.search.label,
        "–" if best is None else f"{best.lr:g}",
        validation,
        cells.summary(row.final, digits),
        "; ".join(row.marks),
    )


def to_csv(tuned: Tuned) -> str:
    """With full digits: a row for each optimizer, then one for each comparison."""
    records = [_record(row) for row in tuned.rows] + [_answer_record(answer) for answer in tuned.answers]
    return escaping.csv(pd.DataFrame(records))


def _record(row: Row) -> dict[str, Any]:
    best = row.search.best
    return {
        "task": row.experiment.task,
        "model": row.experiment.model,
        "dataset": row.experiment.dataset,
        "optimizer": row.optimizer,
        "metric": row.experiment.metric,
        "lr": None if best is None else best.lr,
        "edge": row.search.edge,
        "validation_mean": None if best is None else best.mean,
        "validation_n": None if best is None else len(best.finals),
        "mean": row.final.mean,
        "std": row.final.std,
        "n": row.final.n,
        "marks": "; ".join(row.marks),
        "runs": " ".join(row.run_ids),
    }


def _answer_record(answer: Answer) -> dict[str, Any]:
    return {
        "task": answer.experiment.task,
        "model": answer.experiment.model,
        "dataset": answer.experiment.dataset,
        "optimizer": answer.pair[0],
        "reference": answer.pair[1],
        "metric": answer.experiment.metric,
        **cells.comparison_record(answer.comparison),
        "margin": answer.judgement.margin,
        "verdict": answer.judgement.verdict,
        "seeds_to_decide": answer.judgement.seeds,
        "marks": "; ".join(answer.marks),
    }


FORMATS: dict[str, Callable[[Tuned], str]] = {"md": to_markdown, "csv": to_csv}
