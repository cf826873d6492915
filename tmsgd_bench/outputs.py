"""Folders that commands write for people to read: renewed without losing anything that the same commands did not write.

Such a folder has a manifest (:mod:`tmsgd_bench.manifest`). A file is replaced or deleted only if the manifest names it
and its bytes are still those that were written. Anything else is refused, and nothing changes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tmsgd_bench import files, manifest
from tmsgd_bench.errors import StoreError

Entries = dict[str, dict[str, Any]]


def apart(target: Path, sources: Iterable[Path]) -> None:
    """Check that an output and the results it is made of have nothing to do with each other on disk.

    Raises:
        StoreError: the target is one of the sources, lies in one, or contains one.
    """
    place = target.resolve()
    for source in sources:
        other = source.resolve()
        if place == other or place in other.parents or other in place.parents:
            raise StoreError(f"{target} overlaps with the results in {source}: write to a place beside them.")


def renew(folder: Path, fill: Callable[[Path], Any], replaced: Callable[[str], bool] | None = None) -> None:
    """Write files into a folder, in place of those that were written there before; other files stay.

    A command that is killed halfway can be repeated: a file that has the new bytes already is fine.

    Args:
        folder: made if missing.
        fill: writes the files, in folders if need be, into an empty folder that it is handed.
        replaced: whether a file of the manifest, by its name, belongs to what is written again: if it is not written
            this time, it is deleted. By default none is.

    Raises:
        StoreError: a file is in the way that the manifest does not name or that has been changed since; the manifest is
            damaged; or the folder cannot be written. In the first two cases nothing has changed.
    """
    entries = _entries(folder)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as new:
            fill(Path(new))
            _publish(Path(new), folder, entries, replaced or (lambda name: False))
    except OSError as error:
        raise _unwritable(folder, error) from error
    except StoreError as error:
        if isinstance(error.__cause__, OSError):
            raise _unwritable(folder, error) from error
        raise
    finally:
        if made:
            with suppress(OSError):  # it is not empty, unless something went wrong
                folder.rmdir()


def _entries(folder: Path) -> Entries:
    entries = manifest.read(folder)
    if entries is None and (folder / manifest.NAME).exists():
        raise StoreError(
            f"{folder / manifest.NAME} is not a manifest of this program: restore it, or choose another folder."
        )
    return entries or {}


def _publish(new: Path, folder: Path, entries: Entries, replaced: Callable[[str], bool]) -> None:
    """Look at every file that would go before the first one does."""
    names = sorted(path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file())
    stale = sorted(name for name in entries if replaced(name) and name not in names)
    for name in names:
        _check_target(folder, name, entries, new / name)
    stale += _check_stale(folder, stale, entries)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(folder / name, (new / name).replace)
    for name in stale:
        _delete(folder, name)
    manifest.write(folder, names, {name: entry for name, entry in entries.items() if name not in stale})


def _check_target(folder: Path, name: str, entries: Entries, new: Path) -> None:
    path = folder / name
    _check_inside(folder, path)
    if not path.parent.is_dir() and path.parent.exists():
        raise _foreign(path.parent)
    there = path.is_symlink() or path.exists()
    if there and not _has_bytes(path, new) and not _ours(folder, name, entries):
        raise _foreign(path)


def _check_stale(folder: Path, names: Iterable[str], entries: Entries) -> list[str]:
    """Check files that are to be deleted; returns the manifests of folders that go with them.

    A folder goes as a whole: it must hold nothing but what is named.
    """
    here = [name for name in names if (folder / name).is_symlink() or (folder / name).exists()]
    for name in here:
        _check_inside(folder, folder / name)
        if not _ours(folder, name, entries):
            raise _foreign(folder / name)
    parents = {(folder / name).parent for name in here} - {folder}
    extra = [path for parent in sorted(parents) for path in sorted(parent.iterdir()) if not path.is_dir()]
    unnamed = [path.relative_to(folder).as_posix() for path in extra]
    unnamed = [name for name in unnamed if name not in here]
    for name in unnamed:
        if not _ours(folder, name, entries):
            raise _foreign(folder / name)
    return unnamed


def _check_inside(folder: Path, path: Path) -> None:
    """A link must not lead out of the folder."""
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise StoreError(f"{path} leads out of {folder}: remove the link, or choose another folder.")


def _ours(folder: Path, name: str, entries: Entries) -> bool:
    """Whether a file is as a command wrote it.

    A manifest further down, such as a run's, follows from the files that it names.
    """
    path = folder / name
    if path.is_symlink():
        return False
    if name in entries:
        return not manifest.problems(folder, [name])
    return path.name == manifest.NAME and path.parent != folder and not manifest.problems(path.parent)


def _has_bytes(path: Path, new: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    return path.stat().st_size == new.stat().st_size and path.read_bytes() == new.read_bytes()


def _delete(folder: Path, name: str) -> None:
    """Delete a file, and the folders below ``folder`` that it leaves empty."""
    (folder / name).unlink(missing_ok=True)
    for parent in (folder / name).parents:
        if parent == folder:
            return
        with suppress(OSError):  # not empty yet
            parent.rmdir()


def _foreign(path: Path) -> StoreError:
    return StoreError(
        f"{path} is in the way, and it was not written by this command or has been changed since: move it away, or "
        "choose another folder."
    )


def _unwritable(folder: Path, error: BaseException) -> StoreError:
    return StoreError(
        f"cannot write into {folder} ({files.os_reason(error)}): free some space, mend its permissions, or choose "
        "another folder."
    )
