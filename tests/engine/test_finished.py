"""What a finished run says of its task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tmsgd_bench.engine import finished
from tmsgd_bench.engine.task_data import TaskData
from tmsgd_bench.errors import DataError, StoreError
from tmsgd_bench.task import TaskSettings


def test_its_task_is_told_what_it_was_told_before(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    data = TaskData("r8", "synthetic", str(tmp_path / "data"))
    recorded = {"kind": "synthetic", "limit": 7, "fingerprint": data.fingerprint()}
    task, model = {"name": "tc", "dataset": "r8", "tokens": 32}, {"name": "lstm", "hidden": 4}
    run = finished.read(write_run(tmp_path, seed=3, task=task, model=model, data=recorded), "tc")
    assert run.options == {"tokens": 32}
    assert run.settings(data.root, torch.device("cpu")) == TaskSettings(
        data_folder=data.folder,
        data_limit=7,
        batch_size=5,
        seed=3,
        device=torch.device("cpu"),
        model={"hidden": 4},
        fingerprint=data.fingerprint(),
        weights_folder=tmp_path / "data/weights",
    )


def test_other_data_than_the_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="are not those that the run was trained on"):
        finished.data_folder(TaskData("r8", "synthetic", str(tmp_path)), "other")


@pytest.mark.parametrize(("status", "task"), [("done", "ic"), ("diverged", "tc"), ("failed", "tc")])
def test_what_is_no_finished_run_of_the_task_is_refused(
    tmp_path: Path, write_run: Callable[..., Path], status: str, task: str
) -> None:
    with pytest.raises(StoreError, match=f"task={task}"):
        finished.read(write_run(tmp_path, status=status), task)
