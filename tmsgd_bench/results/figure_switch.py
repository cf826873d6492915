"""When to switch: the final metric against the switch epoch, from a study such as experiment=switch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tmsgd_bench import files
from tmsgd_bench.errors import StoreError
from tmsgd_bench.escaping import mathtext
from tmsgd_bench.results import selection
from tmsgd_bench.results.figure_runs import save
from tmsgd_bench.results.selection import BASES
from tmsgd_bench.results.statistics import summarise
from tmsgd_bench.results.status import FINISHED, Status
from tmsgd_bench.wording import number_of

STYLE: Any = {"font.size": 9.0, "pdf.fonttype": 42, "axes.spines.top": False, "axes.spines.right": False}
COLOUR, BASE_COLOUR = "#b5432a", "#33557f"
COMMAND = "python run.py experiment=switch"


def write(
    runs: pd.DataFrame, folder: Path, data: str = "real", protocol: str | None = "table2", seed: int | None = None
) -> list[Path]:
    """Draw every study among the runs, a picture each: ``switch-<task>-<model>-<optimizer>``.

    A study is runs of TM-SGD (or TM-SGD-M) that differ only in switch epoch and seed. SGD (SGD-M) of the same settings
    is drawn as a level.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        folder: where the files are written; made if missing.
        data: "real" or "synthetic".
        protocol: studies of which some run, or its SGD, follows it to the letter; None for all.
        seed: this one alone; None for all.

    Returns:
        The files.

    Raises:
        StoreError: there is no study, or the folder cannot be written.
    """
    finished = runs[(runs["data"] == data) & runs["status"].isin(FINISHED)]
    finished = finished if seed is None else finished[finished["seed"] == seed]
    written: list[Path] = []
    for swept, base in studies(finished, protocol):
        first = swept.iloc[0]
        with rc_context(STYLE):
            name = f"switch-{first['task']}-{first['model']}-{first['optimizer']}"
            name += f"-{_digest(swept)}" if any(path.stem == name for path in written) else ""
            written += save(draw(swept, base), folder, name)
    if not written:
        raise StoreError(f"no two runs differ in their switch epoch alone: train some with '{COMMAND}'.")
    return written


def studies(runs: pd.DataFrame, protocol: str | None) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """The runs of each study, and those of its SGD."""
    swept = runs[runs["optimizer"].isin(BASES) & runs["switch_epoch"].notna()]
    for (group, _), study in swept.groupby(["group", selection.without_switch(swept)]):
        base = runs[(runs["group"] == group) & (runs["optimizer"] == BASES[study["optimizer"].iloc[0]])]
        follows = pd.concat([study, base])["protocols"].map(lambda names: protocol is None or protocol in names)
        if study["switch_epoch"].nunique() > 1 and follows.any():
            yield study.drop_duplicates(["switch_epoch", "seed"]), base.drop_duplicates("seed")


def _digest(study: pd.DataFrame) -> str:
    """Tells a study from others of the same task, model and optimizer."""
    options = selection.without_switch(study.iloc[:1]).iloc[0]
    return files.digest({"group": study["group"].iloc[0], "options": options})[:6]


def draw(study: pd.DataFrame, base: pd.DataFrame) -> Figure:
    """The figure of one study: seeds as dots, their mean with a standard deviation, and SGD's as a level.

    Where a run diverged there is no mean.
    """
    first = study.iloc[0]
    switched = selection.by_switch(study)
    figure = Figure(figsize=(6.0, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for _, values in switched.finals.items():
        axes.plot(values.index, values, "o", color=COLOUR, markersize=3, alpha=0.55)
    mean, spread = switched.mean, switched.spread.fillna(0.0)
    label = mathtext(f"{first['label']}, mean ± standard deviation")
    axes.errorbar(mean.index, mean, spread, color=COLOUR, marker="s", capsize=3, label=label)
    _level(axes, base)
    unit = f" ({first['unit']})" if first["unit"] else ""
    axes.set(xlabel="switch epoch (0: eq. (8) from the start)", ylabel=mathtext(f"{first['metric']}{unit}"))
    axes.set_title(mathtext(_about(study)), fontsize=8.0)
    axes.legend(frameon=False, fontsize=8.0)
    return figure


def _level(axes: Axes, base: pd.DataFrame) -> None:
    if base.empty:
        return
    if lost := int((base["status"] == Status.DIVERGED).sum()):  # the mean of the others says nothing
        label = mathtext(f"{base['label'].iloc[0]}: {lost} of {len(base)} diverged")
        axes.plot([], [], color=BASE_COLOUR, linestyle="--", label=label)
        return
    summary = summarise(base["final"].astype(float))
    label = mathtext(f"{base['label'].iloc[0]} (n={summary.n})")
    axes.axhline(summary.mean, color=BASE_COLOUR, linestyle="--", label=label)
    if summary.n > 1:
        axes.axhspan(summary.mean - summary.std, summary.mean + summary.std, color=BASE_COLOUR, alpha=0.12, linewidth=0)


def _about(study: pd.DataFrame) -> str:
    """What a reader must know: task, settings, number of seeds, and the marks of the data."""
    first = study.iloc[0]
    counts = study.groupby("switch_epoch")["seed"].nunique()
    seeds = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    marks = [mark for mark in selection.marks(study) if not mark.startswith("few seeds")]
    marks += ["few seeds"] if any(selection.few_seeds(int(count)) for count in counts) else []
    settings = f"{number_of(first['epochs'], 'epoch')}, batch {first['batch_size']:.0f}, lr {first['lr']:g}"
    return " · ".join([f"{first['task']}, {first['model']}, {first['data']} data", settings, f"{seeds} seeds", *marks])
