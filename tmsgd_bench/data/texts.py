"""Large text files, plain or gzip: their digest and number of lines.

To read six gigabytes for every run of a sweep would take longer than a short run. So both are recorded beside the data,
and used again as long as the file's size and times of change are the same.
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
"""The folder of records and prepared data, beside the data sets' folders."""
RECORDED_FROM = 1 << 20
"""Bytes; a smaller file is read each time, without a record."""
GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Text:
    """Measurements of a text file.

    Args:
        sha256: hexadecimal digest of the text, the same however it is compressed.
        lines: how many lines it has.
    """

    sha256: str
    lines: int


def open_text(raw: io.BufferedReader) -> IO[bytes]:
    """The text of an open file, decompressed if its first bytes are those of gzip."""
    if raw.peek(2)[:2] == GZIP:
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    return raw


def measure(path: Path) -> Text:
    """A text file's digest and lines; read again only if the file has changed.

    Raises:
        OSError: it cannot be read, or is damaged.
    """
    if path.stat().st_size < RECORDED_FROM:
        return _measure(path)
    record = path.parent.parent / FOLDER / f"{path.parent.name}-{path.name}.json"
    return Text(**recall(record, state_of(path), lambda: _measure_once(path)))


def recall(record: Path, listing: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The values that ``compute`` returns, read from a record if it has the same listing.

    If the record cannot be written, they are computed each time.

    Args:
        record: the file of an earlier call.
        listing: what the values depend on.
        compute: returns plain values.
    """
    recorded = sealed.read_record(record)
    if recorded is not None and recorded.pop("listing", None) == listing:
        return recorded
    values = compute()
    sealed.keep_record(record, {"listing": listing, **values})
    return values


def state_of(path: Path) -> str:
    """A file's size and times, which change whenever it is written; no program can set the last one.

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
