"""The report's charts: matplotlib figures as SVG to stand inside a page.

Text stays text, and colours become the page's CSS variables, so that a chart follows the reader's light or dark scheme.
Optimizers differ in dash and marker besides colour: grey is enough. Every chart comes with its content in words.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tmsgd_bench.escaping import mathtext, plain
from tmsgd_bench.results.answer import Gain
from tmsgd_bench.results.differences import DRAWN
from tmsgd_bench.results.figure_gains import draw_gains
from tmsgd_bench.results.report.svg import slim
from tmsgd_bench.results.selection import BySwitch, few_seeds
from tmsgd_bench.results.statistics import Difference, summarise

WIDTH = 4.7  # inches: 340 points, so that text keeps its size on a phone
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 10.0,
    "axes.labelsize": 9.5,
    "legend.fontsize": 9.0,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "legend.frameon": False,
}
VARIABLES = {"#010101": "--ink", "#020202": "--muted", "#030303": "--grid", "#040404": "--paper"}
INK, MUTED, GRID, _ = VARIABLES
THEME: Any = STYLE | {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
}


@dataclass(frozen=True)
class Look:
    """How one optimizer is drawn everywhere. The colour stands for a CSS variable."""

    color: str
    dash: Any
    marker: str


LOOKS = {
    "sgd": Look("#0a0001", "-", "o"),
    "tmsgd": Look("#0a0002", (0, (5, 1.5)), "s"),
    "sgdm": Look("#0a0003", (0, (1.2, 1.1)), "^"),
    "tmsgdm": Look("#0a0004", (0, (5, 1.3, 1.2, 1.3)), "D"),
    "adam": Look("#0a0005", (0, (3, 1, 1, 1, 1, 1)), "v"),
    "apollo": Look("#0a0006", (0, (8, 2)), "X"),
}
OTHER_DASHES = ((0, (4, 2)), (0, (1, 2)), (0, (6, 1, 1, 1, 1, 1)), (0, (2, 1)), (0, (10, 3)))
OTHER_MARKERS = ("P", "*", "<", ">", "p", "h", "d")
"""Of optimizers that the paper does not have."""
VARIABLES |= {look.color: f"--series-{number}" for number, look in enumerate(LOOKS.values(), start=1)}
VARIABLES |= {"#000000": "--ink", "#ffffff": "--paper", "#e0e0e0": "--grid"}  # of figures drawn for print
VARIABLES |= dict.fromkeys(("#4c4c4c", "#4d4d4d", "#666666", "#737373", "#999999"), "--muted")


def looks(optimizers: Sequence[str]) -> dict[str, Look]:
    """How each of some optimizers is drawn: the paper's as everywhere, others in colours that are free, if any are.

    Example:
        >>> looks(["sgd", "lion"])["lion"].color == LOOKS["tmsgd"].color
        True
    """
    free = [look.color for name, look in LOOKS.items() if name not in optimizers]
    colors = itertools.cycle(free or [look.color for look in LOOKS.values()])
    others = map(Look, colors, itertools.cycle(OTHER_DASHES), itertools.cycle(OTHER_MARKERS))
    return {name: LOOKS[name] if name in LOOKS else next(others) for name in optimizers}


@dataclass(frozen=True)
class Chart:
    """A chart for a page.

    Args:
        name: unique on the page.
        title: what it shows, in a line.
        text: what is to be seen in it, in words.
        svg: an <svg> element.
        rows: the numbers behind it; the first row is the head. Empty where a table of the page has them.
    """

    name: str
    title: str
    text: str
    svg: str
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Quantity:
    """What a chart is of.

    Args:
        name: and unit.
        note: what a reader must know of the data behind it, "synthetic data", say; empty for the paper's own.
    """

    name: str
    note: str = ""

    @property
    def axis(self) -> str:
        """For an axis: in two lines."""
        return "\n".join(filter(None, (self.name, self.note)))

    @property
    def words(self) -> str:
        """For a sentence."""
        return f"{self.name} ({self.note})" if self.note else self.name


@dataclass(frozen=True)
class Curve:
    """One optimizer's runs, epoch by epoch.

    Args:
        optimizer, label: which.
        done: a column for each finished run, indexed by epoch.
        diverged: the same for the diverged ones; shorter runs end in NaN.
        look: how it is drawn.
    """

    optimizer: str
    label: str
    done: pd.DataFrame
    diverged: pd.DataFrame
    look: Look

    @property
    def mean(self) -> pd.Series:
        """Over finished seeds."""
        return self.done.mean(axis=1)

    @property
    def spread(self) -> pd.Series:
        """Sample standard deviation over finished seeds; NaN for one."""
        return self.done.std(axis=1, ddof=1)


@dataclass(frozen=True)
class Dots:
    """The paired differences of one optimizer to the reference: each seed's, their mean, and what the paper prints."""

    optimizer: str
    label: str
    seeds: Sequence[float]
    difference: Difference
    printed: float | None
    look: Look


