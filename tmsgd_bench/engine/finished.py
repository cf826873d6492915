"""Finished runs, read so that their tasks can be made again, for measurements after training."""

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
    """The settings of a finished run that its task needs.

    Args:
        options: of the task.
        model: options of the model.
        dataset: the name of the data set.
        kind: "real" or "synthetic".
        limit: ``data.limit``: how many training examples were used; None for all.
        evaluation_limit: ``data.evaluation_limit``: on how many examples it was evaluated; None for all.
        fingerprint: of the data set.
        batch_size: examples of one step.
        seed: the run's seed.
    """

    options: dict[str, Any]
    model: dict[str, Any]
    dataset: str
    kind: str
    limit: int | None
    evaluation_limit: int | None
    fingerprint: str
    batch_size: int
    seed: int

    def settings(self, root: str | None, device: torch.device) -> TaskSettings:
        """The settings with which the run's task is made again.

        Args:
            root: the folder of all data sets; None for the default.
            device: for modules and data.

        Raises:
            DataError: the data are missing, or are not those that the run was trained on.
        """
        needs_test = evaluates_on_test(self.options)
        data = TaskData(self.dataset, self.kind, root, verify=False, needs_test=needs_test)
        return replace(
            data.settings(data_folder(data, self.fingerprint), self.fingerprint, device),
            data_limit=self.limit,
            evaluation_limit=self.evaluation_limit,
            batch_size=self.batch_size,
            seed=self.seed,
            model=self.model,
        )


def read(folder: Path, task: str) -> FinishedRun:
    """Read the folder of a finished run.

    Args:
        folder: of the run.
        task: the name that its task must have.

    Raises:
        StoreError: it holds no finished run of the task, or a damaged one.
    """
    run = store.whole(folder.resolve()) if (folder / store.RESULT).exists() else None
    if run is None or run.result["status"] != Status.DONE or run.settings["task"]["name"] != task:
        raise StoreError(f"{folder} is no finished run of task={task}: name folders such as results/runs/{task}-….")
    settings, data = run.settings, run.settings["data"]
    return FinishedRun(
        options=without(settings["task"], "name", "dataset"),
        model=without(settings["model"], "name"),
        dataset=settings["task"]["dataset"],
        kind=data["kind"],
        limit=data["limit"],
        evaluation_limit=data.get("evaluation_limit"),
        fingerprint=data["fingerprint"],
        batch_size=settings["batch_size"],
        seed=settings["seed"],
    )


def data_folder(data: TaskData, fingerprint: str) -> Path:
    """The folder of the data that a run was trained on.

    Raises:
        DataError: the data are missing, or have another fingerprint.
    """
    folder = data.ready() if data.kind == "synthetic" else data.folder
    if data.fingerprint() != fingerprint:
        raise DataError(
            f"the {data.name} data in {folder} are not those that the run was trained on: name theirs with --root."
        )
    return folder
