"""One folder for each run: written by one process, published by rename, mergeable by copying, deletable by ``rm``.

    ROOT/<run id>/              a finished run (done or diverged): never changed again
    ROOT/.work/<run id>/        a run in progress, abandoned, or failed: checkpoints, heartbeat, last error
    ROOT/.replaced/             what force=true is about to replace, for the moment of the exchange
    ROOT/.damaged/<run id>-<n>  a damaged run that was trained again
    ROOT/.locks/<run id>.lock   held by the process that trains the run; the system frees it when that process dies

A finished folder holds ``config.yaml`` (the settings that determine the result), ``environment.json``,
``history.parquet`` (a row an epoch), ``result.json`` (outcome, metrics, clocks), and ``manifest.json`` with the
checksums of all its files. See :mod:`tmsgd_bench.results.evidence` for what makes a run damaged.
"""

from __future__ import annotations

import itertools
import logging
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from tmsgd_bench import escaping, manifest, splits
from tmsgd_bench.errors import RunIsBusy, StoreError
from tmsgd_bench.files import canonical, digest, finite, read_json, unreadable, unwritable, write_atomically, write_json
from tmsgd_bench.identity import LABEL, RUN_ID
from tmsgd_bench.results import evidence, heartbeat, packed, record
from tmsgd_bench.results.evidence import Evidence
from tmsgd_bench.results.record import MEASURED, REQUIRED
from tmsgd_bench.results.status import FINISHED, Status

CONFIG, ENVIRONMENT, HISTORY, RESULT = REQUIRED
PREFIX = record.PREFIX
FAILURE = "failure.json"
WEIGHTS = "weights.pt"
PREDICTIONS = "detections"
DEFAULT_ROOT = Path("results/runs")
"""The store that run.py writes and commands read by default."""
FORCED = "forced"
"""Marks a work folder that is to replace a finished run."""
TRANSIENT = (FAILURE, FORCED, heartbeat.NAME, manifest.NAME, "checkpoint-*.pt", "*.tmp")
"""Files of a work folder that are no evidence."""
MENDS = "start its command again, which mends it"
log = logging.getLogger(__name__)
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
        self.aside = root / ".damaged"

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
            f"runs --results {self.root}' shows it."
        )

    def _leave_to_other_machines(self, wait: bool) -> None:
        """Leave a run to the machine whose heartbeat is fresh: its lock may not be seen here."""
        while beat := heartbeat.elsewhere(self.work):
            if not wait:
                raise self._busy(beat)
            time.sleep(heartbeat.SECONDS)

    def finished(self) -> dict[str, Any] | None:
        """The result of the finished run; None if there is none, or if it is damaged."""
        published = self.published()
        return None if published is None or published.problem else published.result

    def published(self) -> Evidence | None:
        """What the published folder says, and what is wrong with it; None if there is none."""
        return evidence.examine(self.final) if _is_there(self.final) else None

    def complete(self) -> bool:
        """Whether the work folder holds a whole run that only needs to be published."""
        return (self.work / manifest.NAME).exists() and evidence.examine(self.work).problem is None

    def set_aside(self) -> Path:
        """Move a damaged published folder out of the way, and return where it is now.

        Raises:
            StoreError: the store cannot be written.
        """
        try:
            self.aside.mkdir(exist_ok=True)
            target = next(path for n in itertools.count(1) if not (path := self.aside / f"{self.run_id}-{n}").exists())
            return self.final.rename(target)
        except OSError as error:
            raise unwritable(self.root, error) from error

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


def seal(folder: Path) -> None:
    """Write the manifest of a finished run's folder: all its files, but for those that belong to its training.

    Raises:
        StoreError: the folder cannot be read or written.
    """
    try:
        paths = [path for path in folder.rglob("*") if path.is_file() and not any(map(path.match, TRANSIENT))]
        manifest.write(folder, [path.relative_to(folder).as_posix() for path in paths])
    except OSError as error:
        raise unwritable(folder, error) from error