@rc_context(THEME)
def gains(name: str, rows: Sequence[Gain]) -> Chart:
    """Measured and printed gains on one axis.

    Args:
        name: unique on the page.
        rows: at least one.
    """
    figure, axes = _panel(0.9 + 0.42 * len(rows), epochs=False)
    draw_gains(axes, rows, LOOKS["tmsgd"].color, INK, MUTED)
    return _chart(figure, name, "What TM-SGD gains over SGD: measured and printed", _gains_text(rows))


def _gains_text(rows: Sequence[Gain]) -> str:
    texts = []
    for row in rows:
        interval = "" if math.isnan(row.low) else f" [{_signed(row.low)}, {_signed(row.high)}]"
        paper = "" if row.printed is None else f", printed {_signed(row.printed)} %"
        texts.append(f"{row.label} {_signed(row.mean)}{interval} %{paper}")
    key = "Squares and bars are our means and 95 % intervals, open diamonds the paper’s numbers"
    return "; ".join([key, *texts, *_few(row.n for row in rows)]) + "."


@rc_context(THEME)
def learning(name: str, curves: Sequence[Curve], quantity: Quantity, switch: float | None, logarithmic: bool) -> Chart:
    """A quantity after each epoch: mean over seeds, band of one standard deviation, or of the range if logarithmic.

    Args:
        name: unique on the page.
        curves: at least one.
        quantity: for the axis.
        switch: the switch epoch, marked if there is one.
        logarithmic: the quantity's axis.
    """
    figure, axes = _panel(3.3)
    for place, curve in enumerate(curves):
        _draw_curve(axes, curve, place, logarithmic)
    if logarithmic:
        axes.set_yscale("log")
    _mark_switch(axes, switch)
    axes.set(xlabel="epoch", ylabel=mathtext(quantity.axis))
    _legend(figure, axes)
    title = f"{quantity.words} after each epoch"
    return _chart(figure, name, title, _learning_text(curves, quantity, switch, logarithmic), _learning_rows(curves))


