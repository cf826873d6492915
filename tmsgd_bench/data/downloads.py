"""Downloads that survive a broken connection: they try again, and go on where they stopped."""

from __future__ import annotations

import glob
import http.client
import os
import ssl
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
ABANDONED_SECONDS = 5.0 * TIMEOUT_SECONDS
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
        begun = part.exists()
        try:
            _fetch(file, part, file.bytes if most is None else most)
            if begun and not file.matches(part):  # the part that was there may be of another version
                part.unlink()
                _fetch(file, part, file.bytes if most is None else most)
            if not file.matches(part):
                part.unlink()
                raise DataError(
                    f"{file.url} no longer holds the published file (its {file.algorithm} differs): {remedy}"
                )
            part.replace(path)
        except (OSError, http.client.HTTPException) as error:
            raise DataError(f"could not download {file.url} ({_reason(error, file, part)}): {remedy}") from error
        except KeyboardInterrupt:
            if not file.digest:  # the parts of two downloads might be of two versions
                part.unlink(missing_ok=True)
            raise


def _reason(error: Exception, file: DataFile, part: Path) -> str:
    """Why a download failed, and how much of it is kept; what cannot be gone on with is deleted."""
    reason = str(error) or type(error).__name__
    if file.digest and not isinstance(error, _TooLarge) and part.exists() and (kept := part.stat().st_size):
        return f"{reason}; {kept:,} bytes are kept, and the next try goes on there"
    part.unlink(missing_ok=True)
    return reason


class _TooLarge(OSError):
    """A file has more bytes than it may have."""


@contextmanager
def _claimed(path: Path) -> Iterator[Path]:
    """A name for this process's part of a file, and the part of an earlier download if there is one.

    Taken by renaming, so that two processes never write to the same file; afterwards the part has its old name again.
    So the part of a killed process is taken, too, once nothing has been written to it for some time.
    """
    kept, mine = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.{os.getpid()}.part")
    left = [other for other in path.parent.glob(f".{glob.escape(path.name)}.*.part") if _abandoned(other)]
    for candidate in (*left, kept):
        with suppress(OSError):
            candidate.replace(mine)
    try:
        yield mine
    finally:
        with suppress(OSError):
            mine.replace(kept)


def _abandoned(part: Path) -> bool:
    """Whether the process that downloads a part must have been killed: a download writes or fails sooner."""
    try:
        return time.time() - part.stat().st_mtime > ABANDONED_SECONDS
    except OSError:
        return False


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
                if file.digest and file.matches(part):
                    return None  # it was complete
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
    if isinstance(error, urllib.error.URLError):  # before the first byte: no network, or nobody listens
        return isinstance(error.reason, TimeoutError)
    if isinstance(error, ssl.SSLCertVerificationError):
        return False
    return isinstance(error, ConnectionError | TimeoutError | ssl.SSLError | http.client.HTTPException)


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
            raise _TooLarge(f"it has more than {most:,} bytes")
        target.write(chunk)
        bar.update(len(chunk))


def _bar(name: str, total: int | None, begun: int) -> Any:
    """A bar on a terminal; nothing elsewhere."""
    from tqdm import tqdm  # here, because most commands do not need it

    return tqdm(
        desc=name, total=total, initial=begun, unit="B", unit_scale=True, dynamic_ncols=True, leave=False, disable=None
    )
