"""The paper's tables with our numbers beside the printed ones.

A table is a pure function of the frame of runs and of the paper's numbers (``paper.yaml``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

from tmsgd_bench.errors import ConfigError
from tmsgd_bench.results.statistics import FEW_SEEDS, Difference, Summary, paired_difference, summarise


@dataclass(frozen=True)
class Row:
    """One optimizer.

    Args:
        label: as the paper prints it.
        printed: the paper's value, or None.
        final: ours after the last epoch.
        best: ours at the best epoch of each run, which is chosen on test data.
        difference: final, paired by seed, minus the reference optimizer; None for the reference itself.
        marks: what a reader must know about this row.
        run_ids: the evidence.
    """

    label: str
    printed: float | None
    final: Summary
    best: Summary
    difference: Difference | None
    marks: tuple[str, ...]
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table of the paper, filled.

    Args:
        number: its number in the paper.
        title, metric, unit, direction, digits: from the paper's page.
        reference: label of the optimizer that differences are taken to.
        conditions: data, protocol and benchmark version of the runs in it.
        rows: one for each optimizer.
    """

    number: str
    title: str
    metric: str
    unit: str
    direction: str
    digits: int
    reference: str
    conditions: str
    rows: tuple[Row, ...]


@cache
def paper() -> dict[str, Any]:
    """The paper's printed numbers."""
    values: dict[str, Any] = yaml.safe_load((files("tmsgd_bench.results") / "paper.yaml").read_text(encoding="utf-8"))
    return values


def build(runs: pd.DataFrame, number: str, data: str = "real", protocol: str = "table2") -> Table:
    """Fill one of the paper's tables.

    Only runs that follow the protocol to the letter on verified data enter it, and only ones that can be compared.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        number: the table's number in the paper.
        data: "real" or "synthetic".
        protocol: the protocol's name.

    Raises:
        ConfigError: the paper has no such table here.
    """
    if number not in paper()["tables"]:
        raise ConfigError(f"there is no table {number!r} here: choose one of {', '.join(paper()['tables'])}.")
    layout = paper()["tables"][number]
    chosen = _select(runs, layout, data, protocol)
    labels = {row["optimizer"]: row["label"] for row in layout["rows"]}
    used = chosen[~chosen["left_out"]]
    version = used["benchmark_version"].iloc[0] if len(used) else "none yet"
    return Table(
        number=number,
        reference=labels[layout["reference"]],
        conditions=f"{data} data, protocol {protocol}, benchmark version {version}",
        rows=tuple(_row(entry, chosen, layout, data) for entry in layout["rows"]),
        **{key: layout[key] for key in ("title", "metric", "unit", "direction", "digits")},
    )


def _select(runs: pd.DataFrame, layout: Mapping[str, Any], data: str, protocol: str) -> pd.DataFrame:
    follows = runs["protocols"].map(lambda names: protocol in names).astype(bool)
    of_table = (runs["task"] == layout["task"]) & (runs["model"] == layout["model"]) & (runs["data"] == data)
    return _comparable(runs[of_table & follows])


