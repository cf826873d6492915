"""The picture of the jumps: training loss against epoch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tmsgd_bench import escaping, files
from tmsgd_bench.results.jumps import Entry, Group, switch_of

COLUMNS = 3
"""Panels of the picture in a row."""


def draw(group: Group, path: Path) -> None:
    """Training loss against epoch, a panel for each optimizer; jumps are marked at their first epoch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(group.entries))
    rows = math.ceil(len(group.entries) / columns)
    figure = Figure(figsize=(4.0 * columns, 2.4 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for panel, entry in zip(panels, group.entries, strict=False):
        _panel(panel, entry)
    for panel in panels[len(group.entries) :]:
        panel.set_visible(False)
    figure.suptitle(escaping.mathtext(group.heading), fontsize=9.0)
    figure.supxlabel("epoch", fontsize=9.0)
    figure.supylabel("training loss", fontsize=9.0)
    files.write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150, metadata={}))


def _panel(axes: Any, entry: Entry) -> None:
    for trace in entry.traces:
        axes.semilogy(trace.losses, color="#33557f", linewidth=0.7, alpha=0.6)
        epochs = [jump.epoch for jump in trace.jumps]
        axes.semilogy(epochs, trace.losses[epochs], "v", color="#b5432a", markersize=5)
    for switch in {switch_of(trace.run) for trace in entry.traces}:  # runs that choose it have several
        if 0 < switch < float(entry.first["epochs"]):
            axes.axvline(switch, color="#777777", linestyle="--", linewidth=0.8)
    jumps = sum(len(trace.jumps) for trace in entry.traces)
    axes.set_title(escaping.mathtext(f"{entry.label} (runs: {len(entry.traces)}, jumps: {jumps})"), fontsize=8.0)
    axes.tick_params(labelsize=8.0)
    axes.spines[["top", "right"]].set_visible(False)
