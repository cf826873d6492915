"""One folder for each run: written by one process, published by rename, mergeable by copying, deletable by ``rm``.

    ROOT/<run id>/              a finished run (done or diverged): never changed again
    ROOT/.work/<run id>/        a run in progress, abandoned, or failed: checkpoints, heartbeat, last error
    ROOT/.replaced/             what force=true is about to replace, for the moment of the exchange
    ROOT/.locks/<run id>.lock   held by the process that trains the run; the system frees it when that process dies

A finished folder holds ``config.yaml`` (the settings that determine the result), ``environment.json``,
``history.parquet`` (a row an epoch) and ``result.json`` (outcome, metrics, clocks).
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from filelock import FileLock, Timeout

from tmsgd_bench.errors import RunIsBusy, StoreError
from tmsgd_bench.files import digest, read_json, unwritable, write_atomically
from tmsgd_bench.results import heartbeat

RESULT = "result.json"
CONFIG = "config.yaml"
HISTORY = "history.parquet"
ENVIRONMENT = "environment.json"
FAILURE = "failure.json"
PREFIX = "prefix.json"
WEIGHTS = "weights.pt"
PREDICTIONS = "detections"
SCORE = "fid.json"
"""What a run could not measure itself, measured afterwards (tasks/ig/score.py)."""
LOCK_SECONDS = 1.0  # read_runs() tries locks for an instant, which must not turn a starting run away


class RunFolder:
    """The places of one run in a store.

    Args:
        root: the store.
        run_id: the run's name, unique in the store.
    """

    def __init__(self, root: Path, run_id: str) -> None:
        self.root, self.run_id = root, run_id
        self.final = root / run_id
        self.work = root / ".work" / run_id
        self.lock_path = root / ".locks" / f"{run_id}.lock"
        self.replaced = root / ".replaced" / run_id

    @contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Be the only process that works on this run, and mend what a crash left half exchanged.

        Args:
            wait: until another process that works on it is through.

        Raises:
            RunIsBusy: another process works on it, and ``wait`` is off.
            StoreError: the store cannot be written.
        """
        self._make_folders()
        lock = FileLock(self.lock_path)
        try:
            lock.acquire(timeout=-1 if wait else LOCK_SECONDS, poll_interval=0.05)
        except Timeout:
            raise self._busy(heartbeat.read(self.work)) from None
        except OSError as error:
            raise unwritable(self.root, error) from error
        try:
            self._leave_to_other_machines(wait)
            self._mend()
            yield
        finally:
            lock.release()

    def _busy(self, beat: dict[str, Any]) -> RunIsBusy:
        return RunIsBusy(
            f"{self.run_id} is being trained by {heartbeat.process(beat)}: leaving it alone; 'python -m tmsgd_bench "
            "runs' shows it."
        )

    def _leave_to_other_machines(self, wait: bool) -> None:
        """Locks may not reach from one machine to another; what one has trained or trains shows all the same."""
        while beat := heartbeat.elsewhere(self.work):
            if not wait:
                raise self._busy(beat)
            time.sleep(heartbeat.SECONDS)

    def finished(self) -> dict[str, Any] | None:
        """The result of the finished run, or None."""
        return read_result(self.final)

    def publish(self) -> None:
        """Turn the work folder into the finished run, in place of an older one of the same name."""
        (self.work / heartbeat.NAME).unlink(missing_ok=True)
        try:
            if self.final.exists():
                shutil.rmtree(self.replaced, ignore_errors=True)
                self.final.rename(self.replaced)
            self.work.rename(self.final)
        except OSError as error:
            raise unwritable(self.root, error) from error
        shutil.rmtree(self.replaced, ignore_errors=True)

    def _mend(self) -> None:
        """Undo a replacement that a crash cut short, or finish tidying up after it."""
        if self.replaced.exists():
            if self.final.exists():
                shutil.rmtree(self.replaced)
            else:
                self.replaced.rename(self.final)

    def _make_folders(self) -> None:
        try:
            self.work.parent.mkdir(parents=True, exist_ok=True)
            self.lock_path.parent.mkdir(exist_ok=True)
            self.replaced.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(self.root, error) from error