def _comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of one benchmark version and one context, those of the newest result; ``left_out`` marks the others.

    Two contexts or settings can follow one protocol only if a YAML was changed in between; their runs are never
    pooled or paired. A copy of a run counts once.
    """
    runs = runs.assign(has_result=runs["status"].isin(["done", "diverged"]))
    order = ["has_result", "benchmark_version", "started"]
    runs = runs.sort_values(order, ascending=False, na_position="last", kind="stable")
    context = runs["context"].iloc[0] if len(runs) else None
    settings = runs[runs["context"] == context].groupby("optimizer")["setting"].first()
    other = (runs["context"] != context) | (runs["setting"] != runs["optimizer"].map(settings))
    marked = runs.assign(left_out=other, copy=~other & runs.duplicated(["setting", "seed"]))
    return marked.sort_values("run_id", kind="stable")


def _row(entry: Mapping[str, Any], runs: pd.DataFrame, layout: Mapping[str, Any], data: str) -> Row:
    every = runs[runs["optimizer"] == entry["optimizer"]]
    own = every[~every["left_out"] & ~every["copy"]]
    finals = _by_seed(own)
    is_reference = entry["optimizer"] == layout["reference"]
    reference = _by_seed(runs[(runs["optimizer"] == layout["reference"]) & ~runs["left_out"] & ~runs["copy"]])
    difference = None if is_reference else paired_difference(finals, reference)
    return Row(
        label=entry["label"],
        printed=entry.get("value"),
        final=summarise(finals),
        best=summarise(own.loc[own["status"] == "done", "best"]),
        difference=difference,
        marks=(*_marks(own, data, len(finals)), *_left_out(every)),
        run_ids=tuple(own["run_id"]),
    )


def _left_out(every: pd.DataFrame) -> list[str]:
    older, copies = int(every["left_out"].sum()), int(every["copy"].sum())
    marks = [f"{older} runs of older settings left out"] if older else []
    return [*marks, f"{copies} copies of runs left out"] if copies else marks


def _by_seed(runs: pd.DataFrame) -> pd.Series:
    return runs[runs["status"] == "done"].set_index("seed")["final"].astype(float)


def _marks(own: pd.DataFrame, data: str, n: int) -> list[str]:
    marks = [f"{data} data"] if data != "real" else []
    if own["limit"].notna().any():
        marks.append(f"partial data ({int(own['limit'].max())} training examples)")
    for status in ("diverged", "failed", "running", "abandoned"):
        if count := int((own["status"] == status).sum()):
            marks.append(f"{count} {status}")
    if 0 < n < FEW_SEEDS:
        marks.append(f"few seeds (n={n})")
    never = own["switch_epoch"].notna() & (own["switch_epoch"].astype(float) >= own["epochs"].astype(float))
    return [*marks, "never switches: plain SGD"] if never.any() else marks


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with the rules it was made by."""
    head = [
        "Optimizer",
        "Paper",
        "Ours, final epoch",
        f"Ours − {table.reference}, paired",
        "Best epoch¹",
        "Marks",
    ]
    lines = [
        f"**Table {table.number}. {table.title}: {table.metric} ({table.unit}, {_better(table)})** — "
        f"{table.conditions}",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    lines += ["| " + " | ".join(_cells(row, table.digits)) + " |" for row in table.rows]
    return "\n".join([*lines, "", _footnote()]) + "\n"


def to_latex(table: Table) -> str:
    """The table as a LaTeX tabular (needs booktabs)."""
    replacements = {"±": r"$\pm$", "−": "$-$", "%": r"\%", "¹": "$^1$", "–": "--", "_": r"\_", "<": "$<$"}

    def escape(text: str) -> str:
        return "".join(replacements.get(character, character) for character in text)

    head = ["Optimizer", "Paper", "Ours", f"Ours − {table.reference}", "Best epoch¹", "Marks"]
    body = [" & ".join(escape(cell) for cell in _cells(row, table.digits)) + r" \\" for row in table.rows]
    return (
        "\n".join(
            [
                f"% Table {table.number}. {table.title}: {table.metric} ({table.unit}); {table.conditions}",
                r"\begin{tabular}{lrrrrl}",
                r"\toprule",
                " & ".join(escape(cell) for cell in head) + r" \\",
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                f"% {_footnote()}",
            ]
        )
        + "\n"
    )


def to_csv(table: Table) -> str:
    """The table with full digits, one row an optimizer; runs are separated by spaces."""
    frame = pd.DataFrame([_record(row) for row in table.rows])
    frame.insert(0, "table", table.number)
    frame["conditions"] = table.conditions
    return str(frame.to_csv(index=False))


FORMATS = {"md": to_markdown, "csv": to_csv, "tex": to_latex}


def _record(row: Row) -> dict[str, Any]:
    difference = row.difference or Difference(math.nan, math.nan, math.nan, 0)
    return {
        "optimizer": row.label,
        "paper": row.printed,
        "mean": row.final.mean,
        "std": row.final.std,
        "n": row.final.n,
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "pairs": difference.n,
        "best_mean": row.best.mean,
        "best_std": row.best.std,
        "marks": "; ".join(row.marks),
        "runs": " ".join(row.run_ids),
    }


def _cells(row: Row, digits: int) -> list[str]:
    printed = "–" if row.printed is None else f"{row.printed:.{digits}f}"
    return [
        row.label,
        printed,
        _summary(row.final, digits + 1),
        _difference(row.difference, digits + 1),
        _summary(row.best, digits + 1),
        "; ".join(row.marks),
    ]


def _summary(value: Summary, digits: int) -> str:
    if value.n == 0:
        return "–"
    spread = "" if math.isnan(value.std) else f" ± {value.std:.{digits}f}"
    return f"{value.mean:.{digits}f}{spread} (n={value.n})"


def _difference(value: Difference | None, digits: int) -> str:
    if value is None or value.n == 0:
        return "–"
    if math.isnan(value.low):
        return f"{_signed(value.mean, digits)} (n={value.n})"
    return f"{_signed(value.mean, digits)} [{_signed(value.low, digits)}, {_signed(value.high, digits)}] (n={value.n})"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _better(table: Table) -> str:
    return "higher is better" if table.direction == "max" else "lower is better"


def _footnote() -> str:
    return (
        "Mean ± sample standard deviation over n seeds; differences are paired by seed, with a 95 % "
        f"percentile bootstrap interval, which is too narrow below about ten pairs and is marked below {FEW_SEEDS}. "
        "¹ The best epoch is chosen on test data: it is shown because papers report it, not as evidence."
    )
