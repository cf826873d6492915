"""The paper's tables with our numbers beside the printed ones.

A table is a pure function of the frame of runs and of the paper's numbers (``paper.yaml``). This module says which rows
it has and which runs enter each; :mod:`tmsgd_bench.results.table_forms` prints it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from tmsgd_bench.results import selection
from tmsgd_bench.results.paper import Experiment, Printed, experiments, layout
from tmsgd_bench.results.statistics import Comparison, Difference, Summary, compare, correct, summarise
from tmsgd_bench.results.status import Status


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
    note: str = ""

    @property
    def heading(self) -> str:
        """Place, title, metric, unit and direction on one line."""
        unit = f"{self.unit}, " if self.unit else ""
        metric = f"{self.metric}³" if self.note else self.metric
        return f"{self.place}. {self.title}: {metric} ({unit}{self.rows[0].experiment.better})"

    @property
    def run_ids(self) -> set[str]:
        """The evidence of all rows."""
        return {run_id for row in self.rows for run_id in row.run_ids}


def build(runs: pd.DataFrame, number: str, data: str = "real", protocol: str = "table2") -> Table:
    """Fill one of the paper's tables.

    Runs enter it if they follow the protocol to the letter, and can be compared. The comparisons with
    the reference are one family of tests.

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
    for experiment, chosen in zip(blocks, selected, strict=True):
        versions |= {int(version) for version in chosen.loc[~chosen["left_out"], "benchmark_version"]}
        rows += [_row(name, chosen, experiment, table["reference"]) for name in experiment.labels]
        rows += _before_training(chosen, experiment)
    version = " and ".join(map(str, sorted(versions))) or "none yet"
    names = {experiment.dataset for experiment in blocks}
    kind = f"{data} data" + (f" ({names.pop()})" if len(names) == 1 and None not in names else "")
    return Table(
        number=number,
        title=table["title"] if len(blocks) > 1 else f"{table['title']} with {blocks[0].label}",
        metric=table["name"],
        reference=blocks[0].labels[table["reference"]],
        conditions="; ".join(
            filter(
                None,
                [
                    f"{kind}, protocol {protocol}, benchmark version {version}",
                    selection.left_out(runs, selected),
                ],
            )
        ),
        rows=tuple(_correct_holm_family(rows)),
        note=table.get("note", ""),
        **{key: table[key] for key in ("place", "unit", "direction", "digits")},
    )


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
    of_optimizer = selection.counted(chosen, optimizer)
    done = of_optimizer[of_optimizer["status"] == Status.DONE]
    others = selection.outcomes(selection.counted(chosen, reference), experiment.direction)
    ours = selection.outcomes(of_optimizer, experiment.direction)
    return Row(
        experiment=experiment,
        optimizer=optimizer,
        label=experiment.labels[optimizer],
        printed=experiment.printed.get(optimizer),
        final=summarise(done["final"]),
        best=summarise(done["best"]),
        comparison=None if optimizer == reference else compare(ours, others),
        marks=(
            *selection.marks(of_optimizer),
            *_left_out(chosen[chosen["optimizer"] == optimizer], experiment.metric_label),
        ),
        run_ids=selection.evidence(of_optimizer),
    )


def _before_training(chosen: pd.DataFrame, experiment: Experiment) -> list[Row]:
    """A row for the weights that training begins with, if the task measures them; it is compared with nothing."""
    measured = chosen[~chosen["left_out"] & ~chosen["copy"] & chosen["initial"].notna()]
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


def _correct_holm_family(rows: Sequence[Row]) -> list[Row]:
    """The rows of one table, whose comparisons are a family."""
    corrected = iter(correct([row.comparison for row in rows if row.comparison is not None]))
    return [row if row.comparison is None else replace(row, comparison=next(corrected)) for row in rows]


def _left_out(every: pd.DataFrame, metric: str) -> list[str]:
    older, copies = int((every["left_out"] & ~every["unmeasured"]).sum()), int(every["copy"].sum())
    unmeasured = int(every["unmeasured"].sum())
    marks = [f"{older} runs of older settings left out"] if older else []
    marks += [f"{unmeasured} runs without {metric} left out"] if unmeasured else []
    return [*marks, f"{copies} copies of runs left out"] if copies else marks