def write_history(path: Path, rows: list[dict[str, float]]) -> None:
    """Write one row for each epoch as Parquet.

    Raises:
        StoreError: see :func:`write_atomically`.
    """
    frame = pd.DataFrame(rows)
    if "epoch" in frame:
        frame = frame.astype({"epoch": "int64"})
    write_atomically(path, lambda temporary: frame.to_parquet(temporary, index=False))


def read_result(folder: Path) -> dict[str, Any] | None:
    """A run folder's result, or None if it is missing or damaged."""
    result = read_json(folder / RESULT)
    return result if result and "status" in result else None


def read_runs(root: Path) -> pd.DataFrame:
    """Every run of a store, finished or not: one row a run, sorted by run id.

    Columns: those of ``COLUMNS``. ``status`` is done, diverged, failed, running or abandoned; ``final`` and
    ``best`` are the primary metric in its unit, missing where there is none. ``protocols`` is a tuple. Runs with the
    same ``setting`` differ in their seed alone, with the same ``context`` in seed and optimizer, and with the same
    ``context`` and ``variant`` in seed and switch epoch.

    Raises:
        StoreError: the folder exists but cannot be read.
    """
    try:
        finished = [p for p in root.iterdir() if p.name[0] != "." and (p / RESULT).is_file()] if root.exists() else []
        work = root / ".work"
        begun = [p for p in work.iterdir() if (p / CONFIG).is_file()] if work.exists() else []
    except OSError as error:
        raise StoreError(
            f"cannot read the results in {root} ({error.strerror}): check results.root and its permissions."
        ) from error
    again = {folder.name for folder in begun}
    rows = [_row(folder, _finished_result(folder, folder.name in again)) for folder in finished]
    again -= {folder.name for folder in finished}
    rows += [_row(folder, _unfinished(root, folder)) for folder in begun if folder.name in again]
    frame = pd.DataFrame([row for row in rows if row], columns=pd.Index(COLUMNS))
    return frame.sort_values("run_id", ignore_index=True)


def damaged(root: Path) -> list[Path]:
    """Folders of runs that no frame holds, because their settings cannot be read."""
    begun = [*root.glob(f"[!.]*/{RESULT}"), *root.glob(f".work/*/{CONFIG}")]
    folders = {path.parent for path in (*begun, *root.glob(f"[!.]*/{CONFIG}"))}
    return sorted(folder for folder in folders if _row(folder, {}) is None)


