"""The printed forms of a table of the paper: Markdown, LaTeX and CSV, and the text of its cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from tmsgd_bench import escaping
from tmsgd_bench.results.cells import (
    HEADS,
    LEAST_OF_ROWS,
    Cells,
    comparison_record,
    difference,
    footnote,
    interval_name,
    latex_tabular,
    markdown_row,
    printed_outside,
)
from tmsgd_bench.results.cells import row as result_row
from tmsgd_bench.results.tables import Row, Table
from tmsgd_bench.results.verdicts import RULE

OUTSIDE = "Printed outside our interval"
LEAST = (*LEAST_OF_ROWS, "*, mean of the last * epochs", OUTSIDE, HEADS.p_holm)
"""The columns that a narrow terminal may lack, as shell patterns, the least needed first."""


def columns(table: Table) -> tuple[str, ...]:
    """The heads of the printed columns."""
    interval = interval_name(row.comparison for row in table.rows)
    ours = HEADS._replace(final="Ours, final epoch", difference=f"Ours − {table.reference}, paired [{interval}]")
    last = f"Ours − {table.reference}, mean of the last {_last_epochs(table)} epochs"
    return _in_order(ours, table, "Paper", f"Better than {table.reference}?", OUTSIDE, last)


def cells(row: Row, table: Table) -> tuple[str, ...]:
    """The printed cells of a row."""
    return _with_papers(_ours(row, table), row, table)


def _ours(row: Row, table: Table) -> Cells:
    several = len({entry.experiment.key for entry in table.rows}) > 1
    texts = result_row(row, table.digits + 1)
    return texts._replace(optimizer=f"{row.experiment.label}: {row.label}") if several else texts


def _with_papers(texts: Cells, row: Row, table: Table) -> tuple[str, ...]:
    """A row's cells with those that compare it with the paper."""
    return _in_order(
        texts,
        table,
        "–" if row.printed is None else row.printed.text,
        "–" if row.judgement is None else row.judgement.text,
        printed_outside(row.printed_difference, row.comparison),
        "–" if row.last is None else difference(row.last, table.digits + 1, table.direction),
    )


def _in_order(texts: Cells, table: Table, printed: str, verdict: str, outside: str, last: str) -> tuple[str, ...]:
    """A row with the paper's cell in the second column, and without ``last`` where no row has it."""
    *ours, best, marks = texts[1:]
    return texts[0], printed, *ours, verdict, outside, *([last] if _last_epochs(table) else []), best, marks


def _last_epochs(table: Table) -> int | None:
    """Over how many epochs the means of long runs are, if any row has one."""
    return next((row.experiment.last_epochs for row in table.rows if row.last is not None), None)


def footnotes(table: Table) -> str:
    """The rules that the table was made by, and its own footnote."""
    rules = f"{footnote()} {RULE}"
    return f"{rules} ³ {table.note}" if table.note else rules


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with the rules it was made by."""
    head = columns(table)
    lines = [f"**{table.heading}** — {table.conditions}", "", markdown_row(head), "|---" * len(head) + "|"]
    lines += [markdown_row(_with_papers(_ours(row, table).in_markdown(), row, table)) for row in table.rows]
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
    judged, last = row.judgement, row.last
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
        "verdict": None if judged is None else judged.verdict,
        "seeds_to_decide": None if judged is None else judged.seeds,
        "printed_outside": None if row.printed_difference is None else row.printed_difference.outside,
        "last_difference": None if last is None else last.difference.mean,
        "last_low": None if last is None else last.difference.low,
        "last_high": None if last is None else last.difference.high,
        "last_pairs": None if last is None else last.difference.n,
        "best_mean": row.best.mean,
        "best_std": row.best.std,
        "marks": "; ".join(row.marks),
        "runs": " ".join(row.run_ids),
    }
