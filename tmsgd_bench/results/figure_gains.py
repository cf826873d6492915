"""What TM-SGD gains over SGD, measured and printed, for every experiment on one axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.escaping import mathtext
from tmsgd_bench.results import answer, claims
from tmsgd_bench.results.answer import Gain
from tmsgd_bench.results.figure_runs import save
from tmsgd_bench.results.figure_switch import COLOUR, STYLE
from tmsgd_bench.results.statistics import FEW_SEEDS

PROTOCOL = "any"
"""Of the runs, unless another is asked for: a gain is drawn at every level."""
LINEAR = 1.0
"""Percent up to which the axis is linear; it is logarithmic beyond."""


def write(
    runs: pd.DataFrame, folder: Path, data: str = "real", protocol: str | None = None, seed: int | None = None
) -> list[Path]:
    """Draw the gains at every level that has runs, as ``gains.png`` and ``gains.pdf``; ``gains.csv`` has the numbers.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        folder: where the files are written; made if missing.
        data: "real": a gain on other data is no evidence.
        protocol: for its level alone; None for all levels.
        seed: None: a gain is over all seeds.

    Returns:
        The pictures.

    Raises:
        ConfigError: other data or one seed are asked for.
        StoreError: no seed has runs of SGD and TM-SGD, or the folder cannot be written.
    """
    if data != "real" or seed is not None:
        raise ConfigError("the figure gains is of real data and over all seeds: leave out --data and --seed.")
    rows = answer.measured_gains(answer.findings(claims.evaluate(runs, None, protocol)))
    if not rows:
        level = "" if protocol is None else f" by protocol {protocol}"
        raise StoreError(
            f"no seed has runs of both SGD and TM-SGD on real data{level}: train some, or name another --results."
        )
    with rc_context(STYLE):
        return save(draw(rows), folder, "gains", pd.DataFrame(map(asdict, rows)))


def draw(rows: Sequence[Gain]) -> Figure:
    """The figure."""
    figure = Figure(figsize=(6.6, 0.9 + 0.36 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    draw_gains(axes, rows, COLOUR, "#000000", "#666666")
    key = f"squares: ours, mean and 95 % interval (open: fewer than {FEW_SEEDS} seeds) · diamonds: printed in the paper"
    axes.set_title(f"{key}\nlinear up to ±1 %, logarithmic beyond", fontsize=7.5, loc="right")
    return figure


def draw_gains(axes: Axes, rows: Sequence[Gain], colour: str, ink: str, muted: str) -> None:
    """Draw measured and printed gains into a panel, a row each; few seeds are marked by an open square.

    Args:
        axes: the panel.
        rows: at least one.
        colour, ink, muted: of what is measured, of what is printed, and of the line at 0.
    """
    for height, row in enumerate(rows):
        if not math.isnan(row.low):
            axes.plot([row.low, row.high], [height, height], color=colour, linewidth=2.2)
        fill = "full" if row.n >= FEW_SEEDS else "none"
        axes.plot([row.mean], [height], marker="s", color=colour, markersize=6, linestyle="", fillstyle=fill)
        if row.printed is not None:
            axes.plot([row.printed], [height - 0.24], marker="d", markersize=6, color=ink, fillstyle="none")
    axes.axvline(0.0, color=muted, linewidth=0.9)
    ends = [value for row in rows for value in (row.mean, row.low, row.high, row.printed or 0.0)]
    reach = 1.6 * max(LINEAR, *(abs(value) for value in ends if not math.isnan(value)))
    axes.set_xscale("symlog", linthresh=LINEAR, linscale=1.0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    names = [f"{row.label} (n={row.n})".replace(": ", ":\n", 1) for row in rows]  # on one line they need half the width
    axes.set_yticks(range(len(rows)), [mathtext(name) for name in names], fontsize=8.0)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(-reach, reach))
    axes.set_xlabel("TM-SGD is better by, % of SGD’s metric", loc="right")  # wider than the axes beside long names
    axes.grid(visible=False, axis="y")
