"""Output folders of commands, such as tables and reports: written again without a loss of other files.

Such a folder has a manifest (:mod:`tmsgd_bench.manifest`). A file is replaced or deleted only if the manifest names it
and it has not been changed since. Otherwise the command is refused, and nothing changes.
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
    """Check that an output folder and the results it is made from do not overlap.

    Raises:
        StoreError: the target is one of the sources, is inside one, or contains one.
    """
    output = target.resolve()
    for source in sources:
        results = source.resolve()
        if output == results or output in results.parents or results in output.parents:
            raise StoreError(f"{target} overlaps with the results in {source}: choose a folder outside of them.")


def renew(folder: Path, fill: Callable[[Path], Any], replaced: Callable[[str], bool] | None = None) -> None:
    """Write files into a folder and replace those of an earlier call; other files stay.

    A command that is killed halfway can be repeated: a file that already has the new bytes is accepted.

    Args:
        folder: made if missing.
        fill: called with an empty folder, into which it writes the files.
        replaced: whether a file that the manifest names is deleted if it is not written this time. By default none is.

    Raises:
        StoreError: a file to be replaced is not in the manifest or has been changed since; the manifest is damaged; or
            the folder cannot be written. In the first two cases nothing has changed.
    """
    entries = _entries(folder)
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as new:
            fill(Path(new))
            _publish(Path(new), folder, entries, replaced or (lambda name: False))
    except OSError as error:
        raise files.unwritable(folder, error, "") from error
    except StoreError as error:
        if isinstance(error.__cause__, OSError):
            raise files.unwritable(folder, error, "") from error
        raise
    finally:
        if is_new:
            with suppress(OSError):  # not empty: the files were written
                folder.rmdir()


def _entries(folder: Path) -> Entries:
    entries = manifest.read(folder)
    if entries is None and (folder / manifest.NAME).exists():
        raise StoreError(
            f"{folder / manifest.NAME} is not a manifest of this program: restore it, or choose another folder."
        )
    return entries or {}


def _publish(new: Path, folder: Path, entries: Entries, replaced: Callable[[str], bool]) -> None:
    """Check every file that would be replaced or deleted, then move the new files into the folder."""
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
    exists = path.is_symlink() or path.exists()
    if exists and not _has_bytes(path, new) and not _is_unchanged(folder, name, entries):
        raise _foreign(path)


def _check_stale(folder: Path, names: Iterable[str], entries: Entries) -> list[str]:
    """Check files that are to be deleted; returns the manifests in their sub-folders, which are deleted with them.

    A sub-folder is deleted as a whole, so it must hold no other files.
    """
    existing = [name for name in names if (folder / name).is_symlink() or (folder / name).exists()]
    for name in existing:
        _check_inside(folder, folder / name)
        if not _is_unchanged(folder, name, entries):
            raise _foreign(folder / name)
    parents = {(folder / name).parent for name in existing} - {folder}
    siblings = [path for parent in sorted(parents) for path in sorted(parent.iterdir()) if not path.is_dir()]
    unnamed = [path.relative_to(folder).as_posix() for path in siblings]
    unnamed = [name for name in unnamed if name not in existing]
    for name in unnamed:
        if not _is_unchanged(folder, name, entries):
            raise _foreign(folder / name)
    return unnamed


def _check_inside(folder: Path, path: Path) -> None:
    """Refuse a path that a link leads out of the folder."""
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise StoreError(f"{path} leads out of {folder}: remove the link, or choose another folder.")


def _is_unchanged(folder: Path, name: str, entries: Entries) -> bool:
    """Whether a file is as a command wrote it.

    The manifest of a sub-folder, such as a run's, is unchanged if the files that it names are.
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
