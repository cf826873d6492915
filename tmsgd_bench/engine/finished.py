"""A finished run, as far as it takes to make its task again: for what could not be measured while it was trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmsgd_bench.engine.spec import without
from tmsgd_bench.engine.task_data import TaskData, evaluates_on_test
from tmsgd_bench.errors import DataError, StoreError
from tmsgd_bench.results import store
from tmsgd_bench.results.status import Status

if TYPE_CHECKING:
    import torch

    from tmsgd_bench.task import TaskSettings


@dataclass(frozen=True)
class FinishedRun:
    """What a finished run says of its task.

    Args:
        options: of its task.
        model: options of its model.
        dataset: the name of its data set.
        kind: "real" or "synthetic".
        limit: how many training examples it was to take; None for all.
        fingerprint: of the data it was trained on.
        batch_size, seed: its own.
    """

    options: dict[str, Any]
    model: dict[str, Any]
    dataset: str
    kind: str
    limit: int | None
    fingerprint: str
    batch_size: int
    seed: int

    def settings(self, root: str | None, device: torch.device) -> TaskSettings:
        """What its task was told.

        Args:
            root: of the data sets; None for the usual one.
            device: where modules and data are to live.

        Raises:
            DataError: its data are not there, or others are.
        """
        needs_test = evaluates_on_test(self.options)
        data = TaskData(self.dataset, self.kind, root, verify=False, needs_test=needs_test)
        return replace(
            data.settings(data_folder(data, self.fingerprint), self.fingerprint, device),
            data_limit=self.limit,
            batch_size=self.batch_size,
            seed=self.seed,
            model=self.model,
        )


def read(folder: Path, task: str) -> FinishedRun:
    """What a run's folder says.

    Args:
        folder: of the run.
        task: the name of its task.

    Raises:
        StoreError: it holds no finished run of the task, or a damaged one.
    """
    found = store.whole(folder.resolve()) if (folder / store.RESULT).exists() else None
    if found is None or found.result["status"] != Status.DONE or found.settings["task"]["name"] != task:
        raise StoreError(f"{folder} is no finished run of task={task}: name folders such as results/runs/{task}-….")
    settings, data = found.settings, found.settings["data"]
    return FinishedRun(
        options=without(settings["task"], "name", "dataset"),
        model=without(settings["model"], "name"),
        dataset=settings["task"]["dataset"],
        kind=data["kind"],
        limit=data["limit"],
        fingerprint=data["fingerprint"],
        batch_size=settings["batch_size"],
        seed=settings["seed"],
    )


def data_folder(data: TaskData, fingerprint: str) -> Path:
    """Where the data with a fingerprint are.

    Raises:
        DataError: they are not there, or others are.
    """
    folder = data.ready() if data.kind == "synthetic" else data.folder
    if data.fingerprint() != fingerprint:
        raise DataError(
            f"the {data.name} data in {folder} are not those that the run was trained on: name theirs with --root."
        )
    return folder
