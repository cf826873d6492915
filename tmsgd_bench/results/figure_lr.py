"""The metric against the learning rate of each optimizer, from the runs of ``experiment=search``.

It also shows where theory expects TM-SGD to become unstable: at half of SGD's learning rate, and TM-SGD-M at 0.13 of
SGD-M's.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tmsgd_bench.errors import StoreError
from tmsgd_bench.escaping import mathtext
from tmsgd_bench.optim.curvature import largest_stable_lr
from tmsgd_bench.results import learning_rates, selection, store
from tmsgd_bench.results.figure_runs import save
from tmsgd_bench.results.learning_rates import Search
from tmsgd_bench.results.selection import BASES
from tmsgd_bench.tuning import PROTOCOL
from tmsgd_bench.wording import number_of

STYLE: Any = {"font.size": 9.0, "pdf.fonttype": 42, "axes.spines.top": False, "axes.spines.right": False}
COLOURS = ("#33557f", "#b5432a", "#3f7d4e", "#7a5195")
LATE = "#b5432a"
"""The colour of TM-SGD and TM-SGD-M, second in their panels."""
BLOWN_UP = 10.0
"""A rate is unstable, too, if the training loss of an epoch is so many times that of an untrained model."""
OUTSIDE = 4.0
"""Means that are so many times further from the best than the median mean are drawn at the edge."""


def write(
    runs: pd.DataFrame, folder: Path, data: str = "real", protocol: str | None = PROTOCOL, seed: int | None = None
) -> list[Path]:
    """Draw the searches of each task and model, a picture each: ``lr-<task>-<model>``, and a CSV file of the numbers.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        folder: where the files are written; made if missing.
        data: "real" or "synthetic".
        protocol: of the runs; a search has one, so there is nothing to draw of others.
        seed: this one alone; None for all.

    Returns:
        The pictures.

    Raises:
        StoreError: there is no search, or the folder cannot be written.
    """
    wanted = runs[(runs["data"] == data) & ((runs["seed"] == seed) | (seed is None))]
    all_searches = learning_rates.searches(wanted) if protocol in (PROTOCOL, None) else []
    places: dict[tuple[Any, ...], list[Search]] = {}
    for search in all_searches:
        if search.trials:
            places.setdefault(search.where, []).append(search)
    written: list[Path] = []
    for (task, model, dataset, _), searches in places.items():
        name = f"lr-{task}-{model}"
        name += f"-{dataset}" if any(path.stem == name for path in written) else ""
        with rc_context(STYLE):
            written += save(draw(searches), folder, name, numbers(searches))
    if not written:
        raise StoreError(
            f"no run is of a search for a learning rate on {data} data: train some with 'python run.py "
            "experiment=search'."
        )
    return written


def draw(searches: Sequence[Search]) -> Figure:
    """The figure of the searches of one task: a panel for each pair of optimizers.

    Args:
        searches: each with at least one finished run.
    """
    panels = list(_panels(searches))
    title = _wrapped(_about(searches), 55 * len(panels))
    figure, cells = _grid(len(panels), title.count("\n") + 1)
    low, high, worst = _range(searches)
    for axes, panel in zip(cells, panels, strict=True):
        for place, (search, colour) in enumerate(zip(panel, COLOURS, strict=False)):
            _curve(axes, search, colour, (low, high))
            _at_edge(axes, search, colour, (low, high), worst, place)
        axes.set_xscale("log")
        axes.set_xlabel("learning rate", fontsize=7.5)
        axes.set_ylim(low, high)
        _limit(axes, panel)
        axes.legend(frameon=False, fontsize=7.5, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1)
    first = searches[0]
    unit = f" ({first.unit})" if first.unit else ""
    cells[0].set_ylabel(mathtext(f"{first.metric or 'metric'}{unit}, validation split"))
    figure.legend(
        handles=_signs(searches), loc="lower center", ncols=3 if len(panels) > 1 else 1, frameon=False, fontsize=7.5
    )
    figure.suptitle(title, fontsize=8.0, y=0.99)
    return figure


def _grid(panels: int, title_lines: int) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, in a row; all around is room for words of a known size. Lengths are in inches."""
    left, right, between = 0.8, 0.2, 0.35
    bottom, top = 1.3 if panels > 1 else 1.75, 0.55 + 0.16 * title_lines
    width, height = left + right + 3.0 * panels, 2.7 + bottom + top
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    cells = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    figure.subplots_adjust(left / width, bottom / height, 1.0 - right / width, 1.0 - top / height, between / 3.0)
    return figure, cells


