"""Downloads that survive a broken connection: they try again, and go on where they stopped."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tmsgd_bench.data.sealed import CHUNK
from tmsgd_bench.data.sources import DataFile
from tmsgd_bench.errors import DataError

TIMEOUT_SECONDS = 60
TRIES = 4
"""So many in a row that bring nothing new."""
PAUSE_SECONDS = 1.0
"""Before the second try; twice as long before each further one."""
PARTIAL = 206
OUT_OF_RANGE = 416
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""HTTP status codes that another try may not meet."""


def download(file: DataFile, path: Path, remedy: str, most: int | None = None) -> None:
    """Download a file under a temporary name, check its digest, and rename it.

    If the connection breaks, it is tried again. If that does not help, or on Ctrl-C, what came of a file with a known
    digest is kept beside ``path`` for the next call. On a terminal a bar shows the progress.

    Args:
        remedy: what to do if this fails, as the end of a sentence.
        most: download at most so many bytes; None for the file's own size, if known.

    Raises:
        DataError: the download fails, or the file is not the published one.
    """
    with _claimed(path) as part:
        try:
            _fetch(file, part, file.bytes if most is None else most)
            if not file.matches(part):
                part.unlink()
                raise DataError(
                    f"{file.url} no longer holds the published file (its {file.algorithm} differs): {remedy}"
                )
            part.replace(path)
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            if _may_pass(error) and file.digest and part.exists() and (kept := part.stat().st_size):
                reason += f"; {kept:,} bytes are kept, and the next try goes on there"
            else:
                part.unlink(missing_ok=True)
            raise DataError(f"could not download {file.url} ({reason}): {remedy}") from error
        except KeyboardInterrupt:
            if not file.digest:  # the parts of two downloads might be of two versions
                part.unlink(missing_ok=True)
            raise


@contextmanager
def _claimed(path: Path) -> Iterator[Path]:
    """A name for this process's part of a file, and the part of an earlier download if there is one.

    Taken by renaming, so that two processes never write to the same file; afterwards the part has its old name again.
    """
    kept, mine = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.{os.getpid()}.part")
    with suppress(OSError):
        kept.replace(mine)
    try:
        yield mine
    finally:
        with suppress(OSError):
            mine.replace(kept)


def _fetch(file: DataFile, part: Path, most: int | None) -> None:
    """Fill ``part``, with new tries as long as they help."""
    failures = reached = 0
    while True:
        try:
            return _go_on(file, part, most)
        except (OSError, http.client.HTTPException) as error:
            size = part.stat().st_size if part.exists() else 0
            failures = 1 if size > reached else failures + 1
            reached = max(reached, size)
            if isinstance(error, urllib.error.HTTPError) and error.code == OUT_OF_RANGE:
                part.unlink(missing_ok=True)  # it was longer than the file is
            elif not _may_pass(error):
                raise
            if failures >= TRIES:
                raise
            time.sleep(PAUSE_SECONDS * 2 ** (failures - 1))


def _may_pass(error: Exception) -> bool:
    """Whether another try may help: not where there is no network, no such file, or no space."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in PASSING
    return isinstance(error, ConnectionError | TimeoutError | http.client.HTTPException)


def _go_on(file: DataFile, part: Path, most: int | None) -> None:
    """Download what is missing of a file, or all of it from a server that does not send parts."""
    assert file.url
    begun = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={begun}-"} if begun else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as source:
        if begun and not _begins_at(source, begun):
            begun = 0
        length = source.headers.get("Content-Length")
        announced = begun + int(length) if length else None
        with part.open("r+b" if begun else "wb") as target, _bar(file.name, announced, begun) as bar:
            target.seek(begun)
            _copy(source, target, most, bar)
            if announced is not None and target.tell() < announced:
                raise ConnectionError(f"the connection broke after {target.tell():,} of {announced:,} bytes")


def _begins_at(source: Any, begun: int) -> bool:
    """Whether an answer holds a file from a byte on, as it was asked for."""
    return source.status == PARTIAL and source.headers.get("Content-Range", "").startswith(f"bytes {begun}-")


def _copy(source: IO[bytes], target: IO[bytes], most: int | None, bar: Any) -> None:
    while chunk := source.read(CHUNK):
        if most is not None and target.tell() + len(chunk) > most:
            raise OSError(f"it has more than {most:,} bytes")
        target.write(chunk)
        bar.update(len(chunk))


def _bar(name: str, total: int | None, begun: int) -> Any:
    """A bar on a terminal; nothing elsewhere."""
    from tqdm import tqdm  # here, because most commands do not need it

    return tqdm(
        desc=name, total=total, initial=begun, unit="B", unit_scale=True, dynamic_ncols=True, leave=False, disable=None
    )
