"""Which runs a figure of the paper shows: one for each optimizer, alike in all else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from tmsgd_bench import escaping, files, outputs
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import selection, store
from tmsgd_bench.results.status import FINISHED, Status
from tmsgd_bench.tuning import PROTOCOL as TUNED
from tmsgd_bench.wording import number_of

OPTIMIZERS = ("sgd", "tmsgd", "sgdm", "tmsgdm", "adam", "apollo")
"""Rows of a figure, in the paper's order; other optimizers follow."""
KINDS = ("png", "pdf")


@dataclass(frozen=True)
class Wanted:
    """What a figure asks of its runs.

    Args:
        task: its name.
        file: that a run's folder must hold.
        what: is in that file, in words.
        data: "real" or "synthetic".
        protocol: only runs that follow it to the letter; None for any run.
        seed: of the runs; None for any.
    """

    task: str
    file: str
    what: str
    data: str = "real"
    protocol: str | None = "table2"
    seed: int | None = None

    @property
    def command(self) -> str:
        """What trains such runs."""
        options = [f"optimizer={','.join(OPTIMIZERS)}", f"seed={self.seed or 0}"]
        options += [f"data={self.data}"] * (self.data != "real")
        options += [f"protocol={self.protocol}"] * (self.protocol not in (None, "table2"))
        return f"python run.py -m task={self.task} {' '.join(options)}"

    def has_file(self, row: pd.Series) -> bool:
        """Whether a finished run holds what is to be drawn, undamaged."""
        folder = Path(row["folder"])
        return row["status"] == Status.DONE and (folder / self.file).is_file() and store.intact(folder, self.file)


def choose(runs: pd.DataFrame, wanted: Wanted) -> pd.DataFrame:
    """A run for each optimizer, in the order of the rows; the column ``drawn`` tells whether it has the file.

    All share data, protocol values and seed: a comparison is paired. If no seed is asked for, it is
    the one with which the most optimizers have the file; of several the smallest. If runs with different settings
    follow the protocol, the set with the most optimizers is taken; of several the newest. A diverged run of the set is
    drawn as a row that says so.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.

    Raises:
        StoreError: no run has the file.
    """
    fitting = (runs["task"] == wanted.task) & (runs["data"] == wanted.data) & runs["status"].isin(FINISHED)
    if wanted.protocol is not None:
        fitting &= runs["protocols"].map(lambda names: wanted.protocol in names).astype(bool)
    if wanted.protocol == TUNED:  # the runs of its searches follow it, too
        fitting &= runs["split"] == "test"
    if wanted.seed is not None:
        fitting &= runs["seed"] == wanted.seed
    candidates = runs[fitting].assign(drawn=[wanted.has_file(row) for _, row in runs[fitting].iterrows()])
    if not candidates["drawn"].any():
        raise StoreError(f"no run has {wanted.what} to draw: train some with '{wanted.command}'.")
    groups = [
        group
        for _, group in candidates.groupby([selection.compared_by(wanted.protocol), "seed"])
        if group["drawn"].any()
    ]
    return _one_each(max(groups, key=_rank))


@dataclass(frozen=True)
class PaperFigure:
    """A figure of the paper: a row for each optimizer.

    Args:
        name: of its files.
        task, file, what: see :class:`Wanted`.
        style: settings of matplotlib.
        draw: draws runs from :func:`choose`.
    """

    name: str
    task: str
    file: str
    what: str
    style: Any
    draw: Callable[[pd.DataFrame], Figure]

    def write(
        self,
        runs: pd.DataFrame,
        folder: Path,
        data: str = "real",
        protocol: str | None = "table2",
        seed: int | None = None,
    ) -> list[Path]:
        """Draw the figure from runs of one store; :func:`choose` says from which.

        Args:
            runs: from :func:`tmsgd_bench.results.store.read_runs`.
            folder: where the PNG and the PDF are written; made if missing.
            data: "real" or "synthetic".
            protocol: only runs that follow it to the letter; None for any run.
            seed: of the runs; None to choose.

        Returns:
            The files.

        Raises:
            StoreError: no such run has what is to be drawn, that of a run is damaged, or the folder cannot be written.
        """
        chosen = choose(runs, Wanted(self.task, self.file, self.what, data, protocol, seed))
        with rc_context(self.style):  # the PDF's kind of font is asked for when it is written
            return save(self.draw(chosen), folder, self.name)


