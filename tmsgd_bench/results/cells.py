"""Cells of printed tables: numbers as text, and rows as Markdown, LaTeX and CSV have them.

The paper's tables, its claims and the comparison of any runs are made of these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import pandas as pd

from tmsgd_bench import escaping
from tmsgd_bench.results.families import PRINTED_FROM, PrintedDifference
from tmsgd_bench.results.statistics import ALPHA, BOOTSTRAP_FROM, FEW_SEEDS, POWER, Comparison, Difference, Summary


class Significance(NamedTuple):
    """What tells whether a difference is one, as text."""

    p: str
    p_holm: str
    detectable: str


# ---------------------------------------------------------------- numbers as text


def decimals(values: pd.Series) -> int:
    """Of a mean of such numbers, where nothing else says how many."""
    return 2 if values.abs().max() >= 10 else 4


def summary(value: Summary, digits: int) -> str:
    """Mean ± standard deviation (n)."""
    if value.n == 0:
        return "–"
    spread = "" if math.isnan(value.std) else f" ± {value.std:.{digits}f}"
    return f"{value.mean:.{digits}f}{spread} (n={value.n})"


def difference(comparison: Comparison, digits: int, direction: str) -> str:
    """Mean [interval] (n, and in how many pairs ours is better, or equal), signs always shown."""
    value = comparison.difference
    if not comparison.pairs:
        return "–"
    better = comparison.above if direction == "max" else comparison.below
    equal = comparison.pairs - comparison.above - comparison.below
    of = f" of {comparison.pairs}" if comparison.diverged else ""
    counts = f"(n={value.n}, better in {better}{of}{f', equal in {equal}' if equal else ''})"
    if not value.n:
        return counts
    if math.isnan(value.low):
        return f"{signed(value.mean, digits)} {counts}"
    return f"{signed(value.mean, digits)} [{signed(value.low, digits)}, {signed(value.high, digits)}] {counts}"


def interval_name(comparisons: Iterable[Comparison | None]) -> str:
    """Which interval stands in the cells of differences, for their heading."""
    counts = [comparison.difference.n for comparison in comparisons if comparison and comparison.difference.n > 1]
    if not counts or max(counts) < BOOTSTRAP_FROM:
        return "95 % t interval"
    return "95 % bootstrap interval" if min(counts) >= BOOTSTRAP_FROM else "95 % t or bootstrap interval"


def signed(value: float, digits: int) -> str:
    """A number with its sign, to so many decimals, or to the first digit that is not zero if that is further on."""
    for decimals in range(digits, digits + 7):
        text = f"{value:+.{decimals}f}"
        if float(text):
            return text.replace("-", "−")
    return (f"{value:+.0e}" if value else f"{0.0:+.{digits}f}").replace("-", "−")


def p_value(p: float) -> str:
    """A p-value to two significant digits."""
    if math.isnan(p):
        return "–"
    if p < 0.001:
        return "<0.001"
    texts = (f"{p:.{digits}g}" for digits in range(2, 18))
    return next(text for text in texts if float(text) != ALPHA or p == ALPHA)  # 0.0497 is not 0.05


def printed_outside(printed: PrintedDifference | None, comparison: Comparison | None) -> str:
    """Whether the printed difference lies outside our interval."""
    if printed is None or comparison is None or not comparison.pairs:
        return "–"
    if printed.outside is None:
        return "too few seeds" if comparison.pairs < PRINTED_FROM else "–"
    return "yes" if printed.outside else "no"


def significance(comparison: Comparison | None, digits: int) -> Significance:
    """p, p after Holm, and the detectable difference; dashes without a comparison."""
    if comparison is None:
        return Significance("–", "–", "–")
    known = not math.isnan(comparison.detectable)
    detectable = signed(comparison.detectable, digits).removeprefix("+") if known else "–"
    return Significance(p_value(comparison.p), p_value(comparison.p_holm), detectable)


# ---------------------------------------------------------------- rows


class Cells(NamedTuple):
    """The cells of an optimizer's row, in the order of the columns; also the heads of the columns."""

    optimizer: str
    final: str
    difference: str
    p: str
    p_holm: str
    detectable: str
    best: str
    marks: str

    def in_markdown(self) -> Cells:
        """The row for a table in Markdown: labels and marks are words of any origin, the other cells are numbers."""
        return self._replace(optimizer=escaping.markdown(self.optimizer), marks=escaping.markdown(self.marks))