def add_measured(folder: Path, values: dict[str, Any]) -> None:
    """Write into a finished run's folder what was measured afterwards. If the process is killed, nothing is measured.

    Args:
        values: what :data:`record.MEASURED` is to hold.

    Raises:
        StoreError: the folder cannot be written, or the values are not what the file may hold.
    """
    values = finite(values)
    try:
        evidence.check_measured(values)
    except evidence.Damaged as error:
        raise StoreError(f"nothing is written into {folder} ({error}): the run counts as it is.") from error
    manifest.amend(folder, drop=[MEASURED])
    write_json(folder / MEASURED, values)
    manifest.amend(folder, add=[MEASURED])


def whole(folder: Path) -> Evidence:
    """What a finished run's folder says.

    Raises:
        StoreError: it is damaged, or cannot be read.
    """
    known = evidence.examine(folder)
    if known.problem:
        raise StoreError(f"{folder} cannot be used: {known.problem}.")
    return known


def intact(folder: Path, name: str) -> bool:
    """Whether a large file of a finished run, a picture for example, is as it was published; warns if it is not."""
    problem = "; ".join(manifest.problems(folder, [name]))
    if problem:
        log.warning("%s is left out: %s: %s", folder / name, problem, evidence.AGAIN)
    return not problem


def read_runs(root: Path, begin: str = "") -> pd.DataFrame:
    """Every run of a store, finished or not: one row a run, sorted by run id.

    Columns: those of ``COLUMNS``. ``status`` is one of ``status.OF_RUNS``; ``final``, ``best`` are the primary metric
    in its unit, missing where there is none. ``protocols`` is a tuple. Runs of one ``group`` differ only in
    optimizer and seed; those of one ``conditions`` also in the learning rate. ``options`` are the optimizer's options
    as JSON: runs with the same group and options differ only in their seed. A damaged run has no numbers. It has its
    settings if its name agrees with them. Its ``note`` is the reason, a colon, and what to do.

    Args:
        root: a folder of runs, a packed file, or a folder that holds one (``runs.parquet``); of a run that is both in
            a folder and packed, the one that has a result counts.
        begin: only the runs whose names begin with it; the others are not opened.

    Raises:
        StoreError: the folder exists but cannot be read, or the packed file is damaged.
    """
    if packed.is_packed(root):
        return _packed_runs(root, begin)
    runs = _unpacked_runs(root, begin)
    if not packed.is_packed(root / packed.NAME):
        return runs
    published = _packed_runs(root / packed.NAME, begin)
    return merge([runs, published]) if len(runs) else published


def _packed_runs(path: Path, begin: str) -> pd.DataFrame:
    return _unchanged_runs(path, begin, packed.state(path)).copy()


@lru_cache(maxsize=64)
def _unchanged_runs(path: Path, begin: str, state: tuple[int, int, int]) -> pd.DataFrame:
    """The runs in a packed file, examined again only if its state differs."""
    names = [run_id for run_id in packed.read(path) if run_id.startswith(begin)]
    return _frame([_finished_row(path / run_id, again=False) for run_id in names])


def _unpacked_runs(root: Path, begin: str) -> pd.DataFrame:
    def named(folder: Path) -> list[Path]:
        return [path for path in folder.iterdir() if path.name.startswith(begin)] if folder.exists() else []

    try:  # the begun ones first: a run that is published meanwhile is then in both lists, and not in none
        begun = [path for path in named(root / ".work") if _is_there(path / CONFIG)]
        finished = [path for path in named(root) if _is_run(path)]
    except OSError as error:
        raise StoreError(
            f"cannot read the results in {root} ({error.strerror}): check results.root and its permissions."
        ) from error
    again = {folder.name for folder in begun if _is_there(folder)}
    rows = [_finished_row(folder, folder.name in again) for folder in finished]
    published = {folder.name for folder in finished}
    rows += [row for folder in begun if folder.name not in published and (row := _begun_row(root, folder))]
    return _frame(rows).sort_values("run_id", ignore_index=True)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    for name in REAL:  # without a single number pandas would not know the column's type
        frame[name] = frame[name].astype(float)
    for name in WHOLE:  # a damaged run has none; the others' must stay whole numbers
        if frame[name].isna().any():
            frame[name] = pd.Series([row.get(name) for row in rows], dtype=object)
    return frame


