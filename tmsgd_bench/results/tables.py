"""The paper's tables with our numbers beside the printed ones.

A table is a pure function of the frame of runs and of the paper's numbers (``paper.yaml``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from tmsgd_bench import escaping
from tmsgd_bench.results import selection
from tmsgd_bench.results.paper import Experiment, Printed, experiments, layout
from tmsgd_bench.results.statistics import (
    ALPHA,
    FEW_SEEDS,
    POWER,
    Comparison,
    Difference,
    Summary,
    compare,
    correct,
    summarise,
)


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

    @property
    def heading(self) -> str:
        """Place, title, metric, unit and direction on one line."""
        unit = f"{self.unit}, " if self.unit else ""
        return f"{self.place}. {self.title}: {self.metric} ({unit}{self.rows[0].experiment.better})"

    @property
    def run_ids(self) -> set[str]:
        """The evidence of all rows."""
        return {run_id for row in self.rows for run_id in row.run_ids}


def build(runs: pd.DataFrame, number: str, data: str = "real", protocol: str = "table2") -> Table:
    """Fill one of the paper's tables.

    Only runs that follow the protocol to the letter on verified data enter it, and only ones that can be compared.
    Its comparisons with the reference are one family of tests.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        number: the table's key in ``paper.yaml``.
        data: "real" or "synthetic".
        protocol: the protocol's name.

    Raises:
        ConfigError: the paper has no such table here.
        StoreError: a run reports another metric than the table asks for.
    """
    table, parts = layout(number), experiments(number)
    rows: list[Row] = []
    versions: set[int] = set()
    selected = [selection.select(runs, experiment, data, protocol) for experiment in parts]
    for experiment, chosen in zip(parts, selected, strict=True):
        versions |= {int(version) for version in chosen.loc[~chosen["left_out"], "benchmark_version"]}
        rows += [_row(name, chosen, experiment, table["reference"]) for name in experiment.labels]
        rows += _before_training(chosen, experiment)
    version = " and ".join(map(str, sorted(versions))) or "none yet"
    names = {experiment.dataset for experiment in parts}
    kind = f"{data} data" + (f" ({names.pop()})" if len(names) == 1 and None not in names else "")
    return Table(
        number=number,
        title=table["title"] if len(parts) > 1 else f"{table['title']} with {parts[0].label}",
        metric=table["name"],
        reference=parts[0].labels[table["reference"]],
        conditions="; ".join(
            filter(
                None,
                [
                    f"{kind}, protocol {protocol}, benchmark version {version}",
                    selection.left_out(runs, selected),
                ],
            )
        ),
        rows=tuple(_corrected(rows)),
        **{key: table[key] for key in ("place", "unit", "direction", "digits")},
    )


def other_conditions(runs: pd.DataFrame, number: str) -> str:
    """In words, which finished runs of a table's experiments the store has, for a reader whose table is empty; empty if
    it has none.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        number: the table's key in ``paper.yaml``.

    Raises:
        ConfigError: the paper has no such table here.
    """
    counts = sum((Counter(selection.elsewhere(runs, one)) for one in experiments(number)), Counter[tuple[str, str]]())
    return "; ".join(
        f"{count} with --data {data} --protocol {protocol}"
        if protocol
        else f"{count} on {data} data at other settings or on unverified data, which 'compare' shows"
        for (data, protocol), count in counts.items()
    )


def _row(optimizer: str, chosen: pd.DataFrame, experiment: Experiment, reference: str) -> Row:
    own = selection.counted(chosen, optimizer)
    done = own[own["status"] == "done"]
    others = selection.outcomes(selection.counted(chosen, reference), experiment.direction)
    ours = selection.outcomes(own, experiment.direction)
    return Row(
        experiment=experiment,
        optimizer=optimizer,
        label=experiment.labels[optimizer],
        printed=experiment.printed.get(optimizer),
        final=summarise(done["final"]),
        best=summarise(done["best"]),
        comparison=None if optimizer == reference else compare(ours, others),
        marks=(*selection.marks(own), *_left_out(chosen[chosen["optimizer"] == optimizer], experiment.metric_label)),
        run_ids=selection.evidence(own),
    )


def _before_training(chosen: pd.DataFrame, experiment: Experiment) -> list[Row]:
    """What the weights that training begins with can do already, where a task measures it; compared with nothing."""
    own = chosen[~chosen["left_out"] & ~chosen["copy"] & chosen["initial"].notna()]
    if own.empty:
        return []
    return [
        Row(
            experiment=experiment,
            optimizer="",
            label="not fine-tuned",
            printed=None,
            final=summarise(own.groupby("seed")["initial"].first()),
            best=summarise(own["best"].iloc[:0]),
            comparison=None,
            marks=("the weights that training begins with",),
            run_ids=tuple(own["run_id"]),
        )
    ]


def _corrected(rows: Sequence[Row]) -> list[Row]:
    corrected = iter(correct([row.comparison for row in rows if row.comparison is not None]))
    return [row if row.comparison is None else replace(row, comparison=next(corrected)) for row in rows]


def _left_out(every: pd.DataFrame, metric: str) -> list[str]:
    older, copies = int((every["left_out"] & ~every["unmeasured"]).sum()), int(every["copy"].sum())
    unmeasured = int(every["unmeasured"].sum())
    marks = [f"{older} runs of older settings left out"] if older else []
    marks += [f"{unmeasured} runs without {metric} left out"] if unmeasured else []
    return [*marks, f"{copies} copies of runs left out"] if copies else marks


# ---------------------------------------------------------------- printed forms


def to_markdown(table: Table) -> str:
    """The table in GitHub's Markdown, with the rules it was made by."""
    head = columns(table)
    lines = [f"**{table.heading}** — {table.conditions}", "", _line(head), "|---" * len(head) + "|"]
    lines += [_line(markdown_words(cells(row, table))) for row in table.rows]
    return "\n".join([*lines, "", footnote()]) + "\n"