def _draw_curve(axes: Axes, curve: Curve, place: int, logarithmic: bool) -> None:
    look = curve.look
    line = {"color": look.color, "linestyle": look.dash}
    every = max(1, len(curve.done) // 6)
    offset = place * every // 6
    if len(curve.done.columns):
        mean, spread = curve.mean, curve.spread.fillna(0.0)
        low, high = (curve.done.min(axis=1), curve.done.max(axis=1)) if logarithmic else (mean - spread, mean + spread)
        axes.fill_between(mean.index, low, high, color=look.color, alpha=0.16, linewidth=0)
        axes.plot(mean.index, mean, **line, marker=look.marker, markevery=(offset, every), label=mathtext(curve.label))
    for number, (_, values) in enumerate(curve.diverged.items()):
        shown = values.dropna()
        label = mathtext(curve.label) if number == 0 and curve.done.empty else None
        axes.plot(shown.index, shown, **line, linewidth=0.8, alpha=0.7, label=label)
        if len(shown):
            axes.plot(shown.index[-1:], shown[-1:], color=look.color, marker="x", linestyle="")


def _learning_text(curves: Sequence[Curve], quantity: Quantity, switch: float | None, logarithmic: bool) -> str:
    ends = [
        f"{curve.label} ends at {_short(curve.mean.iloc[-1])} (n={len(curve.done.columns)})"
        for curve in curves
        if len(curve.done.columns)
    ]
    diverged = [
        f"{len(curve.diverged.columns)} of {curve.label} diverged" for curve in curves if len(curve.diverged.columns)
    ]
    marked = [] if switch is None else [f"the switch is at epoch {switch:g}"]
    band = "the range over seeds" if logarithmic else "one standard deviation over seeds"
    words = [*ends, *diverged, *marked, f"bands are {band}", *_few(len(curve.done.columns) for curve in curves)]
    return f"{quantity.words}: " + "; ".join(words) + "."


def _learning_rows(curves: Sequence[Curve]) -> tuple[tuple[str, ...], ...]:
    """Means at the first, the last and three epochs in between."""
    drawn = [curve for curve in curves if len(curve.done.columns)]
    if not drawn:
        return ()
    last = max(int(curve.done.index[-1]) for curve in drawn)
    epochs = sorted({round(last * share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)})
    head = ("mean after epoch", *map(str, epochs))
    return (head, *((curve.label, *(_short(curve.mean.get(epoch, math.nan)) for epoch in epochs)) for curve in drawn))


def _few(counts: Iterable[int]) -> list[str]:
    """The mark of a chart with fewer than FEW_SEEDS seeds in a mean."""
    return few_seeds(min((count for count in counts if count), default=0))


@rc_context(THEME)
def gap(name: str, pairs: Mapping[str, tuple[Curve, pd.DataFrame]], quantity: Quantity, switch: float) -> Chart:
    """Paired differences after each epoch around the switch, mean and band of one standard deviation.

    Args:
        name: unique on the page.
        pairs: by "A − B": A's curve, for its look, and the differences: a column for each seed, indexed by epoch.
        quantity: for the axis.
        switch: the switch epoch.
    """
    figure, axes = _panel(2.7)
    rows = []
    for label, (curve, differences) in pairs.items():
        last = int(differences.index[-1])
        shown = differences[differences.index >= switch - 0.25 * (last - switch) - 1]
        mean, spread = shown.mean(axis=1), shown.std(axis=1, ddof=1).fillna(0.0)
        look = curve.look
        axes.fill_between(mean.index, mean - spread, mean + spread, color=look.color, alpha=0.16, linewidth=0)
        axes.plot(
            mean.index,
            mean,
            color=look.color,
            linestyle=look.dash,
            marker=look.marker,
            markevery=4,
            label=mathtext(label),
        )
        rows.append((label, _signed(mean.iloc[-1]), f"{spread.iloc[-1]:.2g}", len(shown.columns)))
    axes.axhline(0.0, color=MUTED, linewidth=0.8)
    _mark_switch(axes, switch)
    axes.set(xlabel="epoch", ylabel=mathtext(f"difference, {quantity.axis}"))
    _legend(figure, axes)
    ends = [f"{label} ends at {mean} ± {spread} (n={n})" for label, mean, spread, n in rows]
    text = "; ".join([*ends, "bands are one standard deviation over seeds", *_few(n for *_, n in rows)])
    return _chart(figure, name, f"What the switch changes, paired by seed: {quantity.words}", f"{text}.")


@rc_context(THEME)
def dots(name: str, rows: Sequence[Dots], reference: str, quantity: Quantity, title: str) -> Chart:
    """Paired differences to the reference: small dots for seeds, a large one with its interval for their mean.

    Args:
        name: unique on the page.
        rows: at least one.
        reference: label of what is subtracted.
        quantity: for the axis.
        title: what it shows.
    """
    figure, axes = _panel(0.8 + 0.5 * len(rows), epochs=False)
    for height, row in enumerate(rows):
        look, value = row.look, row.difference
        staggered = [height + 0.2 + 0.09 * (place % 3) for place in range(len(row.seeds))]  # equal ones stay visible
        axes.plot(row.seeds, staggered, "o", color=look.color, markersize=3, alpha=0.8)
        if not math.isnan(value.low):
            axes.plot([value.low, value.high], [height, height], color=look.color, linewidth=2.2)
        axes.plot([value.mean], [height], marker=look.marker, color=look.color, markersize=7, linestyle="")
        if row.printed is not None:
            axes.plot([row.printed], [height - 0.24], marker="d", markersize=6, color=INK, fillstyle="none")
    axes.axvline(0.0, color=MUTED, linewidth=0.9)
    axes.set_yticks(range(len(rows)), [mathtext(row.label) for row in rows])
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=mathtext(f"difference to {reference}, {quantity.axis}"))
    axes.grid(visible=False, axis="y")
    return _chart(figure, name, f"{title}: {quantity.words}", _dots_text(rows, reference))


def _dots_text(rows: Sequence[Dots], reference: str) -> str:
    texts = []
    for row in rows:
        value = row.difference
        interval = "" if math.isnan(value.low) else f", interval {_signed(value.low)} to {_signed(value.high)}"
        paper = "" if row.printed is None else f", the paper prints {_signed(row.printed)}"
        texts.append(f"{row.label} − {reference} is {_signed(value.mean)}{interval}{paper}")
    key = "small dots are seeds, the bar is the 95 % interval of their mean, the open diamond is the paper's"
    return "; ".join([*texts, key, *_few(row.difference.n for row in rows)]) + "."


