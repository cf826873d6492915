"""The printed forms of the times to target: Markdown, LaTeX and CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd

from tmsgd_bench import escaping
from tmsgd_bench.results.cells import latex_tabular, markdown_row
from tmsgd_bench.results.targets import LOSS, REFERENCE, Row, Target, TargetTable, shown_share
from tmsgd_bench.version import LEVELS

MANY = 100
"""Seconds from which on no decimal is printed."""
LEAST = ("Seconds ÷ *", "Seconds¹")
"""The columns that a narrow terminal may lack, as shell patterns, the least needed first."""


def heading(target: Target) -> str:
    """What is trained, the protocol, and the target."""
    level = f", level {LEVELS[target.protocol]}" if target.protocol in LEVELS else ""
    return f"{target.experiment.task}, {target.experiment.label}, protocol {target.protocol}{level}: {_goal(target)}"


def _goal(target: Target) -> str:
    is_own = target.metric == target.experiment.metric
    name, unit = (target.experiment.metric_label, target.experiment.unit) if is_own else ("training loss", "")
    sign = "≥" if target.direction == "max" else "≤"
    return f"{name} {sign} {target.value:.{target.experiment.digits + 1 if is_own else 3}f}{f' {unit}' * bool(unit)}"


def origin(target: Target) -> str:
    """Where the target comes from."""
    seeds = ", ".join(map(str, target.seeds))
    which = f"mean of seeds {seeds}" if len(target.seeds) > 1 else f"seed {seeds} alone"
    name = target.experiment.labels[REFERENCE]
    late = f"; {target.experiment.metric_label} is measured too late for a target" if target.metric == LOSS else ""
    return f"what {name} reaches at {shown_share()} of its run ({which}, fixed on {target.frozen}{late})"


def columns(table: TargetTable) -> tuple[str, ...]:
    """The heads of the printed columns."""
    base = table.target.experiment.labels[REFERENCE]
    return ("Optimizer", "Reached", "Epochs", f"Epochs ÷ {base}'s", "Seconds¹", f"Seconds ÷ {base}'s¹", "Marks")


def cells(row: Row) -> tuple[str, ...]:
    """The printed cells of a row."""
    return (
        row.label,
        f"{len(row.reached)} of {row.runs}" if row.runs else "–",
        _number(row.epochs),
        _ratio(row.epochs_ratio, row.pairs),
        _number(row.seconds),
        _ratio(row.seconds_ratio, row.pairs),
        "; ".join(row.marks),
    )


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:.0f}" if value >= MANY or value == int(value) else f"{value:.1f}"


def _ratio(value: float, pairs: int) -> str:
    return "–" if math.isnan(value) else f"{value:.2f} (n={pairs})"


def footnote() -> str:
    """The rules that every table is made by."""
    return (
        "Reached: the runs that reached the target at some epoch, of those that finished; a run that never does, or "
        "diverges before, has not. Epochs and seconds are medians over the runs that reached it alone: read them with "
        "that count. Ratios are medians over the seeds with which both this optimizer and SGD reached it (n). Before "
        "its switch TM-SGD is SGD, and TM-SGD-M is SGD-M: a target reached there is reached after the same epochs. "
        "¹ Seconds are of training alone, on the machine of each run and under its load at the time. They compare no "
        "tasks, and runs only as far as the load was the same. The ratio is to the same seed's SGD."
    )


def to_markdown(tables: Sequence[TargetTable]) -> str:
    """All tables in GitHub's Markdown, with the rules they were made by."""
    return "\n".join([*(line for table in tables for line in _lines(table)), footnote()]) + "\n"


def _lines(table: TargetTable) -> Iterator[str]:
    yield f"**{escaping.markdown(heading(table.target))}** — {origin(table.target)}"
    yield ""
    yield markdown_row(columns(table))
    yield "|---" * len(columns(table)) + "|"
    yield from (markdown_row([escaping.markdown(cell) for cell in cells(row)]) for row in table.rows)
    yield ""


def to_latex(tables: Sequence[TargetTable]) -> str:
    """All tables as LaTeX tabulars (needs booktabs)."""
    lines: list[str] = []
    for table in tables:
        lines.append(escaping.plain(f"% {heading(table.target)}; {origin(table.target)}"))
        lines += latex_tabular(columns(table), [cells(row) for row in table.rows], "lrrrrrl")
    return "\n".join([*lines, f"% {footnote()}"]) + "\n"


def to_csv(tables: Sequence[TargetTable]) -> str:
    """All rows with full digits; runs are separated by spaces."""
    return escaping.csv(pd.DataFrame([_record(row, table.target) for table in tables for row in table.rows]))


def _record(row: Row, target: Target) -> dict[str, Any]:
    return {
        "task": target.experiment.task,
        "model": target.experiment.model,
        "dataset": target.experiment.dataset,
        "protocol": target.protocol,
        "metric": target.metric,
        "direction": target.direction,
        "target": target.value,
        "target_seeds": " ".join(map(str, target.seeds)),
        "frozen": target.frozen,
        "optimizer": row.label,
        "n": row.runs,
        "reached": len(row.reached),
        "median_epochs": row.epochs,
        "median_training_seconds": row.seconds,
        "pairs": row.pairs,
        "median_epochs_ratio": row.epochs_ratio,
        "median_seconds_ratio": row.seconds_ratio,
        "marks": "; ".join(row.marks),
        "runs": " ".join(row.run_ids),
    }


FORMATS: dict[str, Callable[[Sequence[TargetTable]], str]] = {"md": to_markdown, "csv": to_csv, "tex": to_latex}
