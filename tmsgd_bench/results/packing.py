"""From run folders to a packed file and back; see :mod:`tmsgd_bench.results.packed` for the file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from tmsgd_bench import files, manifest
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import packed, store
from tmsgd_bench.results.packed import Files
from tmsgd_bench.results.record import MEASURED, PREFIX, REQUIRED
from tmsgd_bench.results.status import FINISHED

StoredRun = tuple[Path, Files]
EVIDENCE = (*REQUIRED, PREFIX, MEASURED)
"""The files of a run that are packed. Pictures and predictions may hold examples of data that must not be published,
and weights are too large."""


def files_of(folder: Path) -> Files:
    """The files of a finished run that are packed, with a manifest of these.

    Args:
        folder: of the run, or its address in a packed file.

    Raises:
        StoreError: the run is damaged, or cannot be read.
    """
    store.whole(folder)
    if (contents := packed.run_at(folder)) is not None:
        return contents
    named = manifest.read(folder) or {}
    names = [name for name in EVIDENCE if name in named]
    try:
        contents = {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        raise files.unreadable(folder, error) from error
    return {**contents, manifest.NAME: manifest.text({name: named[name] for name in names}).encode()}


def read(roots: Iterable[Path]) -> dict[str, Files]:
    """The files of all finished runs in stores, by their ids.

    Args:
        roots: folders of runs, or packed files.

    Raises:
        StoreError: see :func:`gathered`.
    """
    return {run_id: contents for run_id, (_, contents) in gathered(roots).items()}


def gathered(roots: Iterable[Path], known: Mapping[str, StoredRun] | None = None) -> dict[str, StoredRun]:
    """Where each finished run in stores is, and its files, by its id.

    Args:
        roots: folders of runs, or packed files.
        known: runs that were gathered before, which are returned as well.

    Raises:
        StoreError: a store cannot be read, one of its runs is damaged, or two have a run of one id with other files.
    """
    runs = dict(known or {})
    for root in roots:
        for folder in _finished(root):
            contents = files_of(folder)
            first, of_first = runs.setdefault(folder.name, (folder, contents))
            if contents != of_first:
                raise StoreError(
                    f"{folder} differs from {first}, a run of the same name: leave out the store with the one that is "
                    "not to be packed."
                )
    return runs


def add(path: Path, additions: Mapping[str, StoredRun]) -> int:
    """Add runs to a packed file, or make it; returns how many it holds. Other processes that add to it wait.

    Args:
        path: ends in ``.parquet``; its folder is made if missing.
        additions: from :func:`gathered`.

    Raises:
        StoreError: see :func:`gathered`, or the file cannot be written.
    """
    with packed.locked(path):
        runs = gathered([path] if path.exists() else [], additions)
        packed.write(path, {run_id: contents for run_id, (_, contents) in runs.items()})
    return len(runs)


def _finished(root: Path) -> list[Path]:
    """The finished runs of a store.

    Raises:
        StoreError: one is damaged, or the store is not there.
    """
    if not root.exists():
        raise StoreError(f"there are no runs in {root}: name a folder of runs, or a packed file.")
    runs = store.read_runs(root)
    if damaged := store.complaints(runs):
        raise StoreError(f"nothing is packed ({len(damaged)} damaged): {damaged[0].removeprefix('damaged: ')}.")
    return [Path(folder) for folder in runs.loc[runs["status"].isin(FINISHED), "folder"]]


def unpack(path: Path, root: Path) -> list[str]:
    """Write packed runs into a store as folders; returns the ids of those that were not there already.

    Nothing is written if one is refused. Killed on the way, the same call goes on.

    Args:
        path: a packed file.
        root: the store, made if missing.

    Raises:
        StoreError: something else of a run's name is there, a run or the file is damaged, or the store cannot be
            written.
    """
    runs = {run_id: files_of(path / run_id) for run_id in packed.read(path)}
    missing = [run_id for run_id in runs if not _is_there(root / run_id, runs[run_id])]
    try:
        for run_id in missing:
            _write(root / run_id, runs[run_id])
    except OSError as error:
        raise StoreError(
            f"cannot write into {root} ({files.os_reason(error)}): free some space, mend its permissions, or choose "
            "another folder; what is unpacked already stays."
        ) from error
    return missing


def _is_there(folder: Path, contents: Files) -> bool:
    """Whether a run's folder is there with the files that are packed. It may hold others, such as pictures.

    Raises:
        StoreError: something else is there.
    """
    if not os.path.lexists(folder):
        return False
    if files_of(folder) != contents:
        raise StoreError(f"{folder} is there with other contents than the packed run: move it away first.")
    return True


def _write(folder: Path, contents: Files) -> None:
    """Write a run's folder under another name, and rename it once it is whole."""
    unfinished = folder.parent / ".unpacked" / folder.name
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name, data in contents.items():
        (unfinished / name).write_bytes(data)
    unfinished.rename(folder)
    if not any(unfinished.parent.iterdir()):
        unfinished.parent.rmdir()
