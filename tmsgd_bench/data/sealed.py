"""Files that contain their own SHA-256, so that a flipped bit or a lost end is noticed when they are read.

Later runs read prepared data and records in place of the data set. A damaged file would give another result under the
same identity, so it is checked whenever it is read, and made again if it is damaged.
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
"""The seal is at the end of a file, and starts with these bytes; torch and numpy ignore them."""
LENGTH = len(MARK) + hashlib.sha256().digest_size
CHUNK = 1 << 20
SEAL = "seal"
"""The key of a record's digest."""


def seal(path: Path) -> None:
    """Append the SHA-256 of a file's bytes to it.

    Raises:
        OSError: it cannot be read or written.
    """
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, os.SEEK_END)
        file.write(MARK + digest)


def is_whole(file: IO[bytes]) -> bool:
    """Whether an open file has a seal that matches its bytes; reads the whole file, at about 2 GB/s."""
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
    """The values that :func:`write_record` wrote; None if the file is missing or, with a warning, damaged."""
    values = files.read_json(path) or {}
    if values.pop(SEAL, None) == files.digest(values):
        return values
    if path.exists():
        log.warning("%s is damaged (it lacks the right checksum) and is made anew", path)
    return None


def keep_record(path: Path, values: Mapping[str, Any]) -> None:
    """Like :func:`write_record`, but the folder is made if missing, and errors of writing are ignored."""
    with suppress(OSError, StoreError):
        path.parent.mkdir(exist_ok=True)
        write_record(path, values)
