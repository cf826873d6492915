"""Figure 2 of the paper: images that each optimizer's generator makes of the same noise after several epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tmsgd_bench.escaping import mathtext
from tmsgd_bench.results import store
from tmsgd_bench.results.figure_parts import KeptArrays, grid, label_row
from tmsgd_bench.results.figure_runs import PaperFigure, Picture, never_switches, title
from tmsgd_bench.results.status import Status
from tmsgd_bench.wording import number_of

TASK = "ig"
FILE, PICTURE = "samples.npz", "samples.png"
SAMPLES = 16
"""Images of one cell of the figure."""
MOST = 7
"""Columns of the figure, at most."""
ACROSS, GAP = 4, 2  # images side by side in a cell, and pixels between them
WIDTH, LABEL, HEAD = 7.0, 1.1, 0.5  # inches: the figure, its row labels, and its title with those of the columns
DISTANCES = {
    "fid64": "FID-64: of 64 features of the first layers of FID's network, no FID",
    "random_features_distance": "distance: of a random network's features, no FID",
}
"""What a metric is that is not FID."""
NAMES = {"fid": "FID", "fid64": "FID-64"}
STYLE: Any = {"font.size": 8.0, "axes.titlesize": 8.0, "pdf.fonttype": 42}


@dataclass(frozen=True)
class Samples(KeptArrays, Picture):
    """What one generator made of the same noise at several times.

    Args:
        epochs: int64, shape (times,): how many had been trained; rising.
        images: uint8, shape (times, images, 3, height, width).
    """

    file: ClassVar[str] = FILE
    picture: ClassVar[str] = PICTURE
    style: ClassVar[Any] = STYLE
    epochs: np.ndarray
    images: np.ndarray

    def check(self) -> None:
        """Raise ValueError unless there are images in colours of each time."""
        images, epochs = self.images, self.epochs
        if images.dtype != np.uint8 or images.ndim != 5 or images.shape[2] != 3 or epochs.shape != images.shape[:1]:
            raise ValueError("its arrays are not images of several epochs")

    def figure(self) -> Figure:
        """The times in one row."""
        return _grid([("", self)], spread(self.epochs.tolist()), "")


def draw(chosen: pd.DataFrame) -> Figure:
    """The figure of runs from :func:`figure_runs.choose`.

    Raises:
        StoreError: the images of a run are damaged.
    """
    drawn = chosen[chosen["drawn"]]
    samples = {row["run_id"]: Samples.load(Path(row["folder"])) for _, row in drawn.iterrows()}
    epochs = spread(sorted({int(epoch) for sample in samples.values() for epoch in sample.epochs}))
    rows = [(_label(row), samples.get(row["run_id"])) for _, row in chosen.iterrows()]
    about = title(chosen, "photos")
    for metric, meaning in DISTANCES.items():
        if (drawn["metric"] == metric).any():
            about += f"\n{meaning}"
    return _grid(rows, epochs, about)


write = PaperFigure("figure2", TASK, FILE, "generated images", STYLE, draw).write
"""Every cell shows the same noise vectors at the same places."""


def spread(epochs: Sequence[int]) -> list[int]:
    """At most seven of them, evenly spread, with the first and the last."""
    places = np.linspace(0, len(epochs) - 1, min(MOST, len(epochs))).round().astype(int)
    return [int(epochs[place]) for place in places]


def _label(row: pd.Series) -> str:
    """The optimizer, and how good and how diverse its last images are; or why there are none."""
    if not row["drawn"]:
        return f"{row['label']}\n{row['status'] if row['status'] != Status.DONE else 'no images'}"
    lines = [str(row["label"])]
    if never_switches(row):
        lines.append("(never switches)")
    if pd.notna(row["final"]):
        lines.append(f"{NAMES.get(row['metric'], 'distance')} {row['final']:.4g}")
    return "\n".join([*lines, *_diversity(Path(row["folder"]))])


def _diversity(folder: Path) -> list[str]:
    """The diversity after the last epoch, of a run that has recorded it."""
    history = store.history(folder)
    if history is None or history.empty or "diversity" not in history:
        return []
    last = history["diversity"].iloc[-1]
    return [f"diversity {last:.3f}"] if pd.notna(last) else []


def _grid(rows: Sequence[tuple[str, Samples | None]], epochs: Sequence[int], about: str) -> Figure:
    """A row for each label, a column for each number of epochs."""
    labelled = LABEL if any(label for label, _ in rows) else 0.0
    lines = len(about.splitlines())
    head = HEAD / 2 + 0.16 * lines
    side = (WIDTH - labelled) / max(len(epochs), 3)
    width, height = labelled + side * len(epochs), head + side * len(rows)
    with rc_context(STYLE):
        whole = max(width, WIDTH * bool(about))
        area = (labelled / whole, 0.0, width / whole, 1.0 - head / height)
        figure, cells = grid(len(rows), len(epochs), (whole, height), area, gap=0.05)
        for axes, epoch in zip(cells[0], epochs, strict=True):
            axes.set_title(number_of(epoch, "epoch"), pad=3.0)
        for line, (label, samples) in zip(cells, rows, strict=True):
            label_row(line[0], label)
            for axes, epoch in zip(line, epochs, strict=True):
                _draw_cell(axes, samples, epoch)
        figure.text(0.5, 1.0 - 0.04 / height, mathtext(about), ha="center", va="top")
    return figure


def _draw_cell(axes: Axes, samples: Samples | None, epoch: int) -> None:
    axes.set_axis_off()
    if samples is not None and epoch in samples.epochs:
        axes.imshow(tile(samples.images[samples.epochs == epoch][0]), interpolation="nearest")
    else:
        axes.set_aspect("equal")
        axes.text(0.5, 0.5, "–", transform=axes.transAxes, ha="center", va="center")


def tile(images: np.ndarray) -> np.ndarray:
    """Images (count, 3, height, width) four abreast with white between them: uint8, shape (height, width, 3)."""
    count, _, height, width = images.shape
    down = -(-count // ACROSS)
    page = np.full((down * (height + GAP) - GAP, ACROSS * (width + GAP) - GAP, 3), 255, dtype=np.uint8)
    for number, image in enumerate(images):
        top, left = number // ACROSS * (height + GAP), number % ACROSS * (width + GAP)
        page[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return page
