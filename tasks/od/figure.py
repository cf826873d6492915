"""Test images with the objects annotated on them, and those that a detector found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tmsgd_bench.results.figure_parts import grid
from tmsgd_bench.results.figure_runs import Picture

SHOWN = 8
COLUMNS = 4
PICTURE = "boxes.png"
WIDTH, HEAD = 8.0, 0.3  # inches: the figure, and its legend
SURE = 0.5
"""Score from which a box is drawn."""
MOST = 5
"""Boxes drawn where none is that sure: the surest, in thin lines."""
STYLE: Any = {"font.size": 8.0, "legend.fontsize": 8.0}
TRUE, FOUND = "#ffffff", "#ff2d9b"


@dataclass(frozen=True)
class Shown:
    """An image with two sets of boxes (x1, y1, x2, y2 in pixels).

    Args:
        image: uint8, shape (height, width, 3).
        true_boxes, true_labels: float (objects, 4) and int (objects,): as annotated.
        boxes, labels, scores: float (boxes, 4), int (boxes,) and float (boxes,): as found.
    """

    image: np.ndarray
    true_boxes: np.ndarray
    true_labels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Boxes(Picture):
    """Images of different sizes with their boxes, and the classes' names."""

    picture: ClassVar[str] = PICTURE
    style: ClassVar[Any] = STYLE
    images: Sequence[Shown]
    names: Sequence[str]

    def figure(self) -> Figure:
        """The images in rows of four."""
        rows = -(-len(self.images) // COLUMNS)
        height = HEAD + rows * WIDTH / COLUMNS
        figure, cells = grid(rows, COLUMNS, (WIDTH, height), (0.0, 0.0, 1.0, 1.0 - HEAD / height), gap=0.02)
        for axes in cells.flat:
            axes.set_axis_off()
        for axes, shown in zip(cells.flat, self.images, strict=False):
            self._draw_one(axes, shown)
        handles = [Rectangle((0, 0), 1, 1, fill=False, edgecolor=colour) for colour in ("black", FOUND)]
        words = ["annotated (white)", f"found: score ≥ {SURE}; thin: the {MOST} surest where none is"]
        figure.legend(handles, words, loc="upper center", ncols=2, frameon=False)
        return figure

    def _draw_one(self, axes: Axes, shown: Shown) -> None:
        height, width = shown.image.shape[:2]
        axes.imshow(shown.image, extent=(0, width, height, 0))
        for box in shown.true_boxes:
            _outline(axes, box, TRUE, 1.6)
        sure = shown.scores >= SURE
        order = np.flatnonzero(sure) if sure.any() else np.argsort(-shown.scores, kind="stable")[:MOST]
        for number in order:
            _outline(axes, shown.boxes[number], FOUND, 1.2 if sure.any() else 0.5)
            x, y = shown.boxes[number, :2]
            text = f"{self.names[shown.labels[number]]} {shown.scores[number]:.2f}"
            label = {"facecolor": FOUND, "edgecolor": "none", "pad": 0.6, "alpha": 0.8}
            axes.text(max(float(x), 0.0), float(y), text, fontsize=5, color="white", va="bottom", bbox=label)
        axes.set(xlim=(0, width), ylim=(height, 0))


def _outline(axes: Axes, box: Iterable[float], colour: str, line: float) -> None:
    x1, y1, x2, y2 = box
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=line))
