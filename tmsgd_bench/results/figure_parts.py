"""What the figures of several tasks are made of: arrays that a run keeps, and cells in rows and columns."""

from __future__ import annotations

import io
from dataclasses import fields
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tmsgd_bench import files
from tmsgd_bench.errors import StoreError
from tmsgd_bench.escaping import mathtext


class KeptArrays:
    """Arrays that a run keeps in one file, for a figure. A subclass is a dataclass with a field for each array."""

    file: ClassVar[str]
    """The name of the file."""

    def check(self) -> None:
        """Raise ValueError unless the arrays belong together."""

    def save(self, folder: Path) -> None:
        """Write the file into a folder.

        Raises:
            StoreError: the folder cannot be written.
        """
        packed = io.BytesIO()
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        np.savez_compressed(packed, **arrays)
        files.write_atomically(folder / self.file, lambda path: path.write_bytes(packed.getvalue()))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What :meth:`save` wrote.

        Raises:
            StoreError: it is missing or damaged.
        """
        path = folder / cls.file
        try:
            with np.load(path, allow_pickle=False) as packed:
                arrays = cls(*(packed[field.name] for field in fields(cls)))  # type: ignore[arg-type]
            arrays.check()
        except Exception as error:  # a damaged file raises almost any kind
            raise StoreError(
                f"cannot use {path} ({files.os_reason(error)}): restore it from a copy, or train its run again with "
                "force=true."
            ) from error
        return arrays


def grid(
    rows: int, columns: int, size: tuple[float, float], area: tuple[float, float, float, float], gap: float
) -> tuple[Figure, np.ndarray]:
    """A figure, and its cells: shape (rows, columns), of Axes.

    Args:
        rows, columns: how many cells.
        size: width and height in inches.
        area: where the cells are, as shares of the figure: left, bottom, right, top.
        gap: between cells, as a share of a cell.
    """
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    cells = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(*area, wspace=gap, hspace=gap)
    return figure, cells


def spread_evenly(size: int, count: int) -> list[int]:
    """Numbers of at most ``count`` of ``size`` examples, spread evenly from the first one on."""
    count = min(count, size)
    return [place * size // count for place in range(count)]


def label_row(first: Axes, label: str) -> None:
    """Write a label to the left of a row's first cell."""
    first.text(-0.06, 0.5, mathtext(label), transform=first.transAxes, ha="right", va="center")
