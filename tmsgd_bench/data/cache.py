"""Prepared tensors kept on disk, so that nothing is decoded twice.

Of the same name those used last are kept, and those that somebody uses; see :mod:`tmsgd_bench.data.kept`.
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
from tmsgd_bench.data.contents import FOLDER
from tmsgd_bench.errors import StoreError
from tmsgd_bench.task import TaskSettings

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
_held = WeakTensorKeyDictionary()
"""The open file of each tensor that was read and is there still."""


def tensors(settings: TaskSettings, name: str, options: Mapping[str, Any], make: Callable[[], Tensors]) -> Tensors:
    """What ``make`` returns, from the disk if it was made before from the same data with the same options.

    Two processes that need the same tensors wait for each other. A file is checked against its SHA-256 whenever it is
    read; a damaged one is made anew, with a warning. When some are made, others of that name that nobody
    uses are deleted, but for those used last: of other data, with other options, or by older versions. Where the
    folder cannot be written, or the disk is full, they are made anew, with a warning.

    Args:
        settings: the run's; the tensors are kept beside its data folder.
        name: what they are; part of the file's name.
        options: everything besides the data that they depend on, as plain values, with a version of the code if that
            may change.

    Returns:
        CPU tensors; from the disk they are mapped into memory, and must not be written to.
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
    if file is not None and (kept := _load(path, file)) is not None:
        return kept
    with lock:
        file = _hold(path)
        if file is not None and (kept := _load(path, file)) is not None:  # another process was first
            return kept
        if file is not None:
            log.warning("%s is damaged (its checksum differs) and is made anew", path)
        made = make()
        _keep(made, path)
        _tidy(path, stem)
        file = _hold(path)  # mapped like what was found, so that the memory is free again
        return made if file is None else _load(path, file) or made


def _keep(made: Tensors, path: Path) -> None:
    try:
        files.write_atomically(path, lambda temporary: _save(made, temporary))
    except (StoreError, RuntimeError) as error:  # RuntimeError is torch's word for a full disk
        log.warning("%s could not be written (%s): it is made anew for each run", path, files.os_reason(error))


def _save(made: Tensors, path: Path) -> None:
    torch.save(made, path)
    sealed.seal(path)


def _hold(path: Path) -> IO[bytes] | None:
    """The file, which is not deleted while this is open; None if there is none."""
    try:
        return on_disk.hold(path)
    except FileNotFoundError:
        return None


def _load(path: Path, file: IO[bytes]) -> Tensors | None:
    """What is kept, mapped from a file that is held; None if that is damaged."""
    if not sealed.is_whole(file):
        return None
    try:
        kept: Tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (OSError, RuntimeError):  # another process has found it damaged meanwhile, and makes it anew
        return None
    for tensor in kept.values():
        _held[tensor] = file
    return kept


def _tidy(made: Path, stem: str) -> None:
    """Delete what no run will use again, and what was left by processes that were killed while they wrote.

    Args:
        made: what has just been written, by a process that has its lock.
        stem: what the names of all of the same kind begin with.
    """
    own = re.compile(rf"(\.?)({re.escape(stem)}-[0-9a-f]{{16}}\.pt)(\.\d+\.\d+\.tmp)?")
    found = [(path, match) for path in made.parent.iterdir() if (match := own.fullmatch(path.name))]
    for path, match in found:
        if match[1]:
            with suppress(OSError):  # somebody is writing it
                _delete(path, path.with_name(match[2]), made)
    on_disk.delete_surplus(
        (path for path, match in found if not match[1]), lambda path: _delete(path, of=path, made=made)
    )


def _delete(path: Path, of: Path, made: Path) -> None:
    """Delete a file while nobody else makes, or looks for, the tensors that it is of.

    Raises:
        OSError: somebody does, or it cannot be deleted.
    """
    with nullcontext() if of == made else FileLock(of.with_suffix(".lock"), timeout=0):
        path.unlink()
        log.info("deleted %s, which is not needed any more", path)
