"""Large text files, plain or gzip: read as one stream, and measured once.

Reading six gigabytes for every run of a sweep would cost more than a short run, so what was measured is kept beside the
data and used again as long as the file's size and times of change are the same.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import logging
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from tmsgd_bench.data import sealed
from tmsgd_bench.data.sealed import CHUNK

log = logging.getLogger(__name__)

FOLDER = ".cache"
"""Beside the data sets' folders: what was found out about them, and what was prepared from them."""
KEPT_FROM = 1 << 20
"""Bytes from which a file is worth remembering; a smaller one is read each time."""
GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Text:
    """What was measured of a text file.

    Args:
        sha256: hexadecimal digest of the text, the same however it is compressed.
        lines: how many lines it has.
    """

    sha256: str
    lines: int


def open_text(raw: io.BufferedReader) -> IO[bytes]:
    """The text of an open file; whether it is gzip is found from its first bytes."""
    if raw.peek(2)[:2] == GZIP:
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    return raw


def measure(path: Path) -> Text:
    """A text file's digest and lines; read again only if the file has changed.

    Raises:
        OSError: it cannot be read, or is damaged.
    """
    if path.stat().st_size < KEPT_FROM:
        return _measure(path)
    kept = path.parent.parent / FOLDER / f"{path.parent.name}-{path.name}.json"
    return Text(**recall(kept, state_of(path), lambda: _measure_once(path)))


def recall(kept: Path, listing: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``find`` returns, from the file ``kept`` if it was found before for the same listing.

    Where that file cannot be written, it is found anew each time.
    """
    known = sealed.read_record(kept)
    if known is not None and known.pop("listing", None) == listing:
        return known
    found = find()
    sealed.keep_record(kept, {"listing": listing, **found})
    return found


def state_of(path: Path) -> str:
    """What changes with a file's contents: its size and its times of change; the last one, no program can set.

    Raises:
        OSError: there is no such file.
    """
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"


def _measure_once(path: Path) -> dict[str, Any]:
    log.info("reading %s once, to know its contents", path)
    return asdict(_measure(path))


def _measure(path: Path) -> Text:
    digest, lines, last = hashlib.sha256(), 0, b"\n"
    try:
        with path.open("rb") as raw, open_text(raw) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                lines += chunk.count(b"\n")
                last = chunk[-1:]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise OSError(errno.EIO, "it is damaged or cut off", str(path)) from error
    return Text(digest.hexdigest(), lines + (last != b"\n"))