def _panels(searches: Sequence[Search]) -> Iterator[list[Search]]:
    """Each optimizer beside the one that it is before its switch; those that never switch together."""
    by_name = {search.optimizer: search for search in searches}
    for late, base in BASES.items():
        if pair := [by_name.pop(name) for name in (base, late) if name in by_name]:
            yield pair
    rest = list(by_name.values())
    yield from (rest[start : start + len(COLOURS)] for start in range(0, len(rest), len(COLOURS)))


def _range(searches: Sequence[Search]) -> tuple[float, float, float]:
    """The ends of the axis, and which of them is the worse: far-off means would hide all else."""
    means = np.array([trial.mean for search in searches for trial in search.trials if math.isfinite(trial.mean)])
    finals = [
        final for search in searches for trial in search.trials for final in trial.finals if math.isfinite(trial.mean)
    ]
    if not len(means):
        return 0.0, 1.0, 0.0
    largest = searches[0].direction == "max"
    best = max(finals) if largest else min(finals)
    reach = max(OUTSIDE * float(np.median(np.abs(means - best))), 1e-12)
    worst = max(min(finals), best - reach) if largest else min(max(finals), best + reach)
    room = 0.06 * abs(best - worst) or 0.01 * abs(best) or 0.01
    low, high = (worst - room, best + room) if largest else (best - room, worst + room)
    return low, high, low if largest else high


def _wrapped(text: str, width: int) -> str:
    """Text whose lines have at most so many letters."""
    lines = (line for part in text.splitlines() for line in textwrap.wrap(part, width, break_on_hyphens=False))
    return "\n".join(map(mathtext, lines))


def _curve(axes: Axes, search: Search, colour: str, ends: tuple[float, float]) -> None:
    """The means with their band, and the best rate in a ring."""
    rates = np.array([trial.lr for trial in search.trials])
    means = np.array([trial.mean if math.isfinite(trial.mean) else math.nan for trial in search.trials])
    banded = [[math.nan] if trial.diverged else trial.finals for trial in search.trials]
    axes.plot(rates, means, "o-", color=colour, markersize=3.5, label=mathtext(search.label))
    axes.fill_between(rates, list(map(min, banded)), list(map(max, banded)), color=colour, alpha=0.18, linewidth=0)
    if search.best and ends[0] <= search.best.mean <= ends[1]:
        ring: Any = {"marker": "o", "markersize": 10, "markerfacecolor": "none", "linestyle": "none", "color": colour}
        axes.plot([search.best.lr], [search.best.mean], clip_on=False, **ring)


def _at_edge(axes: Axes, search: Search, colour: str, ends: tuple[float, float], worst: float, place: int) -> None:
    """Signs at the worse edge for the rates that diverged or lie outside, in a row for each curve of the panel."""
    diverged = [trial.lr for trial in search.trials if trial.diverged]
    outside = [trial.lr for trial in search.trials if not trial.diverged and not ends[0] <= trial.mean <= ends[1]]
    height = worst + place * 0.045 * (ends[1] - ends[0]) * (1.0 if worst == ends[0] else -1.0)
    style: Any = {"color": colour, "linestyle": "none", "clip_on": False, "zorder": 5}
    axes.plot(diverged, [height] * len(diverged), marker="x", markersize=6, **style)
    sign = "v" if worst == ends[0] else "^"
    axes.plot(outside, [height] * len(outside), marker=sign, markersize=5, markerfacecolor="white", **style)


