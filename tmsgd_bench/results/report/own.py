"""The report's sections on tasks and models that the paper does not have: each a table of ``compare``, with charts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tmsgd_bench.results import comparison, rows, selection
from tmsgd_bench.results.cells import Cells
from tmsgd_bench.results.cells import row as result_row
from tmsgd_bench.results.comparison import Entry, Group
from tmsgd_bench.results.paper import Experiment
from tmsgd_bench.results.report import content
from tmsgd_bench.results.report.charts import ExperimentRuns
from tmsgd_bench.results.report.content import Part
from tmsgd_bench.results.rows import Reference
from tmsgd_bench.results.status import FINISHED
from tmsgd_bench.results.tables import Row

REFERENCE = Reference(comparison.USUAL)
SEVERAL = "Of an optimizer with several rows the charts show one, which is chosen as the reference is."


@dataclass(frozen=True)
class OwnSection:
    """A table of runs that can be compared, with what belongs to it.

    Args:
        anchor: unique on the page.
        title: task, model, data, epochs and batch size.
        group: the table.
        parts: its charts, pictures and settings.
        warning: what the charts leave out; empty if nothing.
    """

    anchor: str
    title: str
    group: Group
    parts: tuple[Part, ...]
    warning: str

    @property
    def heading(self) -> str:
        """Of the table."""
        return self.group.heading

    @property
    def conditions(self) -> str:
        """To what the differences are taken, as a sentence."""
        if not self.group.reference:
            return f"No row is of {REFERENCE}: there are no differences"
        choice = ", one of several rows: the command compare --reference chooses another" if self.group.note else ""
        return f"Differences to {self.group.reference}{choice}"

    @property
    def columns(self) -> Cells:
        """The heads of the table's columns."""
        return comparison.columns(self.group)

    @property
    def least(self) -> list[bool]:
        """Whether a phone lacks each column, so that what decides has room."""
        return content.needed_least(self.columns, comparison.LEAST)

    @property
    def rows(self) -> list[tuple[Entry, Cells]]:
        """The rows of the table, each with its printed cells."""
        return [(entry, result_row(entry, self.group.digits)) for entry in self.group.entries]

    @property
    def note(self) -> str:
        """A footnote of this table alone: none."""
        return ""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the table's files."""
        return tuple(comparison.FORMATS)

    def in_form(self, suffix: str) -> str:
        """The text of the table's file with that suffix."""
        return comparison.FORMATS[suffix]([self.group])


def sections(runs: pd.DataFrame, folder: Path) -> list[OwnSection]:
    """A section for each table of runs of tasks, models and data sets that the paper does not have.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        folder: of the page, for links.
    """
    of_user = runs[~selection.of_the_paper(runs)]
    groups = comparison.of_any(of_user, REFERENCE)
    return [_section(of_user, group, number, folder) for number, group in enumerate(groups, start=1)]


def _section(runs: pd.DataFrame, group: Group, number: int, folder: Path) -> OwnSection:
    names = {name for entry in group.entries for name in entry.run_ids}
    of_group = runs[runs["run_id"].isin(names)]
    first = of_group[of_group["status"].isin(FINISHED)].iloc[0]
    anchor = re.sub(r"[^\w.+-]", "_", f"own-{number}-{first['task']}-{first['model']}")
    drawn = list(_drawn(group.entries, of_group))
    experiment = _experiment(first, group, drawn)
    selected = pd.concat([of for _, of in drawn]).assign(left_out=False)
    source = ExperimentRuns(experiment, tuple(_row(experiment, *pair) for pair in drawn), runs, selected)
    warning = SEVERAL if len(drawn) < len(group.entries) else ""
    return OwnSection(anchor, comparison.about(first), group, (content.part(source, anchor, folder),), warning)


def _drawn(entries: Iterable[Entry], runs: pd.DataFrame) -> Iterator[tuple[Entry, pd.DataFrame]]:
    """One entry for each optimizer, with its runs: the charts name and draw rows by their optimizers."""
    of_optimizer: dict[str, list[tuple[Entry, pd.DataFrame]]] = {}
    for entry in entries:
        of_entry = runs[runs["run_id"].isin(entry.run_ids)]
        if len(of_entry):
            of_optimizer.setdefault(str(of_entry["optimizer"].iloc[0]), []).append((entry, of_entry))
    for candidates in of_optimizer.values():
        yield min(candidates, key=lambda candidate: rows.precedence(candidate[1]))


def _experiment(run: pd.Series, group: Group, drawn: Iterable[tuple[Entry, pd.DataFrame]]) -> Experiment:
    """What the charts need to know; nothing of it is the paper's.

    Args:
        run: a finished one.
    """
    return Experiment.own(
        (run["task"], run["model"], run["dataset"]),
        (run["metric"], run["unit"] or "", run["direction"]),
        group.digits - 1,
        {of_entry["optimizer"].iloc[0]: entry.label for entry, of_entry in drawn},
    )


def _row(experiment: Experiment, entry: Entry, runs: pd.DataFrame) -> Row:
    return Row(
        experiment=experiment,
        optimizer=runs["optimizer"].iloc[0],
        label=entry.label,
        printed=None,
        final=entry.final,
        best=entry.best,
        comparison=entry.comparison,
        marks=entry.marks,
        run_ids=entry.run_ids,
    )
