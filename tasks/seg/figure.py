"""Test images with the class of every pixel: as annotated, and as a network sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tmsgd_bench.results.figure_parts import grid, label_row
from tmsgd_bench.results.figure_runs import Picture
from tmsgd_bench.voc import colour_map

SHOWN = 6
PICTURE = "masks.png"
WIDTH, LABEL, LEGEND = 8.0, 0.8, 0.55  # inches: the figure, its row labels, its legend
STYLE: Any = {"font.size": 8.0, "legend.fontsize": 7.0}
ROWS = ("image", "annotated", "predicted")


@dataclass(frozen=True)
class Masks(Picture):
    """Images of different sizes with their masks.

    Args:
        images: uint8, each of shape (height, width, 3).
        truths: uint8, each of shape (height, width): a class's number, 255 where none counts.
        predictions: integers of the same shapes: a class's number.
        names: of the classes.
    """

    picture: ClassVar[str] = PICTURE
    style: ClassVar[Any] = STYLE
    images: Sequence[np.ndarray]
    truths: Sequence[np.ndarray]
    predictions: Sequence[np.ndarray]
    names: Sequence[str]

    def figure(self) -> Figure:
        """A column for each image; below, the classes that are in them."""
        side = (WIDTH - LABEL) / len(self.images)
        height = LEGEND + side * len(ROWS)
        area = (LABEL / WIDTH, LEGEND / height, 1.0, 1.0)
        figure, cells = grid(len(ROWS), len(self.images), (WIDTH, height), area, gap=0.03)
        for row, (label, pictures) in enumerate(zip(ROWS, self._pictures(), strict=True)):
            label_row(cells[row, 0], label)
            for axes, picture in zip(cells[row], pictures, strict=True):
                axes.imshow(picture, interpolation="nearest")
                axes.set_axis_off()
        figure.legend(handles=self._legend(), loc="lower center", ncols=8, frameon=False)
        return figure

    def _pictures(self) -> tuple[Sequence[np.ndarray], ...]:
        colours = colour_map()
        masks = ([colours[mask] for mask in row] for row in (self.truths, self.predictions))
        return (self.images, *masks)

    def _legend(self) -> list[Patch]:
        there = np.unique(np.concatenate([mask.ravel() for mask in (*self.truths, *self.predictions)]))
        colours = colour_map() / 255.0
        return [Patch(color=colours[number], label=self.names[number]) for number in there if number < len(self.names)]
