"""Avazu's prepared rows as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tasks.ctr.kept import META, Rows
from tasks.ctr.prepare import prepared
from tmsgd_bench.data import sealed
from tmsgd_bench.errors import DataError
from tmsgd_bench.seeding import subset
from tmsgd_bench.task import TaskSettings


@dataclass(frozen=True)
class Clicks:
    """One split.

    Args:
        ids: int32, shape (rows, fields): for each value its row in the embedding table.
        clicks: uint8, shape (rows,): 0 or 1.
    """

    ids: Tensor
    clicks: Tensor

    def __len__(self) -> int:
        return len(self.clicks)

    def to(self, device: torch.device) -> Clicks:
        """The same on a device."""
        return Clicks(self.ids.to(device), self.clicks.to(device))


@dataclass(frozen=True)
class Loaded:
    """What a run needs of the data.

    Args:
        train: the training split, or the subset of it that ``data_limit`` leaves.
        evaluation: the split to evaluate on.
        sizes: how many values each field has, its rare one included; fields follow each other in the table.
        rows: what the splits are mapped from; not deleted as long as this is held.
    """

    train: Clicks
    evaluation: Clicks
    sizes: dict[str, int]
    rows: Rows


def load(settings: TaskSettings, min_count: int, hour: str, evaluate_on: str) -> Loaded:
    """The prepared rows, on a CPU mapped into memory from the disk; they must not be written to.

    Args:
        settings: the run's.
        min_count, hour: see :func:`tasks.ctr.prepare.prepared`.
        evaluate_on: "test" or "valid".

    Raises:
        DataError: the data are missing or damaged, or so few that a split has no clicks or nothing else.
    """
    rows = prepared(settings, min_count, hour)
    meta = sealed.read_record(rows.folder / META)
    assert meta is not None  # prepared() has read or written it
    train, evaluation = (_split(rows.folder, name, meta) for name in ("train", evaluate_on))
    for name, part in (("training", train), (evaluate_on, evaluation)):
        if int(part.clicks.amin()) == int(part.clicks.amax()):
            raise DataError(
                f"the {name} split of {settings.data_folder} has only clicks or none among {len(part):,} rows, too few "
                "to learn or judge from: use more rows."
            )
    if settings.data_limit is not None:
        kept = subset(len(train), settings.data_limit)
        train = Clicks(train.ids[kept], train.clicks[kept])
    return Loaded(train.to(settings.device), evaluation.to(settings.device), dict(meta["sizes"]), rows)


def _split(folder: Path, name: str, meta: dict[str, dict[str, int]]) -> Clicks:
    rows, fields = meta["rows"][name], len(meta["sizes"])
    if not rows:
        raise DataError(f"the {name} split has no rows: use a file with more rows.")
    ids = torch.from_file(str(folder / f"{name}.ids"), size=rows * fields, dtype=torch.int32)
    return Clicks(ids.view(rows, fields), torch.from_file(str(folder / f"{name}.clicks"), size=rows, dtype=torch.uint8))
