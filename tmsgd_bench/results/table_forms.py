"""The printed forms of a table of the paper: Markdown, LaTeX and CSV, and the text of its cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

from tmsgd_bench import escaping
from tmsgd_bench.results.cells import (
    comparison_record,
    difference,
    footnote,
    latex_tabular,
    markdown_row,
    significance,
    summary,
)
from tmsgd_bench.results.tables import Row, Table


class Cells(NamedTuple):
    """The cells of a printed row, in the order of the columns."""

    optimizer: str
    paper: str
    final: str
    difference: str
    p: str
    p_holm: str
    detectable: str
    best: str
    marks: str


def columns(table: Table) -> Cells:
    """The heads of the printed columns."""
    return Cells(
        optimizer="Optimizer",
        paper="Paper",
        final="Ours, final epoch",
        difference=f"Ours − {table.reference}, paired",
        p="p",
        p_holm="p, Holm",
        detectable="Detectable²",
        best="Best epoch¹",
        marks="Marks",
    )


def cells(row: Row, table: Table) -> Cells:
    """The printed cells of a row."""
    several = len({one.experiment.key for one in table.rows}) > 1
    digits = table.digits + 1
    return Cells(
        f"{row.experiment.label}: {row.label}" if several else row.label,
        "–" if row.printed is None else row.printed.text,
        summary(row.final, digits),
        "–" if row.difference is None else difference(row.difference, digits),
        *significance(row.comparison, digits),
        summary(row.best, digits),
        "; ".join(row.marks),
    )


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with the rules it was made by."""
    head = columns(table)
    lines = [f"**{table.heading}** — {table.conditions}", "", markdown_row(head), "|---" * len(head) + "|"]
    lines += [markdown_row(_markdown(cells(row, table))) for row in table.rows]
    return "\n".join([*lines, "", footnote()]) + "\n"


def _markdown(texts: Cells) -> Cells:
    """Labels and marks are words of any origin; the other cells are numbers."""
    return texts._replace(optimizer=escaping.markdown(texts.optimizer), marks=escaping.markdown(texts.marks))


def to_latex(table: Table) -> str:
    """The table as a LaTeX tabular (needs booktabs)."""
    head, body = columns(table), [cells(row, table) for row in table.rows]
    lines = [
        escaping.plain(f"% {table.heading}; {table.conditions}"),
        *latex_tabular(head, body, "l" + "r" * (len(head) - 2) + "l"),
    ]
    return "\n".join([*lines, f"% {footnote()}"]) + "\n"


def to_csv(table: Table) -> str:
    """The table with full digits, one row an optimizer; runs are separated by spaces."""
    frame = pd.DataFrame([_record(row) for row in table.rows])
    frame.insert(0, "table", table.number)
    frame["conditions"] = table.conditions
    return escaping.csv(frame)


FORMATS: dict[str, Callable[[Table], str]] = {"md": to_markdown, "csv": to_csv, "tex": to_latex}


def _record(row: Row) -> dict[str, Any]:
    return {
        "task": row.experiment.task,
        "model": row.experiment.model,
        "dataset": row.experiment.dataset,
        "optimizer": row.label,
        "paper": None if row.printed is None else row.printed.value,
        "mean": row.final.mean,
        "std": row.final.std,
        "n": row.final.n,
        **comparison_record(row.comparison),
        "best_mean": row.best.mean,
        "best_std": row.best.std,
        "marks": "; ".join(row.marks),
        "runs": " ".join(row.run_ids),
    }
