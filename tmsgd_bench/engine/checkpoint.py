"""Checkpoints that survive a kill, a full disk and a flipped bit.

A checkpoint is written under a temporary name, flushed to disk and renamed. Its name contains the SHA-256 of its
bytes, so a damaged one is recognised. The last two are kept: if the newest is damaged, the run goes on from the other.
How often one is written is the setting ``checkpoint_seconds``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tmsgd_bench import interrupt
from tmsgd_bench.engine.observers import Observer, Row
from tmsgd_bench.errors import BenchError, StoreError
from tmsgd_bench.files import file_digest, os_reason

if TYPE_CHECKING:
    from tmsgd_bench.engine.loop import Trainer

log = logging.getLogger(__name__)

NAME = re.compile(r"checkpoint-(\d{6})-([0-9a-f]{64})\.pt")
NEWEST_KEPT = 2
"""How many checkpoints of a run are kept."""
Use = Callable[[dict[str, Any]], Any]


class _Damaged(Exception):
    """The bytes of a checkpoint are not those that were written."""


class _HashingWriter:
    """A binary file that hashes what passes through it."""

    def __init__(self, file: Any) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return int(self.file.write(data))

    def flush(self) -> None:
        self.file.flush()


def save(folder: Path, epoch: int, state: dict[str, Any], keep: int | None = NEWEST_KEPT) -> Path:
    """Write the state after ``epoch`` finished epochs, then delete all but the newest checkpoints.

    Args:
        state: tensors and plain Python values only, so that it can be read back with ``weights_only=True``.
        keep: how many to keep; None keeps all.

    Raises:
        StoreError: the disk is full or cannot be written; earlier checkpoints are untouched.
    """
    temporary = folder / f"writing-{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            writer = _HashingWriter(file)
            torch.save(state, writer)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        target = folder / f"checkpoint-{epoch:06d}-{writer.digest.hexdigest()}.pt"
        temporary.replace(target)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"could not write a checkpoint into {folder} ({os_reason(error)}): free some space or choose another "
            "results.root, then start the same command again to go on from the last checkpoint."
        ) from error
    if keep is not None:  # checkpoints of later epochs were unusable, so they do not count
        for old in [path for number, path in epochs(folder) if number <= epoch][keep:]:
            forget(old)
    return target


def load_latest(folder: Path, device: torch.device, use: Use = lambda state: None) -> dict[str, Any] | None:
    """The newest usable checkpoint, or None; a warning names each one that is unusable.

    Args:
        use: see :func:`load_between`.
    """
    had_checkpoints = exists(folder)
    state = load_between(folder, 0, None, device, use)
    if had_checkpoints and state is None:
        log.warning("no checkpoint is left: starting from the first epoch")
    return state


def load_between(
    folder: Path, least: int, most: int | None, device: torch.device, use: Use = lambda state: None
) -> dict[str, Any] | None:
    """The newest usable checkpoint of ``least`` to ``most`` finished epochs (None: no limit), or None.

    Args:
        use: loads the state. If it is a state of something else, it raises BenchError and changes nothing.
    """
    for epoch, path in epochs(folder):
        if epoch < least or (most is not None and epoch > most):
            continue
        try:
            state = _load(path, device)
            use(state)
            return state
        except FileNotFoundError:  # another process has just deleted it
            continue
        except _Damaged as error:
            forget(path)  # so that it does not count among the newest
            reason = str(error)
        except (OSError, BenchError) as error:
            reason = str(error) if isinstance(error, BenchError) else os_reason(error)
        log.warning("checkpoint %s is damaged (%s): falling back to the one before it", path, reason)
    return None


def _load(path: Path, device: torch.device) -> dict[str, Any]:
    """A checkpoint's state.

    Raises:
        _Damaged: its bytes are not those that were written.
        BenchError: it is no state.
        OSError: it cannot be read now.
    """
    if not path.is_file():  # checked first: opening a pipe would wait for ever
        if path.is_symlink() or path.exists():
            raise BenchError("it is no file")
        raise FileNotFoundError(path)
    if not path.stem.endswith(file_digest(path)):
        raise _Damaged("its checksum differs")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # torch raises many kinds for a file that it did not write
        raise BenchError(f"torch cannot read it, {type(error).__name__}") from error
    if not isinstance(state, dict):
        raise BenchError("it holds no state of a run")
    return state


def epochs(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints of a folder, each with its number of finished epochs, newest first."""
    return [(int(match.group(1)), path) for path in _newest_first(folder) if (match := NAME.fullmatch(path.name))]


def exists(folder: Path) -> bool:
    """Whether a folder holds a checkpoint, damaged or not."""
    return bool(_newest_first(folder))


def clear(folder: Path) -> None:
    """Delete every checkpoint of a folder, finished or not."""
    for path in [*_newest_first(folder), *folder.glob("writing-*.tmp"), *folder.glob(".*.tmp")]:
        forget(path)


def forget(path: Path) -> None:
    """Delete a checkpoint, or a folder of its name; what cannot be deleted stays."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _newest_first(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("checkpoint-*.pt") if NAME.fullmatch(p.name)), reverse=True)


class Checkpointer(Observer):
    """Writes a checkpoint after an epoch if enough time has passed since the last one, or if the run is to stop.

    Args:
        folder: the run's work folder.
        every_seconds: ``checkpoint_seconds``, the least time between two checkpoints; 0 writes one after each epoch.
        after: epochs that need no checkpoint, since their states are in the trunk (see tmsgd_bench/engine/prefix.py).
    """

    def __init__(self, folder: Path, every_seconds: float, after: int = 0) -> None:
        self.folder, self.every_seconds, self.after = folder, every_seconds, after
        self.latest = time.monotonic()

    def epoch(self, trainer: Trainer, row: Row) -> None:
        if trainer.epoch <= self.after:
            self.latest = time.monotonic()
            return
        # None after the last epoch: its result follows at once.
        due = time.monotonic() - self.latest >= self.every_seconds and not trainer.finished
        if due or interrupt.asked():
            save(self.folder, trainer.epoch, trainer.state_dict())
            self.latest = time.monotonic()