def markdown_words(texts: Sequence[str]) -> list[str]:
    """The cells of a row whose first and last are words of any origin; between them are numbers."""
    return [escaping.markdown(texts[0]), *texts[1:-1], escaping.markdown(texts[-1])]


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


def latex_tabular(head: Sequence[str], body: Sequence[Sequence[str]], layout: str) -> list[str]:
    """The lines of a tabular, every cell escaped.

    Args:
        head, body: plain text.
        layout: one letter a column.
    """

    def line(texts: Sequence[str]) -> str:
        return " & ".join(map(escaping.latex, texts)) + r" \\"

    rows = [line(texts) for texts in body]
    return [
        rf"\begin{{tabular}}{{{layout}}}",
        r"\toprule",
        line(head),
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]


def columns(table: Table) -> list[str]:
    """The heads of the printed columns."""
    difference = f"Ours − {table.reference}, paired"
    return [
        "Optimizer",
        "Paper",
        "Ours, final epoch",
        difference,
        "p",
        "p, Holm",
        "Detectable²",
        "Best epoch¹",
        "Marks",
    ]


def cells(row: Row, table: Table) -> list[str]:
    """The printed cells of a row, in the order of :func:`columns`."""
    several = len({one.experiment.key for one in table.rows}) > 1
    digits = table.digits + 1
    return [
        f"{row.experiment.label}: {row.label}" if several else row.label,
        "–" if row.printed is None else row.printed.text,
        summary(row.final, digits),
        "–" if row.difference is None else difference(row.difference, digits),
        *tests(row.comparison, digits),
        summary(row.best, digits),
        "; ".join(row.marks),
    ]


def tests(comparison: Comparison | None, digits: int) -> list[str]:
    """Three cells: p, p after Holm, and the detectable difference."""
    if comparison is None:
        return ["–", "–", "–"]
    detectable = "–" if math.isnan(comparison.detectable) else f"{comparison.detectable:.{digits}f}"
    return [p_value(comparison.p), p_value(comparison.p_holm), detectable]


def p_value(p: float) -> str:
    """A p-value to two significant digits."""
    if math.isnan(p):
        return "–"
    if p < 0.001:
        return "<0.001"
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return next(text for text in texts if float(text) != ALPHA or p == ALPHA)  # 0.0497 is not 0.05


def summary(value: Summary, digits: int) -> str:
    """Mean ± standard deviation (n)."""
    if value.n == 0:
        return "–"
    spread = "" if math.isnan(value.std) else f" ± {value.std:.{digits}f}"
    return f"{value.mean:.{digits}f}{spread} (n={value.n})"


def difference(value: Difference, digits: int) -> str:
    """Mean [interval] (n), signs always shown."""
    if value.n == 0:
        return "–"
    if math.isnan(value.low):
        return f"{signed(value.mean, digits)} (n={value.n})"
    return f"{signed(value.mean, digits)} [{signed(value.low, digits)}, {signed(value.high, digits)}] (n={value.n})"


def signed(value: float, digits: int) -> str:
    """A number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def footnote() -> str:
    """The rules that every table is made by."""
    return (
        "Mean ± sample standard deviation over n seeds; differences are paired by seed, with a 95 % "
        f"percentile bootstrap interval, which is too narrow below about ten pairs and is marked below {FEW_SEEDS}. "
        "p: paired t-test, two-sided; where a run diverged the exact sign test, in which it counts as worse than any "
        "number, and the means are over the other runs. “p, Holm” corrects for the comparisons of this table; a "
        f"difference is decided below {ALPHA:g}. No p: fewer than two pairs, or differences that are all equal. "
        "¹ The best epoch is chosen on test data: it is shown because papers report it, not as evidence. "
        "² The smallest true difference that as many pairs with this spread would have decided with probability "
        f"{POWER:g}."
    )


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


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


def comparison_record(comparison: Comparison | None) -> dict[str, Any]:
    """A comparison's numbers in full; what is not known is NaN."""
    found = comparison or Comparison(Difference(math.nan, math.nan, math.nan, 0), math.nan, 0, 0, 0, 0, math.nan)
    return {
        "difference": found.difference.mean,
        "low": found.difference.low,
        "high": found.difference.high,
        "pairs": found.difference.n,
        "spread": found.spread,
        "above": found.above,
        "below": found.below,
        "diverged_pairs": found.diverged + found.void,
        "p": found.p,
        "p_holm": found.p_holm,
        "family": found.family,
        "detectable": found.detectable,
    }
