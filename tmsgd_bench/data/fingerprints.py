"""Fingerprints of data sets whose publisher gives no digests.

To read thousands of images for every run of a sweep would take longer than a short run. So the fingerprint of a folder
is recorded beside the data, and used again as long as no file's name, size or times of change differ.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tmsgd_bench import manifest
from tmsgd_bench.data.sources import DataFile, join
from tmsgd_bench.data.texts import FOLDER, measure, recall, state_of
from tmsgd_bench.files import file_digest

log = logging.getLogger(__name__)


def digest(path: Path, file: DataFile) -> str:
    """A file's MD5 or SHA-256, whichever its entry has; the file is read again only if it has changed.

    For a file with ``lines`` it is the SHA-256 of the text, which is the same however the text is compressed.

    Raises:
        OSError: it cannot be read.
    """
    if file.lines is not None:
        return measure(path).sha256
    return _digest(path, "md5" if file.md5 else "sha256", state_of(path))


@lru_cache(maxsize=256)
def _digest(path: Path, algorithm: str, state: str) -> str:
    return file_digest(path, algorithm)


def fingerprint(folder: Path, paths: Iterable[Path], name: str) -> str:
    """Digest (16 hexadecimal digits) of the names and bytes of a data set's files.

    Unverified data may lack files; the task that needs a missing file reports it.

    Args:
        folder: the data set's.
        paths: its files that exist.
        name: of the record beside the data.

    Raises:
        OSError: a file cannot be read, or there is none.
    """
    paths = sorted(paths)
    if not paths:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    record = folder.parent / FOLDER / f"{name}-fingerprint.json"
    file_names = names(folder, paths)
    digests = lambda: join(f"{name}:{file_digest(folder / name)}" for name in file_names)  # noqa: E731
    return str(recall(record, _listing(folder, file_names), lambda: {"fingerprint": digests()})["fingerprint"])


def names(folder: Path, paths: Iterable[Path]) -> list[str]:
    """Paths relative to a folder, with "/" between their parts."""
    prefix = len(str(folder)) + 1  # many times faster than Path.relative_to, which matters for thousands of files
    return [str(path)[prefix:].replace(os.sep, "/") for path in paths]


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison of files with a manifest.

    Args:
        problems: the differences, a short phrase each.
        complete: whether the manifest names all of the files.
    """

    problems: list[str]
    complete: bool


def compare(folder: Path, files: Sequence[str], name: str) -> Comparison:
    """Compare files with the manifest of their folder; they are read again only if one of them or the manifest changes.

    A missing or damaged manifest names no files, so there are no differences.

    Args:
        folder: the data set's.
        files: their paths relative to it.
        name: of the record beside the data.
    """
    own_manifest = [manifest.NAME] if (folder / manifest.NAME).exists() else []
    record = folder.parent / FOLDER / f"{name}-compared.json"
    return Comparison(**recall(record, _listing(folder, [*own_manifest, *files]), lambda: _compare(folder, files)))


def _compare(folder: Path, files: Sequence[str]) -> dict[str, Any]:
    recorded = manifest.read(folder)
    if recorded is None:
        if (folder / manifest.NAME).exists():
            log.warning("%s is damaged and is made anew from the files as they are now", folder / manifest.NAME)
        return {"problems": [], "complete": False}
    named = [name for name in files if name in recorded]
    return {"problems": manifest.problems(folder, named), "complete": len(named) == len(files)}


def _listing(folder: Path, files: Iterable[str]) -> str:
    """A digest of names, sizes and times of files, which differs if one of them has changed."""
    key = hashlib.sha256()
    for name in files:
        key.update(f"{name}\0{state_of(folder / name)}\n".encode())
    return key.hexdigest()
