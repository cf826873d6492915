"""The printed forms of a table of the paper: Markdown, LaTeX and CSV, and the text of its cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from tmsgd_bench import escaping
from tmsgd_bench.results.cells import HEADS, Cells, comparison_record, footnote, latex_tabular, markdown_row
from tmsgd_bench.results.cells import row as result_row
from tmsgd_bench.results.tables import Row, Table


def columns(table: Table) -> tuple[str, ...]:
    """The heads of the printed columns."""
    ours = HEADS._replace(final="Ours, final epoch", difference=f"Ours − {table.reference}, paired")
    return _with_printed(ours, "Paper")


def cells(row: Row, table: Table) -> tuple[str, ...]:
    """The printed cells of a row."""
    return _with_printed(_ours(row, table), _printed(row))


def _ours(row: Row, table: Table) -> Cells:
    several = len({entry.experiment.key for entry in table.rows}) > 1
    texts = result_row(row, table.digits + 1)
    return texts._replace(optimizer=f"{row.experiment.label}: {row.label}") if several else texts


def _printed(row: Row) -> str:
    return "–" if row.printed is None else row.printed.text


def _with_printed(texts: Cells, printed: str) -> tuple[str, ...]:
    """A row with the paper's cell in the second column."""
    return texts[0], printed, *texts[1:]


def footnotes(table: Table) -> str:
    """The rules that the table was made by, and its own footnote."""
    return f"{footnote()} ³ {table.note}" if table.note else footnote()


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with the rules it was made by."""
    head = columns(table)
    lines = [f"**{table.heading}** — {table.conditions}", "", markdown_row(head), "|---" * len(head) + "|"]
    lines += [markdown_row(_with_printed(_ours(row, table).in_markdown(), _printed(row))) for row in table.rows]
    return "\n".join([*lines, "", footnotes(table)]) + "\n"


def to_latex(table: Table) -> str:
    """The table as a LaTeX tabular (needs booktabs)."""
    head, body = columns(table), [cells(row, table) for row in table.rows]
    lines = [
        escaping.plain(f"% {table.heading}; {table.conditions}"),
        *latex_tabular(head, body, "l" + "r" * (len(head) - 2) + "l"),
    ]
    return "\n".join([*lines, f"% {footnotes(table)}"]) + "\n"


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
