"""Digests of what a data set's folder holds, where its publisher gives none.

Reading thousands of images for every run of a sweep would cost more than a short run, so the digest of a folder is
kept beside the data and used again as long as no file's name, size or times of change differ.
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
from tmsgd_bench.data.sources import DataFile, file_digest, join
from tmsgd_bench.data.texts import FOLDER, measure, recall, state_of

log = logging.getLogger(__name__)


def digest(path: Path, file: DataFile) -> str:
    """A file's digest of the kind that its entry publishes; read again only if the file has changed.

    That of a text whose lines are counted is the digest of the text, the same however it is compressed.

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
    """Digest (16 hexadecimal digits) of names and bytes of all files of a data set that are there.

    Of a part of a data set, which is used unverified, some may be missing: what needs them will say so.

    Args:
        folder: the data set's.
        paths: its files that are there.
        name: what it is kept under, beside the data.

    Raises:
        OSError: a file cannot be read, or none is there.
    """
    paths = sorted(paths)
    if not paths:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    kept = folder.parent / FOLDER / f"{name}-contents.json"
    own = names(folder, paths)
    digests = lambda: join(f"{name}:{file_digest(folder / name)}" for name in own)  # noqa: E731
    return str(recall(kept, _listing(folder, own), lambda: {"fingerprint": digests()})["fingerprint"])


def names(folder: Path, paths: Iterable[Path]) -> list[str]:
    """Paths beneath a folder as they are called within it, with "/" between their parts."""
    skipped = len(str(folder)) + 1  # many times faster than Path.relative_to, which counts with thousands of files
    return [str(path)[skipped:].replace(os.sep, "/") for path in paths]


@dataclass(frozen=True)
class Comparison:
    """Files beside what a manifest says of them.

    Args:
        problems: what differs, a short phrase each.
        complete: whether the manifest names all of the files.
    """

    problems: list[str]
    complete: bool


def compare(folder: Path, files: Sequence[str], name: str) -> Comparison:
    """Compare files with the manifest of their folder; read again only if one of them or the manifest has changed.

    Without a manifest, or with a damaged one, nothing differs and nothing is named.

    Args:
        folder: the data set's.
        files: their paths in it.
        name: what the finding is kept under, beside the data.
    """
    there = [manifest.NAME] if (folder / manifest.NAME).exists() else []
    kept = folder.parent / FOLDER / f"{name}-compared.json"
    return Comparison(**recall(kept, _listing(folder, [*there, *files]), lambda: _compare(folder, files)))


def _compare(folder: Path, files: Sequence[str]) -> dict[str, Any]:
    recorded = manifest.read(folder)
    if recorded is None:
        if (folder / manifest.NAME).exists():
            log.warning("%s is damaged and is made anew from the files as they are now", folder / manifest.NAME)
        return {"problems": [], "complete": False}
    known = [name for name in files if name in recorded]
    return {"problems": manifest.problems(folder, known), "complete": len(known) == len(files)}


def _listing(folder: Path, files: Iterable[str]) -> str:
    """What changes with any of some files."""
    key = hashlib.sha256()
    for name in files:
        key.update(f"{name}\0{state_of(folder / name)}\n".encode())
    return key.hexdigest()
