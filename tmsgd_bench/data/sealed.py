"""Files that carry their own SHA-256, so that a flipped bit or a lost end is noticed when they are read.

What is prepared from a data set, and what is recorded of it, is read by later runs in the place of the data. A damaged
file would give another result under the same identity, so it is checked at every reading and made anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tmsgd_bench import files
from tmsgd_bench.errors import StoreError

log = logging.getLogger(__name__)

MARK = b"\nsha256:"
"""Begins a file's seal, which is its last bytes; torch and numpy read what is before it and pass over the rest."""
LENGTH = len(MARK) + hashlib.sha256().digest_size
CHUNK = 1 << 20
SEAL = "seal"
"""The key of a record's digest."""


def seal(path: Path) -> None:
    """Put the SHA-256 of a file's bytes behind them.

    Raises:
        OSError: it cannot be read or written.
    """
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, os.SEEK_END)
        file.write(MARK + digest)


def is_whole(file: IO[bytes]) -> bool:
    """Whether an open file ends in its seal and has the bytes that were sealed; all of it is read (about 2 GB/s)."""
    try:
        remaining = file.seek(0, os.SEEK_END) - LENGTH
        if remaining < 0:
            return False
        file.seek(0)
        digest = hashlib.sha256()
        while remaining and (chunk := file.read(min(CHUNK, remaining))):
            digest.update(chunk)
            remaining -= len(chunk)
        return file.read() == MARK + digest.digest()
    except OSError:  # a bad sector, say
        return False


def write_record(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values as JSON, with their digest.

    Raises:
        StoreError: the folder cannot be written.
    """
    files.write_json(path, {**values, SEAL: files.digest(values)})


def read_record(path: Path) -> dict[str, Any] | None:
    """What :func:`write_record` wrote; None if the file is missing, or damaged, which a warning says."""
    values = files.read_json(path) or {}
    if values.pop(SEAL, None) == files.digest(values):
        return values
    if path.exists():
        log.warning("%s is damaged (it lacks the right checksum) and is made anew", path)
    return None


def keep_record(path: Path, values: Mapping[str, Any]) -> None:
    """See :func:`write_record`; the folder is made if missing, and where it may only be read, nothing is written."""
    with suppress(OSError, StoreError):
        path.parent.mkdir(exist_ok=True)
        write_record(path, values)
