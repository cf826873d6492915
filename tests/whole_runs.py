"""What tests of whole runs share: a kill at a chosen step, and what of a run must not depend on how it came about."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from tmsgd_bench import files, manifest
from tmsgd_bench.engine.spec import RunOptions, RunSpec
from tmsgd_bench.results import store

Hook = Callable[[int, int], None]
"""Called before each step with its epoch and its number in the epoch."""
OF_A_PROCESS = (store.CONFIG, store.ENVIRONMENT, store.RESULT, store.HISTORY, manifest.NAME, "prefix.json")
"""Files that hold times or tell who trained what, or are compared by their values."""
OUTCOME = ("status", "final", "best", "best_epoch", "initial", "epochs_done", "switched", "weights_sha256")


class Killed(BaseException):
    """Stands for a signal: no handler of the engine may catch it."""


def nothing(epoch: int, step: int) -> None:
    """A hook that leaves training alone."""


def kill_at(epoch: int, step: int, error: BaseException | None = None) -> Hook:
    """A hook that raises ``Killed``, or another error, at one step, once."""
    armed = [error or Killed()]

    def hook(now: int, at: int) -> None:
        if armed and (now, at) == (epoch, step):
            raise armed.pop()

    return hook


def make_options(root: Path, **changes: Any) -> RunOptions:
    """Checkpoint after every epoch, on the CPU."""
    return RunOptions(
        **{"results_root": root, "device": "cpu", "checkpoint_seconds": 0.0, "progress": "log", **changes}
    )


def result(root: Path, spec: RunSpec) -> dict[str, Any]:
    """What ``result.json`` of a finished run holds."""
    values = files.read_json(root / spec.run_id / store.RESULT)
    assert values is not None
    return values


def history(root: Path, spec: RunSpec) -> pd.DataFrame:
    """A row for each epoch, without its seconds."""
    return pd.read_parquet(root / spec.run_id / store.HISTORY).drop(columns="training_seconds", errors="ignore")


def outcome(root: Path, spec: RunSpec) -> dict[str, Any]:
    """What must not depend on how often a run was stopped, or on who trained its first epochs.

    That is its result, its history (as text: NaN is not equal to itself) and the digests of the files that it wrote
    beside them.
    """
    folder, values = root / spec.run_id, result(root, spec)
    written = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in OF_A_PROCESS]
    return {
        **{name: values.get(name) for name in (*OUTCOME, "diverged_at")},
        "history": repr(history(root, spec).to_dict("list")),
        "files": {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in written},
    }
