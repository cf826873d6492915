"""Prepared tensors kept on disk, so that nothing is decoded twice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from tmsgd_bench import files
from tmsgd_bench.data.contents import FOLDER
from tmsgd_bench.errors import StoreError
from tmsgd_bench.task import TaskSettings

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]


def tensors(settings: TaskSettings, name: str, options: Mapping[str, Any], make: Callable[[], Tensors]) -> Tensors:
    """What ``make`` returns, from the disk if it was made before from the same data with the same options.

    Two processes that need the same tensors wait for each other. Where the folder cannot be written, or the disk is
    full, they are made anew, with a warning.

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
    path = folder / f"{settings.data_folder.name}-{name}-{key[:16]}.pt"
    lock = FileLock(path.with_suffix(".lock"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        log.warning("%s cannot be kept in %s (%s): it is made anew for each run", name, folder, error.strerror)
        return make()
    try:
        if (kept := _load(path)) is None:
            made = make()
            _keep(made, path)
            kept = _load(path) or made  # mapped like what was found, so that the memory is free again
        return kept
    finally:
        lock.release()


def _keep(made: Tensors, path: Path) -> None:
    try:
        files.write_atomically(path, lambda temporary: torch.save(made, temporary))
    except (StoreError, RuntimeError) as error:  # RuntimeError is torch's word for a full disk
        log.warning("%s could not be written (%s): it is made anew for each run", path, files.os_reason(error))


def _load(path: Path) -> Tensors | None:
    """What is kept, or None if there is nothing usable."""
    if not path.exists():
        return None
    try:
        kept: Tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return kept
    except Exception as error:  # torch raises many kinds for a damaged file
        log.warning("%s is damaged (%s) and is made anew", path, type(error).__name__)
        return None