@dataclass(frozen=True)
class Limits:
    """Where SGD (SGD-M) becomes unstable, and where theory expects it of TM-SGD (TM-SGD-M).

    Args:
        base, late: their searches.
        share: the largest stable learning rate of ``late`` as a share of that of ``base``, in theory.
        sharpness: from which both limits are computed; None if no run recorded it.
        ends: learning rates between which ``base`` becomes unstable, equal if they come from a sharpness; None if it is
            unstable with none of its rates, or with the smallest already.
    """

    base: Search
    late: Search
    share: float
    sharpness: float | None
    ends: tuple[float, float] | None

    @property
    def note(self) -> str:
        """What is drawn, in words."""
        words = f"{self.late.label}'s limit is {self.share:.2g} of {self.base.label}'s"
        if self.sharpness is not None:
            return f"dashed: predicted limits for λ = {self.sharpness:.3g}; {words}"
        if self.ends is not None:
            return f"shaded: where {self.base.label} becomes unstable, and where {self.late.label} should; {words}"
        known = "with the smallest rate already" if _unstable(self.base) else "with no rate"
        return f"in theory {words}; {self.base.label} is unstable {known}"


def limits(panel: Sequence[Search]) -> Limits | None:
    """Of the optimizers of a panel; None unless TM-SGD stands there beside SGD, or TM-SGD-M beside SGD-M."""
    by_name = {search.optimizer: search for search in panel}
    late = next((name for name in by_name if name in BASES), None)
    if late is None or BASES[late] not in by_name:
        return None
    base = by_name[BASES[late]]
    momentum = float(json.loads(base.runs["options"].iloc[0]).get("momentum", 0.0))
    share = largest_stable_lr(1.0, momentum=momentum) / largest_stable_lr(1.0, "euler", momentum)
    sharpness = _sharpness(base)
    if sharpness is None:
        return Limits(base, by_name[late], share, None, _bracket(base))
    limit = largest_stable_lr(sharpness, "euler", momentum)
    return Limits(base, by_name[late], share, sharpness, (limit, limit))


def _limit(axes: Axes, panel: Sequence[Search]) -> None:
    """Draw where theory expects the second optimizer of a panel to become unstable, if it is TM-SGD or TM-SGD-M."""
    limit = limits(panel)
    if limit is None:
        return
    low, high = limit.ends or (math.nan, math.nan)
    for scale, colour in ((1.0, COLOURS[0]), (limit.share, LATE)):
        if limit.sharpness is not None:
            axes.axvline(scale * low, color=colour, linestyle="--", linewidth=1)
        elif limit.ends is not None:
            axes.axvspan(scale * low, scale * high, color=colour, alpha=0.10, linewidth=0)
    axes.set_xlabel("learning rate\n" + _wrapped(limit.note, 42), fontsize=7.5)


def numbers(searches: Sequence[Search]) -> pd.DataFrame:
    """What is drawn: a row for each optimizer and learning rate.

    ``limit_low`` and ``limit_high`` are the ends of the optimizer's shaded range, or its dashed line.
    """
    ranges: dict[str, tuple[float, float]] = {}
    for panel in _panels(searches):
        limit = limits(panel)
        if limit is not None and limit.ends is not None:
            low, high = ranges[limit.base.optimizer] = limit.ends
            ranges[limit.late.optimizer] = (limit.share * low, limit.share * high)
    rows = []
    for search in searches:
        low, high = ranges.get(search.optimizer, (math.nan, math.nan))
        unstable = _unstable(search)
        rows += [
            {
                "optimizer": search.optimizer,
                "lr": trial.lr,
                "mean": trial.mean,
                "least": min(trial.finals),
                "most": max(trial.finals),
                "seeds": len(trial.finals),
                "diverged": trial.diverged,
                "unstable": trial.lr in unstable,
                "best": search.best is not None and trial.lr == search.best.lr,
                "limit_low": low,
                "limit_high": high,
            }
            for trial in search.trials
            if trial.finals
        ]
    return pd.DataFrame(rows)