@rc_context(THEME)
def switch_curve(
    name: str,
    switched: BySwitch,
    reference: pd.Series,
    quantity: Quantity,
    labels: Mapping[str, str],
) -> Chart:
    """The final metric against the switch epoch; no mean where a run diverged.

    Args:
        name: unique on the page.
        switched: from :func:`tmsgd_bench.results.selection.by_switch`.
        reference: the same optimizer without a switch, by seed; NaN for a diverged run, empty without one.
        quantity: for the axis.
        labels: of the optimizer and of the reference, by name, in this order.
    """
    figure, axes = _panel(2.9)
    (optimizer, label), (base_name, base_label) = labels.items()
    look, base = LOOKS[optimizer], LOOKS[base_name]
    finals, mean, spread = switched.finals, switched.mean, switched.spread
    for _, values in finals.items():
        axes.plot(finals.index, values, "o", color=look.color, markersize=2.5, alpha=0.6)
    axes.errorbar(
        mean.index,
        mean,
        spread.fillna(0.0),
        color=look.color,
        linestyle=look.dash,
        marker=look.marker,
        label=mathtext(label),
    )
    level = _level_in_words(reference, base_label)
    if reference.isna().any():
        axes.plot([], [], color=base.color, label=mathtext(level))
    else:
        _level(axes, reference, base, mathtext(base_label))
    axes.set(xlabel="switch epoch (0: eq. (8) from the start)", ylabel=mathtext(quantity.axis))
    _legend(figure, axes)
    head, counts = ("switch epoch", "mean", "standard deviation", "n"), finals.count(axis=1)
    rows = [
        (f"{epoch:g}", _short(mean[epoch]), _short(spread[epoch]), str(counts[epoch]))
        for epoch in map(float, mean.index)
    ]
    lost = [f", {count} diverged" * bool(count) for count in switched.diverged]
    text = "; ".join(
        f"{row[1]} (n={row[3]}{of}) with switch epoch {row[0]}" for row, of in zip(rows, lost, strict=True)
    )
    words = "; ".join(filter(None, [text, level, *_few(counts)]))
    return _chart(figure, name, f"{quantity.words} against the switch epoch", f"{words}.", (head, *rows))


def _level_in_words(values: pd.Series, label: str) -> str:
    """The mean of an optimizer without a switch; no number where a run diverged, as for a switch epoch."""
    if lost := int(values.isna().sum()):
        return f"{label}: {lost} of {len(values)} diverged"
    return f"{label} {_short(values.mean())} (n={len(values)})" if len(values) else ""


def _level(axes: Axes, values: pd.Series, look: Look, label: str) -> None:
    """A horizontal line at the mean, with a band of one standard deviation."""
    summary = summarise(values)
    if summary.n:
        axes.axhline(summary.mean, color=look.color, label=label)
    if not math.isnan(summary.std):
        axes.axhspan(summary.mean - summary.std, summary.mean + summary.std, color=look.color, alpha=0.12, lw=0)


# ---------------------------------------------------------------- frames


def inline(
    figure: Figure, name: str, title: str, text: str, style: Any = THEME, variables: Mapping[str, str] = VARIABLES
) -> str:
    """A figure as an <svg> element with a text alternative, its ids made unique by ``name``, undated.

    Args:
        figure: any matplotlib figure.
        name: unique on the page.
        title, text: in short and in full what it shows.
        style: matplotlib settings.
        variables: the page's CSS variable of each colour (#rrggbb); other colours stay.
    """
    if not DRAWN.get():
        return "<svg></svg>"
    buffer = io.StringIO()
    settings: Any = {**style, "svg.fonttype": "none", "svg.hashsalt": name}
    with rc_context(settings):
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub("|".join(variables), lambda match: f"var({variables[match.group()]})", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    named = f'<svg role="img" aria-labelledby="{name}-title {name}-text"'
    words = f'<title id="{name}-title">{_escape(title)}</title><desc id="{name}-text">{_escape(text)}</desc>'
    return re.sub(r"<svg([^>]*)>", lambda match: f"{named}{match[1]}>{words}", slim(svg, name), count=1)


def _escape(text: str) -> str:
    return plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _panel(height: float, epochs: bool = True) -> tuple[Figure, Axes]:
    """One panel; ``epochs``: what runs along it are whole numbers."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.subplots()
    axes.patch.set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=epochs))
    return figure, axes


def _chart(figure: Figure, name: str, title: str, text: str, rows: tuple[tuple[str, ...], ...] = ()) -> Chart:
    return Chart(name, title, text, inline(figure, name, title, text), rows)


def _legend(figure: Figure, axes: Axes) -> None:
    """Above the panel, clear of the data, in the row order of the table."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=3, handlelength=3.2, columnspacing=1.2)


def _mark_switch(axes: Axes, switch: float | None) -> None:
    if switch is None:
        return
    axes.axvline(switch, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
    place: Any = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center"}
    axes.annotate("switch", (switch, 1.0), (0, 2), **place, fontsize=9.0)


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:#.4g}"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")


def as_columns(histories: Mapping[str, pd.DataFrame], quantity: str) -> pd.DataFrame:
    """One recorded quantity of several runs: a column a run, indexed by epoch."""
    columns = {name: frame.set_index("epoch")[quantity] for name, frame in histories.items() if quantity in frame}
    if not columns:
        return pd.DataFrame(dtype=float, index=pd.Index(np.array([], int)))
    return pd.DataFrame(columns).astype(float).dropna(how="all")  # some tasks are not evaluated after every epoch
