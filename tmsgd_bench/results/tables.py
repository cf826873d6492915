"""The paper's tables with our numbers beside the printed ones.

A table is a pure function of the frame of runs and of the paper's numbers (``paper.yaml``). This module says which rows
it has and which runs enter each; :mod:`tmsgd_bench.results.table_forms` prints it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from tmsgd_bench.results import families, last_epochs, selection
from tmsgd_bench.results.families import Key, PrintedDifference, Tested
from tmsgd_bench.results.paper import Experiment, Printed, experiments, layout
from tmsgd_bench.results.statistics import Comparison, Difference, Summary, compare, summarise
from tmsgd_bench.results.status import Status
from tmsgd_bench.results.verdicts import Judgement
from tmsgd_bench.version import LEVELS, OWN_SETTINGS
from tmsgd_bench.wording import number_of


@dataclass(frozen=True)
class Row:
    """One optimizer.

    Args:
        experiment: what it was trained on.
        optimizer: its name.
        label: as the paper prints it.
        printed: the paper's value, or None.
        final: ours after the last epoch.
        best: ours at the best epoch of each run, which is chosen on test data.
        comparison: final, paired by seed, with the reference optimizer; None for the reference itself.
        marks: what a reader must know about this row.
        run_ids: the evidence.
        judgement: on "better than the reference"; None where the paper does not claim that.
        printed_difference: to the reference; None without both numbers.
        last: as ``comparison``, for the means over the last epochs; None where they are not reported.
    """

    experiment: Experiment
    optimizer: str
    label: str
    printed: Printed | None
    final: Summary
    best: Summary
    comparison: Comparison | None
    marks: tuple[str, ...]
    run_ids: tuple[str, ...]
    judgement: Judgement | None = None
    printed_difference: PrintedDifference | None = None
    last: Comparison | None = None

    @property
    def direction(self) -> str:
        """Of the metric."""
        return self.experiment.direction

    @property
    def difference(self) -> Difference | None:
        """Ours minus the reference; None for the reference itself."""
        return None if self.comparison is None else self.comparison.difference


@dataclass(frozen=True)
class Table:
    """A table of the paper, filled.

    Args:
        number: its key.
        place: where it is in the paper.
        title, metric, unit, direction, digits: from the paper's page.
        reference: label of the optimizer that differences are taken to.
        conditions: data, protocol and benchmark version of the runs in it, and which damaged ones are not in it.
        rows: one for each model and optimizer.
        claimed: the runs behind the claims of this table, some of which are in no row.
        note: a footnote of this table alone; empty for most.
    """

    number: str
    place: str
    title: str
    metric: str
    unit: str
    direction: str
    digits: int
    reference: str
    conditions: str
    rows: tuple[Row, ...]
    claimed: frozenset[str] = frozenset()
    note: str = ""

    @property
    def heading(self) -> str:
        """Place, title, metric, unit and direction on one line."""
        unit = f"{self.unit}, " if self.unit else ""
        metric = f"{self.metric}³" if self.note else self.metric
        return f"{self.place}. {self.title}: {metric} ({unit}{self.rows[0].experiment.better})"

    @property
    def run_ids(self) -> set[str]:
        """The evidence of all rows, and of the claims that their p is corrected with."""
        return {run_id for row in self.rows for run_id in row.run_ids} | self.claimed


def build(runs: pd.DataFrame, number: str, data: str = "real", protocol: str = "table2") -> Table:
    """Fill one of the paper's tables.

    Runs enter it if they follow the protocol to the letter, and can be compared. Optimizers that the paper does not
    have come after its own. A comparison with the reference that is a claim of the paper is corrected with the other
    claims (:mod:`tmsgd_bench.results.families`); the others are a family of their own. Under a protocol of
    ``OWN_SETTINGS`` models and data sets without a run have no rows but are named: such a protocol need not train all
    that the paper did.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        number: the table's key in ``paper.yaml``.
        data: "real" or "synthetic".
        protocol: the protocol's name.

    Raises:
        ConfigError: the paper has no such table here.
        StoreError: a run reports another metric than the table asks for.
    """
    table, blocks = layout(number, protocol), experiments(number, protocol)
    rows: list[Row] = []
    versions: set[int] = set()
    selected = [selection.select(runs, experiment, data, protocol) for experiment in blocks]
    untried = _untried(blocks, selected, protocol)
    for experiment, chosen in zip(blocks, selected, strict=True):
        if experiment in untried:
            continue
        experiment = selection.with_own_optimizers(experiment, chosen)
        versions |= {int(version) for version in chosen.loc[~chosen["left_out"], "benchmark_version"]}
        rows += [_row(name, chosen, experiment, table["reference"]) for name in experiment.labels]
        rows += _before_training(chosen, experiment)
    tested = families.tested(runs, blocks, selected)
    return Table(
        number=number,
        title=table["title"] if len(blocks) > 1 else f"{table['title']} with {blocks[0].label}",
        metric=table["name"],
        reference=blocks[0].labels[table["reference"]],
        conditions="; ".join(
            filter(
                None,
                [_conditions(blocks, data, protocol, versions), _named(untried), selection.left_out(runs, selected)],
            )
        ),
        rows=tuple(_with_claims(rows, tested, table["reference"])),
        claimed=frozenset(name for test in tested.values() for name in families.evidence(test)),
        note=table.get("note", ""),
        **{key: table[key] for key in ("place", "unit", "direction", "digits")},
    )


def _conditions(blocks: Sequence[Experiment], data: str, protocol: str, versions: set[int]) -> str:
    """Which runs enter a table."""
    version = " and ".join(map(str, sorted(versions))) or "none yet"
    names = {experiment.dataset for experiment in blocks}
    kind = f"{data} data" + (f" ({names.pop()})" if len(names) == 1 and None not in names else "")
    level = f", level {LEVELS[protocol]}" if data == "real" and protocol in LEVELS else ""
    return f"{kind}, protocol {protocol}{level}, benchmark version {version}"


def _untried(blocks: Sequence[Experiment], selected: Sequence[pd.DataFrame], protocol: str) -> list[Experiment]:
    """The experiments that have no row: those without a run, if the protocol is our own and others have runs."""
    without = [experiment for experiment, chosen in zip(blocks, selected, strict=True) if chosen.empty]
    return without if protocol in OWN_SETTINGS and len(without) < len(blocks) else []


def _named(untried: Sequence[Experiment]) -> str:
    return f"without runs: {', '.join(experiment.label for experiment in untried)}" if untried else ""


def other_conditions(runs: pd.DataFrame, number: str) -> str:
    """A phrase that counts the finished runs of a table's experiments, for a reader whose table is empty.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        number: the table's key in ``paper.yaml``.

    Raises:
        ConfigError: the paper has no such table here.
    """
    counts = sum(
        (Counter(selection.elsewhere(runs, experiment)) for experiment in experiments(number)),
        Counter[tuple[str, str]](),
    )
    return "; ".join(
        f"{count} with --data {data} --protocol {protocol}"
        if protocol
        else f"{count} on {data} data at other settings or on unverified data, which 'compare' shows"
        for (data, protocol), count in counts.items()
    )


def _row(optimizer: str, chosen: pd.DataFrame, experiment: Experiment, reference: str) -> Row:
    of_optimizer, of_reference = (selection.counted(chosen, name) for name in (optimizer, reference))
    done = of_optimizer[of_optimizer["status"] == Status.DONE]
    row = Row(
        experiment=experiment,
        optimizer=optimizer,
        label=experiment.labels[optimizer],
        printed=experiment.printed.get(optimizer),
        final=summarise(done["final"]),
        best=summarise(done["best"]),
        comparison=None,
        marks=(
            *selection.marks(of_optimizer),
            *_left_out(chosen[chosen["optimizer"] == optimizer], experiment.metric_label),
        ),
        run_ids=selection.evidence(of_optimizer),
    )
    if optimizer == reference:
        return row
    comparison = compare(*(selection.outcomes(side, experiment.direction) for side in (of_optimizer, of_reference)))
    return replace(
        row,
        comparison=comparison,
        printed_difference=families.printed_difference(experiment, (optimizer, reference), comparison),
        last=last_epochs.compared(of_optimizer, of_reference, experiment),
    )


def _before_training(chosen: pd.DataFrame, experiment: Experiment) -> list[Row]:
    """A row for the weights that training begins with, if the task measures them; it is compared with nothing."""
    measured = chosen[~chosen["left_out"] & chosen["initial"].notna()]
    if measured.empty:
        return []
    return [
        Row(
            experiment=experiment,
            optimizer="",
            label="not fine-tuned",
            printed=None,
            final=summarise(measured.groupby("seed")["initial"].first()),
            best=summarise(measured["best"].iloc[:0]),
            comparison=None,
            marks=("the weights that training begins with",),
            run_ids=tuple(measured["run_id"]),
        )
    ]


def _with_claims(rows: Sequence[Row], tested: Mapping[Key, Tested], reference: str) -> list[Row]:
    """The rows with their comparisons corrected, and with the verdicts of those that are claims."""
    compared = [(row, row.comparison) for row in rows if row.comparison is not None]
    claimed = [families.claim(tested, row.experiment, (row.optimizer, reference)) for row, _ in compared]
    corrected = iter(families.complete([comparison for _, comparison in compared], claimed))
    judged = {
        (row.experiment.key, row.optimizer): tested[key].judgement
        for row, _ in compared
        if (key := (row.experiment.key, (row.optimizer, reference))) in tested
    }
    return [
        row
        if row.comparison is None
        else replace(row, comparison=next(corrected), judgement=judged.get((row.experiment.key, row.optimizer)))
        for row in rows
    ]


def _left_out(every: pd.DataFrame, metric: str) -> list[str]:
    older, unmeasured = int((every["left_out"] & ~every["unmeasured"]).sum()), int(every["unmeasured"].sum())
    marks = [f"{number_of(older, 'run')} of older settings left out"] if older else []
    return [*marks, f"{number_of(unmeasured, 'run')} without {metric} left out"] if unmeasured else marks