def merge(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The runs of several stores in one frame; of a run that is in several, one that has a result if there is one."""
    every = pd.concat(frames, ignore_index=True)
    finished_first = every.sort_values("status", key=lambda one: ~one.isin(["done", "diverged"]), kind="stable")
    return finished_first.drop_duplicates("run_id").sort_values("run_id", ignore_index=True)


COLUMNS = (
    *("run_id", "status", "task", "model", "dataset", "optimizer", "label", "switch_epoch", "seed", "data", "limit"),
    *("fingerprint", "epochs", "batch_size", "lr", "protocols", "benchmark_version", "context", "variant", "setting"),
    *("metric", "unit", "direction", "final", "best", "best_epoch", "initial", "epochs_done", "examples_per_second"),
    *("training_examples", "split", "training_seconds", "parameters", "weights_sha256", "note", "verified", "started"),
    *("commit", "folder"),
)


def shared_settings(folder: Path) -> dict[str, Any]:
    """What runs must share with a finished one to be compared, by dotted key; empty if its settings cannot be read."""
    try:
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return dict(_leaves(_shared(config)))


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _context(config: dict[str, Any]) -> str:
    return digest(_shared(config))


def _shared(config: dict[str, Any]) -> dict[str, Any]:
    """What runs must share to be compared: everything but optimizer and seed, and the learning rate."""
    own = ("optimizer", "seed", "protocols", "setting")
    shared = {key: value for key, value in config.items() if key not in own}
    return {**shared, "lr": config["optimizer"].get("lr")}


def _variant(config: dict[str, Any]) -> str:
    """What runs share that differ in their switch epoch alone, besides the context: the optimizer's other options."""
    return digest({key: value for key, value in config["optimizer"].items() if key not in ("label", "switch_epoch")})


def _finished_result(folder: Path, again: bool) -> dict[str, Any]:
    """The result of a finished run; ``again``: a replacement for it has been begun."""
    result = read_result(folder)
    if result is None:
        return {"status": "failed", "note": f"{RESULT} is damaged: the same command trains the run again"}
    result = _scored(folder, result)
    note = f"{result.get('note', '')}; force=true has begun to train it again"
    return {**result, "note": note} if again else result


def _scored(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """A result with the primary metric that was measured afterwards, if it was; its best epoch is not known."""
    score = (read_json(folder / SCORE) or {}).get("fid")
    if score is None or result["status"] != "done":
        return result
    metric = {"metric": "fid", "unit": "", "direction": "min", "final": score, "best": None, "best_epoch": None}
    return {**result, **metric, "note": f"FID {score:.6g}, measured afterwards; {result.get('note', '')}"}


def _unfinished(root: Path, folder: Path) -> dict[str, Any]:
    """What can be said of a run without a result: running, abandoned, or failed with its error."""
    if _is_locked(root / ".locks" / f"{folder.name}.lock") or heartbeat.elsewhere(folder):
        beat = heartbeat.read(folder)
        return {"status": "running", "epochs_done": beat.get("epoch"), "note": heartbeat.progress(beat)}
    failure = read_json(folder / FAILURE)
    if failure:
        return {"status": "failed", **failure}
    reached = heartbeat.read(folder).get("epoch")  # when it last gave a sign of life; a checkpoint may be newer
    return {"status": "abandoned", "epochs_done": reached, "note": "resumes when the same command is started again"}


def _is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False


def _switch_epoch(config: dict[str, Any], result: dict[str, Any]) -> float | None:
    """First epoch of the multi-step rule; of a run that chose it itself, infinity if it never did."""
    planned = config["optimizer"].get("switch_epoch")
    if planned != "auto":
        return planned
    chosen = (result.get("auto_switch") or {}).get("epoch")
    return math.inf if chosen is None and result.get("status") == "done" else chosen


def _limit(config: dict[str, Any], result: dict[str, Any]) -> int | None:
    """How many training examples a limited run takes: not more than there are, which only its result knows."""
    limit, used = config["data"]["limit"], result.get("training_examples")  # earlier versions did not record it
    return limit if limit is None or used is None else min(limit, used)


def _row(folder: Path, result: dict[str, Any]) -> dict[str, Any] | None:
    """A frame's row, or None for a folder whose settings cannot be read."""
    try:
        config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        spec = {
            "task": config["task"]["name"],
            "model": config["model"]["name"],
            "optimizer": config["optimizer"]["name"],
            "label": config["optimizer"]["label"],
            "switch_epoch": _switch_epoch(config, result),
            "data": config["data"]["kind"],
            "limit": _limit(config, result),
            "protocols": tuple(config["protocols"]),
            "context": _context(config),
            "variant": _variant(config),
            "dataset": config["task"].get("dataset"),
            "split": config["task"].get("evaluate_on", "test"),
            "fingerprint": config["data"].get("fingerprint"),
            "lr": config["optimizer"].get("lr"),
            **{key: config[key] for key in ("seed", "epochs", "batch_size", "benchmark_version", "setting")},
        }
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return None
    environment = read_json(folder / ENVIRONMENT) or {}
    seen = {"verified": environment.get("verified_data", True)}  # earlier versions did not record it
    seen |= {key: environment.get(key) for key in ("started", "commit")}
    return {"run_id": folder.name, **spec, **result, **seen, "folder": str(folder)}
