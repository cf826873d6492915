"""Avazu's prepared rows, split by split."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tasks.ctr.prepare import prepared
from tmsgd_bench.data.cache import Tensors
from tmsgd_bench.errors import DataError
from tmsgd_bench.seeding import subset
from tmsgd_bench.task import TaskSettings


@dataclass(frozen=True)
class Clicks:
    """The rows of one split.

    On a CPU the columns are mapped into memory from the disk; they must not be written to.

    Args:
        columns: of each field the numbers of its values, for all rows of the file: uint8, int16 or int32, shape (all,).
        starts: where each field begins in the embedding table: int32, shape (fields,).
        clicks: 0 or 1, for all rows of the file: uint8, shape (all,).
        rows: which of them belong to the split: int32, shape (rows,).
    """

    columns: tuple[Tensor, ...]
    starts: Tensor
    clicks: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Some rows of the split.

        Returns:
            For each value its row in the embedding table: int32, shape (batch, fields). Clicks: uint8, shape (batch,).
        """
        rows = self.rows[places].long()
        ids = torch.stack([column[rows].int() for column in self.columns], dim=1)
        return ids + self.starts, self.clicks[rows]


def load(settings: TaskSettings, min_count: int, hour: str, evaluate_on: str) -> tuple[Clicks, Clicks, list[int]]:
    """The training split and the split to evaluate on, or what their limits leave of them; and how many values each
    field has, its rare one included.

    Args:
        settings: the run's.
        min_count, hour: see :func:`tasks.ctr.prepare.prepared`.
        evaluate_on: "test" or "validation".

    Raises:
        DataError: the data are missing or damaged, or so few that the training split, or what is evaluated, has no
            clicks or nothing else. ``data.limit`` is not checked: it may leave one of the two alone.
    """
    tensors = {name: tensor.to(settings.device) for name, tensor in prepared(settings, min_count, hour).items()}
    train = _split(tensors, "train", None, settings)
    train = replace(train, rows=train.rows[subset(len(train), settings.data_limit).to(settings.device)])
    return train, _split(tensors, evaluate_on, settings.evaluation_limit, settings), tensors["sizes"].tolist()


def _split(tensors: Tensors, name: str, limit: int | None, settings: TaskSettings) -> Clicks:
    columns = tuple(tensor for key, tensor in tensors.items() if key.startswith("field "))
    starts = (tensors["sizes"].cumsum(0) - tensors["sizes"]).int()
    rows = tensors[f"rows {name}"]
    rows = rows[subset(len(rows), limit).to(rows.device)]
    split = Clicks(columns, starts, tensors["click"], rows)
    clicks = split.clicks[split.rows.long()]
    if int(clicks.amin()) == int(clicks.amax()):
        raise DataError(
            f"the {name} split of {settings.data_folder} has only clicks or none among {len(split):,} rows, too few to "
            "learn or judge from: use more rows, or a larger data.evaluation_limit."
        )
    return split
