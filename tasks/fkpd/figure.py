"""Figure 1 of the paper: test faces with the true key points and those that each optimizer's network finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib import patheffects, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tmsgd_bench.errors import StoreError
from tmsgd_bench.escaping import mathtext
from tmsgd_bench.results.figure_parts import KeptArrays, grid, label_row
from tmsgd_bench.results.figure_runs import PaperFigure, Picture, never_switches, title
from tmsgd_bench.results.status import Status

TASK = "fkpd"
FACES = 7
FILE, PICTURE = "keypoints.npz", "keypoints.png"
WIDTH, LABEL, HEAD = 7.0, 0.85, 0.5  # inches: the figure, its row labels, and its title with the legend
STYLE: Any = {"font.size": 8.0, "axes.titlesize": 8.0, "legend.fontsize": 8.0, "pdf.fonttype": 42}
# Told apart by shape and by lightness, so that a grey print will do.
TRUE: dict[str, Any] = {
    "marker": "o",
    "markerfacecolor": "white",
    "markeredgecolor": "black",
    "markersize": 2.0,
    "markeredgewidth": 0.4,
}
FOUND: dict[str, Any] = {"marker": "x", "markeredgecolor": "#d3202a", "markersize": 2.0, "markeredgewidth": 0.7}
HALO = patheffects.withStroke(linewidth=1.3, foreground="black")
NAMES = {"truth": "labelled", "predicted": "found by the network"}


@dataclass(frozen=True)
class KeyPoints(KeptArrays, Picture):
    """Faces with the points that are labelled on them, and those that a network found.

    Args:
        images: uint8, shape (faces, height, width): gray values.
        truth: float32, shape (faces, points, 2): x and y in pixels of the image.
        predicted: the same, as found.
    """

    file: ClassVar[str] = FILE
    picture: ClassVar[str] = PICTURE
    style: ClassVar[Any] = STYLE
    images: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray

    def check(self) -> None:
        """Raise ValueError unless there are as many points of each face, with two numbers each."""
        faces = len(self.images)
        shapes = self.images.ndim == 3 and self.truth.shape == self.predicted.shape == (faces, *self.truth.shape[1:])
        if not shapes or self.truth.ndim != 3 or self.truth.shape[2] != 2:
            raise ValueError("its arrays do not belong together")

    def figure(self) -> Figure:
        """The faces in one row."""
        return _grid([("", self)], "")


def draw(chosen: pd.DataFrame) -> Figure:
    """The figure of runs from :func:`figure_runs.choose`.

    Raises:
        StoreError: the points of a run are damaged, or belong to other faces than another's.
    """
    points = {row["run_id"]: KeyPoints.load(Path(row["folder"])) for _, row in chosen[chosen["drawn"]].iterrows()}
    first_id, first = next(iter(points.items()))
    for run_id, other in points.items():
        if not np.array_equal(other.images, first.images):
            raise StoreError(f"{run_id} shows other faces than {first_id}: train them again with force=true.")
    blank = KeyPoints(first.images, first.truth, np.full_like(first.predicted, np.nan))
    rows = [(_label(row), points.get(row["run_id"], blank)) for _, row in chosen.iterrows()]
    return _grid(rows, title(chosen, "training frames"))


write = PaperFigure("figure1", TASK, FILE, "key points", STYLE, draw).write


def _label(row: pd.Series) -> str:
    label = row["label"]
    if never_switches(row):
        label += "\n(never switches)"
    if not row["drawn"]:
        return f"{label}\n{'no points' if row['status'] == Status.DONE else row['status']}"
    return f"{label}\nMSE {_short(row['final'])}"


def _short(mse: float) -> str:
    """With the decimals of the paper; a network far off needs few."""
    if pd.isna(mse):
        return "not finite"
    return f"{mse:.4f}" if mse < 100 else f"{mse:.1e}"


def _grid(rows: list[tuple[str, KeyPoints]], title: str) -> Figure:
    """Faces side by side, one row for each label, and a legend above."""
    faces = len(rows[0][1].images)
    labelled = LABEL if any(label for label, _ in rows) else 0.0
    head = HEAD if title else HEAD / 2
    side = (WIDTH - labelled) / faces
    height = head + side * len(rows)
    with rc_context(STYLE):
        area = (labelled / WIDTH, 0.0, 1.0, 1.0 - head / height)
        figure, cells = grid(len(rows), faces, (WIDTH, height), area, gap=0.03)
        for line, (label, points) in zip(cells, rows, strict=True):
            label_row(line[0], label)
            for axes, face in zip(line, range(faces), strict=True):
                _draw_face(axes, points, face)
        lines = cells[0, 0].get_lines()
        figure.legend(
            lines, [line.get_label() for line in lines], loc="upper center", ncols=2, frameon=False, markerscale=2
        )
        if title:
            figure.text(0.5, 1.0 - 0.72 * head / height, mathtext(title), ha="center", va="center")
    return figure


def _draw_face(axes: Axes, points: KeyPoints, face: int) -> None:
    height, width = points.images[face].shape
    axes.imshow(points.images[face], cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0))
    for place, name, look in ((points.truth, "truth", TRUE), (points.predicted, "predicted", FOUND)):
        (line,) = axes.plot(*place[face].T, linestyle="", label=NAMES[name], **look)
        if name == "predicted":
            line.set_path_effects([HALO, patheffects.Normal()])
    axes.set(xlim=(0, width), ylim=(height, 0))  # points that are far off are cut, not shown at the expense of the face
    axes.set_axis_off()