def never_switches(row: pd.Series) -> bool:
    """Whether a run's switch epoch lies behind its last."""
    return bool(pd.notna(row["switch_epoch"]) and row["switch_epoch"] >= row["epochs"])


def _rank(group: pd.DataFrame) -> tuple[int, str, int]:
    """The more optimizers that can be drawn the better, then the newer, then the smaller seed."""
    newest = max((str(time) for time in group["started"].dropna()), default="")
    return group.loc[group["drawn"], "optimizer"].nunique(), newest, -int(group["seed"].iloc[0])


def _one_each(group: pd.DataFrame) -> pd.DataFrame:
    """One run of each optimizer: one that follows a protocol if there is one; of several the newest."""
    place = {name: number for number, name in enumerate(OPTIMIZERS)}
    keys = group.assign(
        place=group["optimizer"].map(lambda name: place.get(name, len(place))),
        follows=group["protocols"].map(len).gt(0),
        time=group["started"].fillna("").astype(str),
    )
    order, rising = ["place", "optimizer", "follows", "time", "run_id"], [True, True, False, False, True]
    return keys.sort_values(order, ascending=rising).drop_duplicates("optimizer").reset_index(drop=True)


def title(chosen: pd.DataFrame, what: str) -> str:
    """What a reader must know about the runs: data, seed, epochs, and the protocol or that there is none.

    Args:
        what: the real examples are, in the plural.
    """
    first = chosen.iloc[0]
    data = "real data" if first["data"] == "real" else f"{first['data']} data, not the real {what}"
    if pd.notna(first["limit"]):
        data += f", partial: {int(first['limit']):,} {what}"
    if not chosen["verified"].all():
        data += ", unverified"
    data += "".join(f", from the weights of a file ({digits}…)" for digits in selection.files_of(chosen))
    if split_marks := selection.split_marks(chosen):
        data += f", {', '.join(split_marks)}"
    shared = set.intersection(*(set(names) for names in chosen["protocols"]))
    protocol = f"protocol {' and '.join(sorted(shared))}" if shared else "by no protocol"
    return f"{data} · seed {first['seed']} · {number_of(first['epochs'], 'epoch')} · {protocol}"


def save(figure: Figure, folder: Path, name: str, numbers: pd.DataFrame | None = None) -> list[Path]:
    """Write a figure as PNG and PDF into a folder, which is made if missing; returns the pictures.

    Args:
        numbers: what is drawn, as a CSV file beside it; None if another file has it.

    Raises:
        StoreError: the folder cannot be written, or holds other files of these names.
    """

    def fill(place: Path) -> None:
        for kind in KINDS:
            files.write_atomically(place / f"{name}.{kind}", writer(figure, kind))
        if numbers is not None:
            files.write_text(place / f"{name}.csv", escaping.csv(numbers))

    outputs.renew(folder, fill)
    return [folder / f"{name}.{kind}" for kind in KINDS]


class Picture(ABC):
    """What a run draws into its folder."""

    picture: ClassVar[str]
    """The name of the file."""
    style: ClassVar[Any]
    """Settings of matplotlib."""

    @abstractmethod
    def figure(self) -> Figure:
        """The picture."""

    def draw(self, folder: Path) -> None:
        """Write the picture as PNG into a folder.

        Raises:
            StoreError: the folder cannot be written.
        """
        with rc_context(self.style):
            files.write_atomically(folder / self.picture, writer(self.figure(), "png"))


def writer(figure: Figure, kind: str) -> Callable[[Path], None]:
    """Writes a figure to a path; the same figure gives the same file."""
    undated = {"CreationDate": None} if kind == "pdf" else {}
    return partial(figure.savefig, format=kind, dpi=200, metadata=undated)
