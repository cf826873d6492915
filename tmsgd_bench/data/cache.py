"""Prepared tensors on disk, so that nothing is decoded twice.

Old ones that no process uses are deleted; see :mod:`tmsgd_bench.data.kept`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import IO, Any

import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from tmsgd_bench import files
from tmsgd_bench.data import kept as on_disk
from tmsgd_bench.data import sealed
from tmsgd_bench.data.texts import FOLDER
from tmsgd_bench.errors import StoreError
from tmsgd_bench.task import TaskSettings

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
_held = WeakTensorKeyDictionary()
"""The open file of each tensor that was read and still exists."""


def tensors(settings: TaskSettings, name: str, options: Mapping[str, Any], make: Callable[[], Tensors]) -> Tensors:
    """The tensors that ``make`` returns, read from disk if they were made before from the same data and options.

    Two processes that need the same tensors wait for each other. A file's SHA-256 is checked whenever it is read; a
    damaged file is made again, with a warning. If the folder cannot be written or the disk is full, the tensors are
    made for each run, with a warning. After a file is written, older files of the same name (of other data, options or
    versions) are deleted, except the last used ones and those in use.

    Args:
        settings: the run's; the files are beside its data folder.
        name: of the tensors; part of the file's name.
        options: plain values of everything else that the tensors depend on, including a version of the code that may
            change.
        make: makes the tensors.

    Returns:
        CPU tensors; if read from disk they are memory-mapped, and must not be written to.
    """
    key = files.digest({"fingerprint": settings.fingerprint, "options": dict(options)})
    folder = settings.data_folder.parent / FOLDER
    stem = f"{settings.data_folder.name}-{name}"
    path = folder / f"{stem}-{key[:16]}.pt"
    lock = FileLock(path.with_suffix(".lock"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock:
            file = _hold(path)
    except OSError as error:
        log.warning("%s cannot be kept in %s (%s): it is made anew for each run", name, folder, error.strerror)
        return make()
    # Checked without the lock, so that runs that start together read side by side.
    if file is not None and (prepared := _load(path, file)) is not None:
        return prepared
    with lock:
        file = _hold(path)
        if file is not None and (prepared := _load(path, file)) is not None:  # another process was first
            return prepared
        if file is not None:
            log.warning("%s is damaged (its checksum differs) and is made anew", path)
        prepared = make()
        _write(prepared, path)
        _tidy(path, stem)
        file = _hold(path)  # read back as a memory map, so that the memory is free again
        return prepared if file is None else _load(path, file) or prepared


def _write(prepared: Tensors, path: Path) -> None:
    try:
        files.write_atomically(path, lambda temporary: _save(prepared, temporary))
    except (StoreError, RuntimeError) as error:  # torch raises RuntimeError for a full disk
        log.warning("%s could not be written (%s): it is made anew for each run", path, files.os_reason(error))


def _save(prepared: Tensors, path: Path) -> None:
    torch.save(prepared, path)
    sealed.seal(path)


def _hold(path: Path) -> IO[bytes] | None:
    """The opened file, which is not deleted while it is open; None if there is no file."""
    try:
        return on_disk.hold(path)
    except FileNotFoundError:
        return None


def _load(path: Path, file: IO[bytes]) -> Tensors | None:
    """The tensors of an open file, memory-mapped; None if the file is damaged."""
    if not sealed.is_whole(file):
        return None
    try:
        prepared: Tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (OSError, RuntimeError):  # another process found it damaged, and is replacing it
        return None
    for tensor in prepared.values():
        _held[tensor] = file
    return prepared


def _tidy(written: Path, stem: str) -> None:
    """Delete files that no run will use again, and temporary files of killed processes.

    Args:
        written: the file that was just written; the caller has its lock.
        stem: the start of the names of all files of this kind.
    """
    pattern = re.compile(rf"(\.?)({re.escape(stem)}-[0-9a-f]{{16}}\.pt)(\.\d+\.\d+\.tmp)?")
    matches = [(path, match) for path in written.parent.iterdir() if (match := pattern.fullmatch(path.name))]
    for path, match in matches:
        if match[1]:
            with suppress(OSError):  # a process is writing it
                _delete(path, path.with_name(match[2]), written)
    complete = (path for path, match in matches if not match[1])
    on_disk.delete_surplus(complete, lambda path: _delete(path, path, written))


def _delete(path: Path, target: Path, written: Path) -> None:
    """Delete a file unless another process holds the lock of its tensors.

    Args:
        path: the file, complete or temporary.
        target: the complete file's path, from which the lock's name follows.
        written: the file whose lock the caller has.

    Raises:
        OSError: another process has the lock, or the file cannot be deleted.
    """
    with nullcontext() if target == written else FileLock(target.with_suffix(".lock"), timeout=0):
        path.unlink()
        log.info("deleted %s, which is not needed any more", path)
