"""Figures of the experiments. The methods differ in line, marker and lightness, so the figures can be printed in grey.

Each function makes a matplotlib figure from the tables of :mod:`tmsgd_bench.numerics.experiments`, without changes of
matplotlib's global state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tmsgd_bench import files
from tmsgd_bench.numerics.experiments import METHODS, STARTS, Tables
from tmsgd_bench.optim import MultistepScheme

FULL_WIDTH = 7.0  # inches
KINDS = ("png", "pdf")  # the PNG at 200 dpi
DIVERGED = 1.0  # errors of the size of the solution are not drawn
STYLE: Any = {
    "font.size": 8.0,
    "axes.labelsize": 8.5,
    "axes.titlesize": 8.5,
    "legend.fontsize": 8.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.6,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "0.88",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "mathtext.fontset": "dejavusans",
    "pdf.fonttype": 42,
}


@dataclass(frozen=True)
class Look:
    """How a method is drawn in all figures. Colours run from dark to light in the order of the methods."""

    label: str
    color: str
    line: Any
    marker: str


LOOKS = {
    "euler": Look("Euler (SGD)", "#000000", "-", "o"),
    "taylor3": Look("eq. (8), $c=1/2$", "#b3202a", (0, (5, 1.5)), "s"),
    "nine_eighths": Look("$c=3/8$", "#3d6fb6", (0, (5, 1.2, 1, 1.2)), "^"),
    "c=1/3": Look("$c=1/3$", "#2fa37c", (0, (1.2, 1.0)), "D"),
    "c=1/8": Look("$c=1/8$", "#e2a32c", (0, (3, 1, 1, 1, 1, 1)), "v"),
}
START_LOOKS = {
    "SGD": Look("SGD", "#000000", "-", ""),
    "TM-SGD from the start": Look("eq. (8) from the start", "#e0604c", "-", ""),
    "TM-SGD after the switch": Look("eq. (8) after the switch", "#2b5ea8", (0, (5, 1.5)), ""),
    "c = 1/3 from the start": Look("$c=1/3$ from the start", "#74b89b", (0, (1.2, 1.0)), ""),
}
MOMENTUM_LOOKS = {
    0.0: Look(r"$\mu=0$", "#000000", "-", "o"),
    0.3: Look(r"$\mu=0.3$", "#8a2a3f", (0, (5, 1.5)), "s"),
    0.6: Look(r"$\mu=0.6$", "#4a86c5", (0, (5, 1.2, 1, 1.2)), "^"),
    0.9: Look(r"$\mu=0.9$", "#d99a2b", (0, (1.2, 1.0)), "D"),
}
PROBLEM_TITLES = {
    "decay": "linear decay",
    "logistic": "logistic equation",
    "rosenbrock": "Rosenbrock",
    "stiff": r"quadratic, $\lambda=1, 25$",
}


def order(tables: Tables) -> Figure:
    """Error at the end time against the step size, one panel for each problem, with guides of slope 1 and 2."""
    errors = tables["order"]
    figure, grid = _panels(2, 2, 4.6)
    for axes, (problem, group) in zip(grid.flat, errors.groupby("problem", sort=False), strict=True):
        shown = group[group["error"] < DIVERGED]
        for name, look in LOOKS.items():
            line = shown[shown["rule"] == name]
            axes.loglog(line["tau"], line["error"], **_line(look), marker=look.marker, label=look.label)
        _slope_guides(axes, shown)
        axes.set(title=PROBLEM_TITLES[str(problem)], xlabel=r"step size $\tau$", ylabel="error at the end time")
    return _with_legend(figure, grid.flat[0])


def _slope_guides(axes: Axes, shown: pd.DataFrame) -> None:
    """Short grey lines of slope 1 above the finest errors of Euler, and of slope 2 below everything."""
    finest = shown[shown["tau"] == shown["tau"].min()]["error"]
    taus = np.array([1.0, 4.0]) * shown["tau"].min()
    for slope, start, point, place in ((1, 2.5 * finest.max(), 0, (0, 6)), (2, 0.4 * finest.min(), 1, (4, -4))):
        values = start * (taus / taus[0]) ** slope
        axes.loglog(taus, values, color="0.45", linewidth=0.8)
        end = (float(taus[point]), float(values[point]))
        axes.annotate(f"slope {slope}", end, place, textcoords="offset points", fontsize=7.5, color="0.3")


def regions(tables: Tables) -> Figure:
    """Boundaries of the stability regions, without and with momentum."""
    points = tables["regions"]
    figure, grid = _panels(1, 2, 2.9)
    for axes, (momentum, group) in zip(grid.flat, points.groupby("momentum"), strict=True):
        for name, look in LOOKS.items():
            line = group[group["rule"] == name]
            boundary = line[["re", "im"]].where(line["boundary"])
            axes.plot(boundary["re"], boundary["im"], **_line(look), label=look.label)
        axes.axhline(0.0, color="0.6", linewidth=0.5)
        axes.set(title=rf"$\mu={momentum:g}$", xlabel=r"Re $\varepsilon\lambda$", ylabel=r"Im $\varepsilon\lambda$")
    grid.flat[0].set_aspect("equal", adjustable="datalim")
    return _with_legend(figure, grid.flat[0])


def early(tables: Tables) -> Figure:
    """Loss and ε λ against the step: SGD, and the methods from the start and after a switch."""
    paths = tables["early_paths"]
    problems = list(dict.fromkeys(paths["problem"]))
    figure, grid = _panels(2, len(problems), 3.9, sharex="col")
    for column, problem in zip(grid.T, problems, strict=True):
        for name in STARTS:
            look = START_LOOKS[name]
            line = paths[(paths["problem"] == problem) & (paths["start"] == name)]
            column[0].semilogy(line["step"], line["loss"], **_line(look), label=look.label)
            column[1].plot(line["step"], line["h"], **_line(look))
        column[1].axhline(1.0, color="0.4", linewidth=0.8)
        column[0].set_title(problem.replace("rosenbrock", "Rosenbrock"))
        column[1].set(xlabel="step", ylim=(0.0, 1.6))
        if paths.loc[paths["problem"] == problem, "step"].max() > 1000:  # the early phase is the subject
            column[1].set_xscale("symlog", linthresh=10)
            column[1].set_xlim(0, None)
    grid[0, 0].set_ylabel("loss $L$")
    grid[1, 0].set_ylabel(r"largest $\varepsilon\lambda$")
    figure.align_labels()
    return _with_legend(figure, grid[0, 0])


def frequency(tables: Tables) -> Figure:
    """Gain and phase of the displacement, without momentum."""
    responses = tables["frequency"]
    responses = responses[responses["momentum"] == 0.0]
    figure, ((left, right),) = _panels(1, 2, 2.6)
    for name, look in LOOKS.items():
        line = responses[responses["rule"] == name]
        every = {"markevery": (8 * list(LOOKS).index(name), 48), "marker": look.marker}
        left.plot(line["omega"], line["gain"], **_line(look), **every, label=look.label)
        right.plot(line["omega"], np.degrees(line["phase"]), **_line(look), **every)
    for axes in (left, right):
        axes.set_xticks(np.pi * np.arange(5) / 4, ["0", r"$\pi/4$", r"$\pi/2$", r"$3\pi/4$", r"$\pi$"])
        axes.set_xlabel(r"frequency $\omega$ (radians per step)")
    left.set_ylabel(r"gain $|H|$")
    right.set_ylabel("phase of $H$ (degrees)")
    right.set(yticks=np.arange(-60, 61, 20), ylim=(-60, 60))
    return _with_legend(figure, left)


def limits(tables: Tables) -> Figure:
    """Largest stable ε λ: lines from theory, markers from the optimizer."""
    observed = tables["limits"]
    figure, ((left, right),) = _panels(1, 2, 2.9)
    momenta = np.linspace(0.0, 0.95, 96)
    for name, look in LOOKS.items():
        left.plot(momenta, [METHODS[name].stability_limit(mu) for mu in momenta], **_line(look))
        rows = observed[observed["rule"] == name]
        left.plot(rows["momentum"], rows["observed"], color=look.color, linestyle="", marker=look.marker)
        left.plot([], [], **_line(look), marker=look.marker, label=look.label)
    left.set(xlabel=r"momentum $\mu$", ylabel=r"stable below $\varepsilon\lambda$", ylim=(0.0, 4.1))
    members = np.linspace(0.02, 0.98, 193)
    for momentum, look in MOMENTUM_LOOKS.items():
        right.plot(members, [MultistepScheme.family(c).stability_limit(momentum) for c in members], **_line(look))
        rows = observed[(observed["momentum"] == momentum) & (observed["rule"] != "euler")]
        right.plot(rows["c"], rows["observed"], color=look.color, linestyle="", marker=look.marker)
        right.plot([], [], **_line(look), marker=look.marker, label=look.label)
    right.set(
        xlabel="member $c$ of the family", ylabel=r"stable below $\varepsilon\lambda$", xlim=(0, 1), ylim=(0, 2.25)
    )
    right.legend(loc="upper right")
    return _with_legend(figure, left)


def noise(tables: Tables) -> Figure:
    """Stationary variance against ε λ: lines from theory, markers measured."""
    measured = tables["noise"]
    figure, grid = _panels(1, 2, 2.9)
    for axes, (momentum, group) in zip(grid.flat, measured.groupby("momentum"), strict=True):
        for name, look in LOOKS.items():
            steps, variance = variance_curve(name, float(str(momentum)))
            axes.loglog(steps, variance, **_line(look))
            rows = group[group["rule"] == name]
            axes.loglog(rows["h"], rows["measured"], color=look.color, linestyle="", marker=look.marker)
            axes.plot([], [], **_line(look), marker=look.marker, label=look.label)
        axes.set(title=rf"$\mu={momentum:g}$", xlabel=r"$\varepsilon\lambda$", ylabel="stationary variance of $x$")
    return _with_legend(figure, grid.flat[0])


def variance_curve(method: str, momentum: float) -> tuple[np.ndarray, np.ndarray]:
    """Predicted variance from ε λ = 0.02 to just below the stability limit."""
    scheme = METHODS[method]
    steps = np.geomspace(0.02, 0.985 * min(scheme.stability_limit(momentum), 2.0), 50)
    return steps, np.array([scheme.stationary_variance(float(h), momentum) for h in steps])


DRAW: dict[str, Callable[[Tables], Figure]] = {
    "order": order,
    "regions": regions,
    "early": early,
    "frequency": frequency,
    "limits": limits,
    "noise": noise,
}


def save(name: str, tables: Tables, folder: Path) -> None:
    """Draw an experiment and write it as PNG (200 dpi) and PDF.

    Raises:
        StoreError: the folder cannot be written.
    """
    with rc_context(STYLE):
        figure = DRAW[name](tables)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout is found once and kept for both files
        for kind in KINDS:
            undated = {"CreationDate": None} if kind == "pdf" else {}  # the same numbers give the same file
            write = partial(figure.savefig, format=kind, dpi=200, metadata=undated)
            files.write_atomically(folder / f"{name}.{kind}", write)


# ---------------------------------------------------------------- frames


def _panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(FULL_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _line(look: Look) -> dict[str, Any]:
    return {"color": look.color, "linestyle": look.line}


def _with_legend(figure: Figure, axes: Axes) -> Figure:
    """The legend above all panels, clear of the data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), handlelength=2.6, columnspacing=1.4)
    return figure
