"""What the preparation leaves on the disk: whether it is whole, who uses it, and what is deleted.

Rows are deleted by a preparation alone, and never those in use; see :mod:`tmsgd_bench.data.kept`.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tmsgd_bench.data import kept, sealed
from tmsgd_bench.data.sources import file_digest

log = logging.getLogger(__name__)

META = "rows.json"
PARTS = ".parts"


@dataclass(frozen=True)
class Rows:
    """A folder of prepared rows in use; nobody deletes it as long as this is held.

    Args:
        folder: where they lie.
        mark: an open file that holds the lock.
    """

    folder: Path
    mark: IO[bytes]


def hold(folder: Path) -> Rows:
    """Use a folder of prepared rows; it counts as used now.

    Raises:
        OSError: it is not there.
    """
    return Rows(folder, kept.hold(folder / META))


def hold_whole(folder: Path) -> Rows | None:
    """The same, or None if it is not there or does not have the bytes that were written."""
    try:
        rows = hold(folder)
    except OSError:
        return None
    if is_whole(folder):
        return rows
    rows.mark.close()
    return None


def is_whole(folder: Path) -> bool:
    """Whether a folder holds prepared rows with the bytes that were written."""
    meta = sealed.read_record(folder / META)
    try:
        return meta is not None and all(file_digest(folder / name) == own for name, own in meta["sha256"].items())
    except OSError:  # a file is gone
        return False


def tidy(folder: Path, stem: str, parts: Path) -> None:
    """Delete what no run will use again; to be called by one process at a time.

    Kept are the given parts, a few folders of rows, those used last, and all that are in use.

    Args:
        folder: where it lies.
        stem: what the names of all of it begin with.
        parts: those of the file as it is now.
    """
    found = [path for path in folder.iterdir() if path.is_dir()]
    for path in found:
        if path.name.startswith(f".{stem}-"):  # left by a preparation that was killed
            shutil.rmtree(path, ignore_errors=True)
    own = [path for path in found if path.name.startswith(f"{stem}-")]
    for path in own:
        if path.suffix == PARTS and path != parts:
            _delete(path)
    kept.delete_surplus((path for path in own if path.suffix != PARTS), _delete, lambda rows: rows / META)


def _delete(path: Path) -> None:
    hidden = path.with_name(f".{path.name}.tmp")  # nobody sees half of it
    try:
        path.rename(hidden)
        shutil.rmtree(hidden)
        log.info("deleted %s, prepared from other contents or with other options", path)
    except OSError as error:
        log.warning("cannot delete %s (%s), which is not needed any more", path, error.strerror)