def holds_runs(place: Path) -> bool:
    """Whether a place is a store with runs, by its names: a folder of runs, a packed file, or a folder that holds one.

    Hidden folders, such as those inside a store, are none. Nor is a place that cannot be looked into.
    """
    if place.name.startswith("."):
        return False
    try:
        if packed.file_at(place) is not None:
            return True
        return place.is_dir() and any(_is_run(path) for path in place.iterdir())
    except OSError:
        return False


def complaints(runs: pd.DataFrame) -> list[str]:
    """A sentence for each damaged run of a frame: which, why, and what to do."""
    lost = runs[runs["status"] == Status.DAMAGED]
    return [f"damaged: {row['folder']}: {row['note']}" for _, row in lost.iterrows()]


def _is_run(path: Path) -> bool:
    """Whether a folder of a store is a run's: it has a run's name, or most of a run's files."""
    if path.name.startswith("."):
        return False
    return bool(RUN_ID.fullmatch(path.name)) or sum((path / name).is_file() for name in REQUIRED) > 2


def _is_there(path: Path) -> bool:
    """Whether there is such a file or folder, also if it cannot be read."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def merge(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The runs of several stores in one frame. A run that is in several counts once, with its result if one has it."""
    every = pd.concat(frames, ignore_index=True)
    finished_first = every.sort_values("status", key=lambda status: ~status.isin(FINISHED), kind="stable")
    return finished_first.drop_duplicates("run_id").sort_values("run_id", ignore_index=True)


def differing(frames: Sequence[pd.DataFrame]) -> list[str]:
    """The names of the runs that finished in several stores with different results."""
    every = pd.concat(frames, ignore_index=True)
    finished = every[every["status"].isin(FINISHED)].groupby("run_id")
    counts = finished[["status", "final", "weights_sha256"]].nunique()  # a missing value is no difference
    return [str(name) for name in counts.index[(counts > 1).any(axis=1)]]


DIGITS = 8
"""Of a digest, so many tell the files apart that people use."""
COLUMNS = (
    *("run_id", "status", "task", "model", "dataset", "optimizer", "label", "switch_epoch", "seed", "data", "limit"),
    *("fingerprint", "epochs", "batch_size", "lr", "protocols", "benchmark_version", "group", "conditions"),
    *("options", "weights_file"),
    *("metric", "unit", "direction", "final", "best", "best_epoch", "initial", "epochs_done", "examples_per_second"),
    *("training_examples", "split", "evaluation_limit", "training_seconds", "processor_seconds", "peak_memory_mib"),
    "peak_gpu_memory_mib",
    *("parameters", "weights_sha256", "note", "verified", "started", "commit", "folder"),
)


WHOLE = ("seed", "epochs", "batch_size", "benchmark_version")
REAL = (
    *("final", "best", "initial", "switch_epoch", "lr", "examples_per_second", "training_seconds"),
    *("processor_seconds", "peak_memory_mib", "peak_gpu_memory_mib"),
)
"""The columns of numbers that need not be whole; missing ones are NaN."""
OUTCOME = (
    *("status", "metric", "unit", "direction", "final", "best", "best_epoch", "initial", "epochs_done", "parameters"),
    *("examples_per_second", "training_examples", "training_seconds", "processor_seconds", "peak_memory_mib"),
    *("peak_gpu_memory_mib", "weights_sha256", "note"),
)
"""What a row takes from the result."""


