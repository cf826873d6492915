"""What is kept on the disk for later runs: who uses it, and what of it is deleted.

Whoever uses something keeps a file of it open with a shared lock of the operating system, which ends with the process,
however it ends. It is deleted only by somebody who can lock that file alone.
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
"""How many of a kind are kept, for so many choices of options: those used last."""


def hold(path: Path) -> IO[bytes]:
    """Use a file; it counts as used now, and is not deleted by :func:`delete_surplus` while the result is open.

    Raises:
        OSError: it is not there.
    """
    held = path.open("rb")
    with suppress(OSError):  # a file system without locks, on which nothing is deleted either
        fcntl.flock(held, fcntl.LOCK_SH)
    with suppress(OSError):  # one that may only be read
        os.utime(path)
    return held


def delete_surplus(
    found: Iterable[Path], delete: Callable[[Path], None], file: Callable[[Path], Path] = lambda path: path
) -> None:
    """Delete all but the ``KEPT`` that were used last and those in use.

    Args:
        found: everything of a kind.
        delete: what deletes one of them; an OSError says that it is kept.
        file: which file of it is held by those who use it, and tells when it was used last.
    """
    for path in sorted(found, key=lambda path: _used(file(path)), reverse=True)[KEPT:]:
        _delete_unused(path, delete, file(path))


def _used(file: Path) -> int:
    """When it was used last; 0 for what cannot be used."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _delete_unused(path: Path, delete: Callable[[Path], None], file: Path) -> None:
    try:
        with _alone(file):
            delete(path)
    except OSError as error:  # somebody uses it, or it cannot be known
        log.debug("%s is kept (%s)", path, error.strerror)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Hold a file that nobody else holds; what lacks it cannot be used by anybody.

    Raises:
        OSError: somebody holds it.
    """
    if not file.exists():
        yield
        return
    with file.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
