"""Deletes old prepared files that no process uses.

A process that uses a file keeps it open with a shared lock of the operating system, which ends when the process ends.
A file is deleted only by a process that gets an exclusive lock of it.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

KEPT = 3
"""How many files of a kind are kept, one for each choice of options: those used last."""


def hold(path: Path) -> IO[bytes]:
    """Open a file for use: :func:`delete_surplus` does not delete it while it is open, and it counts as used now.

    Raises:
        OSError: it is not there.
    """
    file = path.open("rb")
    with suppress(OSError):  # on a file system without locks, nothing is deleted either
        fcntl.flock(file, fcntl.LOCK_SH)
    with suppress(OSError):  # on a read-only file system
        os.utime(path)
    return file


def delete_surplus(
    paths: Iterable[Path], delete: Callable[[Path], None], file: Callable[[Path], Path] = lambda path: path
) -> None:
    """Delete all files or folders of a kind, except the ``KEPT`` that were used last and those in use.

    Args:
        paths: all of the kind.
        delete: deletes one; if it raises OSError, the path is kept.
        file: from a path to the file that its users hold and whose time tells when it was used last.
    """
    for path in sorted(paths, key=lambda path: _last_use(file(path)), reverse=True)[KEPT:]:
        _delete_unused(path, delete, file(path))


def _last_use(file: Path) -> int:
    """When a file was used last, in nanoseconds; 0 if there is no such file."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _delete_unused(path: Path, delete: Callable[[Path], None], file: Path) -> None:
    try:
        with _exclusive(file):
            delete(path)
    except OSError as error:  # in use, or on a file system without locks
        log.debug("%s is kept (%s)", path, error.strerror)


@contextmanager
def _exclusive(file: Path) -> Iterator[None]:
    """Hold the exclusive lock of a file; if the file does not exist, nothing uses it, and no lock is needed.

    Raises:
        OSError: another process holds a lock of it.
    """
    if not file.exists():
        yield
        return
    with file.open("r+b") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