def settings(folder: Path) -> dict[str, Any]:
    """The settings of a run, finished or not.

    Raises:
        StoreError: they cannot be read.
    """
    try:
        return evidence.read_settings(folder)
    except (OSError, evidence.Damaged) as error:
        raise unreadable(folder / CONFIG, error) from error


def shared_settings(folder: Path) -> dict[str, Any]:
    """What runs must share with a run to be compared, by dotted key; empty if its settings cannot be read."""
    try:
        return leaves(_shared(settings(folder)))
    except StoreError:
        return {}


def leaves(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by dotted key.

    Example:
        >>> leaves({"lr": 0.1, "warmup": {"updates": 500}})
        {'lr': 0.1, 'warmup.updates': 500}
    """
    return dict(_leaves(values, ""))


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shared(config: dict[str, Any]) -> dict[str, Any]:
    """What runs must share to be compared: everything but optimizer and seed."""
    return {key: value for key, value in config.items() if key not in ("optimizer", "seed", LABEL)}


def _shared_with_lr(config: dict[str, Any]) -> dict[str, Any]:
    """The same and the learning rate."""
    return {**_shared(config), "lr": config["optimizer"].get("lr")}


def _options(config: dict[str, Any]) -> str:
    """The optimizer's options as JSON, the same text for the same options."""
    return canonical({key: value for key, value in config["optimizer"].items() if key != "label"})


def _finished_row(folder: Path, again: bool) -> dict[str, Any]:
    """The row of a published run; ``again``: a replacement for it has been begun."""
    known = evidence.examine(folder)
    if known.problem:
        return _damaged_row(folder, known.settings, str(known.problem))
    result = _with_measured(folder, known)
    if again:
        result["note"] += "; force=true has begun to train it again"
    return _row(folder, known.settings, result, known.environment)


def _damaged_row(folder: Path, settings: dict[str, Any], note: str) -> dict[str, Any]:
    known = _described(settings, {}) if settings else {"protocols": ()}
    name = escaping.plain(folder.name)
    return {"run_id": name, **known, "status": Status.DAMAGED, "note": note, "folder": str(folder)}


def _begun_row(root: Path, folder: Path) -> dict[str, Any] | None:
    """The row of a run whose work folder was seen; None if it was deleted since.

    A run may be published while its folder is read. So its row is the finished run's if the folder is gone afterwards.
    """
    row = _unfinished_row(root, folder)
    if _is_there(folder):
        return row
    published = root / folder.name
    return _finished_row(published, again=False) if _is_there(published) else None


def _unfinished_row(root: Path, folder: Path) -> dict[str, Any]:
    """The row of a run in progress, abandoned or failed."""
    try:
        settings = evidence.settings_of_name(folder)
    except OSError as error:
        return _damaged_row(folder, {}, f"it cannot be read ({error.strerror}): {MENDS}")
    except evidence.Damaged as error:
        remedy = MENDS if error.fault == "damaged" else "delete the folder: it cannot be continued under this name"
        return _damaged_row(folder, {}, f"{error}: {remedy}")
    return _row(folder, settings, _unfinished(root, folder), environment(folder))


def content(folder: Path, name: str) -> bytes | None:
    """A file of a run; None if it has none of this name.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return evidence.read_bytes(folder, name) if evidence.has(folder, name) else None
    except (OSError, evidence.Damaged) as error:
        raise unreadable(folder / name, error) from error


def history(folder: Path) -> pd.DataFrame | None:
    """A finished run's history: a row for each epoch; None if it has none.

    Raises:
        StoreError: it is damaged, or cannot be read.
    """
    if not evidence.has(folder, HISTORY):
        return None
    try:
        return evidence.read_history(folder)
    except (OSError, evidence.Damaged) as error:
        raise unreadable(folder / HISTORY, error) from error


def environment(folder: Path) -> dict[str, Any]:
    """What is recorded of the processes of a run; empty if there is no record, or one that cannot be used."""
    try:
        return evidence.read_values(folder, ENVIRONMENT)
    except (OSError, evidence.Damaged):
        return {}


def _with_measured(folder: Path, known: Evidence) -> dict[str, Any]:
    """A result, with the primary metric that was measured afterwards if there is one; then no epoch is the best."""
    result = dict(known.result)
    if not known.measured:
        if evidence.has(folder, MEASURED):
            result["note"] += f"; {MEASURED} is ignored, since {manifest.NAME} does not name it: measure it again"
        return result
    if result["status"] != Status.DONE:
        return result
    primary = known.measured["primary"]
    name, value = primary["name"], known.measured["metrics"][primary["name"]]
    metric = {"metric": name, "unit": primary["unit"], "direction": primary["direction"], "final": value}
    note = f"{primary['label'] or name} {value:.6g}, measured afterwards; {result['note']}"
    return {**result, **metric, "best": None, "best_epoch": None, "note": note}


def _unfinished(root: Path, folder: Path) -> dict[str, Any]:
    """What can be said of a run without a result: running, abandoned, or failed with its error."""
    if _is_locked(root / ".locks" / f"{folder.name}.lock") or heartbeat.elsewhere(folder):
        beat = heartbeat.read(folder)
        return {"status": Status.RUNNING, "epochs_done": beat.get("epoch"), "note": heartbeat.progress(beat)}
    failure = read_json(folder / FAILURE)
    if failure:
        return {"status": Status.FAILED, "note": str(failure.get("note", ""))}
    reached = heartbeat.read(folder).get("epoch")  # when it last gave a sign of life; a checkpoint may be newer
    return {
        "status": Status.ABANDONED,
        "epochs_done": reached,
        "note": "resumes when the same command is started again",
    }


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
    """First epoch of the multistep method; of a run that chose it itself, infinity if it never did."""
    planned = config["optimizer"].get("switch_epoch")
    if planned != "auto":
        return planned
    chosen = (result.get("auto_switch") or {}).get("epoch")
    return math.inf if chosen is None and result.get("status") == Status.DONE else chosen


def _weights_file(model: dict[str, Any]) -> str | None:
    """The first digits of the SHA-256 of the file whose weights training starts from; None where there is no file."""
    kind, _, digits = str(model.get("weights")).partition(":")
    return digits[:DIGITS] if kind == "sha256" else None


def _limit(config: dict[str, Any], result: dict[str, Any]) -> int | None:
    """How many training examples a limited run takes; only its result knows how many there are."""
    limit, used = config["data"].get("limit"), result.get("training_examples")  # earlier versions did not record it
    return limit if limit is None or used is None else min(limit, used)


def _described(config: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """What a row says of a run's settings."""
    return {
        "task": config["task"]["name"],
        "model": config["model"]["name"],
        "optimizer": config["optimizer"]["name"],
        "label": config["optimizer"]["label"],
        "switch_epoch": _switch_epoch(config, result),
        "data": config["data"]["kind"],
        "limit": _limit(config, result),
        "protocols": tuple(config["protocols"]),
        "group": digest(_shared_with_lr(config)),
        "conditions": digest(_shared(config)),
        "options": _options(config),
        "weights_file": _weights_file(config["model"]),
        "dataset": config["task"].get("dataset"),
        "split": splits.evaluated(config["task"]),
        "evaluation_limit": config["data"].get("evaluation_limit"),
        "fingerprint": config["data"].get("fingerprint"),
        "lr": config["optimizer"].get("lr"),
        **{key: config[key] for key in ("seed", "epochs", "batch_size", "benchmark_version")},
    }


def _row(folder: Path, config: dict[str, Any], result: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
    """A frame's row of a run that is not damaged."""
    outcome = {key: result[key] for key in OUTCOME if key in result}
    seen = {key: environment.get(key) for key in ("started", "commit")}
    seen["verified"] = environment.get("verified_data") is not False  # earlier versions did not record it
    return {"run_id": folder.name, **_described(config, result), **outcome, **seen, "folder": str(folder)}
