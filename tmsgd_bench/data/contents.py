"""Digests of what a data set's folder holds, where its publisher gives none.

Reading thousands of images for every run of a sweep would cost more than a short run, so the digest of a folder is
kept beside the data and used again as long as no file's name, size or time of change differs.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from tmsgd_bench.data.sources import DataFile, file_digest, join
from tmsgd_bench.data.texts import FOLDER, measure, recall


def digest(path: Path, file: DataFile) -> str:
    """A file's digest of the kind that its entry publishes; read again only if the file has changed.

    That of a text whose lines are counted is the digest of the text, the same however it is compressed.

    Raises:
        OSError: it cannot be read.
    """
    if file.lines is not None:
        return measure(path).sha256
    state = path.stat()
    return _digest(path, "md5" if file.md5 else "sha256", state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(path: Path, algorithm: str, size: int, changed: int) -> str:
    return file_digest(path, algorithm)


def fingerprint(folder: Path, parts: Iterable[Sequence[Path]], files: Iterable[DataFile], name: str) -> str:
    """Digest (16 hexadecimal digits) of names and bytes of all files of a data set that are there.

    Of a part of a data set, which is used unverified, some may be missing: what needs them will say so.

    Args:
        folder: the data set's.
        parts: the files in each of its folders.
        files: its other ones.
        name: what it is kept under, beside the data.

    Raises:
        OSError: a file cannot be read, or none is there.
    """
    listed = [path for file in files if (path := file.path(folder)).exists()]
    paths = sorted([*(path for part in parts for path in part), *listed])
    if not paths:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    key = hashlib.sha256()
    for path in paths:
        state = path.stat()
        key.update(f"{path.relative_to(folder)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    kept = folder.parent / FOLDER / f"{name}-contents.json"
    digests = lambda: join(f"{path.relative_to(folder)}:{file_digest(path)}" for path in paths)  # noqa: E731
    return str(recall(kept, key.hexdigest(), lambda: {"fingerprint": digests()})["fingerprint"])