HEADS = Cells(
    optimizer="Optimizer",
    final="Final epoch",
    difference="Difference, paired",
    p="p",
    p_holm="p, Holm",
    detectable="Detectable²",
    best="Best epoch¹",
    marks="Marks",
)


LEAST_OF_ROWS = (HEADS.best, HEADS.p, HEADS.detectable)
"""The columns that a narrow terminal may lack, the least needed first: what decides is in the others."""


class Result(Protocol):
    """What an optimizer's row is made of."""

    @property
    def label(self) -> str:
        """The optimizer's name."""

    @property
    def final(self) -> Summary:
        """The primary metric after the last epoch, over seeds."""

    @property
    def best(self) -> Summary:
        """The same at its best epoch."""

    @property
    def comparison(self) -> Comparison | None:
        """Final, paired by seed, with the reference; None for the reference, or where there is none."""

    @property
    def direction(self) -> str:
        """Of the metric."""

    @property
    def marks(self) -> tuple[str, ...]:
        """What a reader must know."""


def row(result: Result, digits: int) -> Cells:
    """The printed cells of a result, to so many decimals."""
    comparison = result.comparison
    return Cells(
        result.label,
        summary(result.final, digits),
        "–" if comparison is None else difference(comparison, digits, result.direction),
        *significance(comparison, digits),
        summary(result.best, digits),
        "; ".join(result.marks),
    )


def markdown_row(texts: Sequence[str]) -> str:
    """A row of a table in GitHub's Markdown, of cells that are Markdown already."""
    return "| " + " | ".join(texts) + " |"


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


def comparison_record(comparison: Comparison | None) -> dict[str, Any]:
    """A comparison's numbers in full; what is not known is NaN."""
    known = comparison or Comparison(Difference(math.nan, math.nan, math.nan, 0), math.nan, 0, 0, 0, 0, math.nan)
    return {
        "difference": known.difference.mean,
        "low": known.difference.low,
        "high": known.difference.high,
        "pairs": known.difference.n,
        "spread": known.spread,
        "above": known.above,
        "below": known.below,
        "base": known.base,
        "diverged_pairs": known.diverged + known.void,
        "p": known.p,
        "p_holm": known.p_holm,
        "family": known.family,
        "detectable": known.detectable,
    }


def footnote() -> str:
    """The rules that every table of the paper and every comparison is made by."""
    return (
        "Mean ± sample standard deviation over n seeds. Differences are paired by seed, with a 95 % interval: "
        f"Student's t below {BOOTSTRAP_FROM} pairs, a percentile bootstrap from there on. Fewer than {FEW_SEEDS} seeds "
        "are marked. p: paired t-test, two-sided; where a run diverged the exact sign test, in which it counts as "
        "worse than any number, and the means are over the other runs. “p, Holm” is p after Holm's correction. A "
        "claim of the paper is corrected over the claims of one table of the paper under one protocol, tested or not; "
        "all other comparisons are corrected over those that stand here together. A difference is decided below "
        f"{ALPHA:g}. No p: fewer than two pairs, or differences that are all equal. "
        "¹ The best epoch is chosen on test data: it is shown because papers report it, not as evidence. "
        "² The smallest true difference that as many pairs with this spread would have decided with probability "
        f"{POWER:g}; none below {FEW_SEEDS} pairs, which decide nothing."
    )