def _sharpness(search: Search) -> float | None:
    """The mean of the last sharpness λ that the runs with the best rate recorded; None if they recorded none."""
    runs = search.runs[search.runs["lr"] == search.best.lr] if search.best else search.runs.iloc[:0]
    values = [float(known.iloc[-1]) for known in _recorded(runs, "sharpness") if len(known)]
    mean = sum(values) / len(values) if values else 0.0
    return mean if mean > 0.0 else None


def _recorded(runs: pd.DataFrame, name: str) -> Iterator[pd.Series]:
    """What the runs recorded under a name, epoch by epoch; nothing of runs that recorded none."""
    for folder in runs["folder"]:
        history = store.history(Path(folder))
        if history is not None and name in history:
            yield history[name].dropna().astype(float)


def _bracket(search: Search) -> tuple[float, float] | None:
    """The largest stable rate below all unstable ones, and the first unstable one; None if there are not both."""
    unstable = _unstable(search)
    stable = [trial.lr for trial in search.trials if not unstable or trial.lr < unstable[0]]
    return (stable[-1], unstable[0]) if unstable and stable else None


def _unstable(search: Search) -> list[float]:
    """The rates with a run that diverged, or whose training loss is once far above that of an untrained model.

    The loss of an untrained model is taken to be that of the first epoch with the smallest rate.
    """
    losses = {trial.lr: list(_recorded(search.runs[search.runs["lr"] == trial.lr], "loss")) for trial in search.trials}
    firsts = [float(loss.iloc[0]) for loss in losses[search.trials[0].lr] if len(loss)]
    bound = BLOWN_UP * max(firsts, default=math.inf)
    return [
        trial.lr
        for trial in search.trials
        if trial.diverged or any(float(loss.max()) > bound for loss in losses[trial.lr] if len(loss))
    ]


def _signs(searches: Sequence[Search]) -> list[Line2D]:
    """What the signs mean, for those that are in the figure."""
    plain: Any = {"color": "0.3", "linestyle": "none"}
    signs: list[Line2D] = []
    if any(search.best for search in searches):
        signs.append(
            Line2D([], [], marker="o", markersize=9, markerfacecolor="none", label="best rate (mean)", **plain)
        )
    if any(trial.diverged for search in searches for trial in search.trials):
        signs.append(Line2D([], [], marker="x", markersize=7, label="a run diverged", **plain))
    low, high, worst = _range(searches)
    means = [trial.mean for search in searches for trial in search.trials if math.isfinite(trial.mean)]
    if any(not low <= mean <= high for mean in means):
        sign = "v" if worst == low else "^"
        signs.append(Line2D([], [], marker=sign, markerfacecolor="white", label="worse than the axis shows", **plain))
    return signs


def _about(searches: Sequence[Search]) -> str:
    """What a reader must know: task, settings, seeds, marks of the data, and best rates at an end of their grids."""
    runs = pd.concat([search.runs for search in searches])
    task, model, _, data = searches[0].where
    seeds = runs["seed"].nunique()
    first = runs.iloc[0]
    settings = f"{number_of(first['epochs'], 'epoch')}, batch {first['batch_size']:.0f}"
    skipped = ("few seeds", "evaluated on", "never switch", "diverged")
    marks = [mark for mark in selection.marks(runs) if not any(words in mark for words in skipped)]
    incomplete = [search.label for search in searches if search.missing]
    marks += [f"search incomplete: {', '.join(incomplete)}"] if incomplete else []
    band = f"line: mean, band: range of {number_of(seeds, 'seed')}"
    facts = [f"{task}, {model}, {data} data", settings, band, *marks]
    edges = [f"{search.label}: {search.edge}" for search in searches if search.edge]
    return "\n".join([" · ".join(facts), *edges])
