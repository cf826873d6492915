"""Checksums of the files of one folder.

``manifest.json`` names the files that a command wrote into a folder, each with its SHA-256 and size. Commands that read
the folder notice files that were damaged or edited. Commands that write it again replace or delete only named files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from tmsgd_bench import files

NAME = "manifest.json"
VERSION = 1


def write(folder: Path, names: Iterable[str], earlier: Mapping[str, dict[str, Any]] | None = None) -> None:
    """Write the manifest of some files of a folder, in place of an earlier one.

    Args:
        folder: the folder.
        names: paths relative to it, with "/" between their parts.
        earlier: entries of the earlier manifest to keep.

    Raises:
        StoreError: the folder cannot be written.
        OSError: a named file cannot be read.
    """
    _put(folder, {**(earlier or {}), **{name: _entry(folder / name) for name in names}})


def amend(folder: Path, add: Iterable[str] = (), drop: Iterable[str] = ()) -> None:
    """Change the entries of some files in the manifest of a folder. The other entries stay, right or wrong.

    Args:
        folder: the folder; without a manifest it gets one.
        add: files that have just been written.
        drop: files that will be written or deleted next; so a crash leaves no wrong checksum.

    Raises:
        StoreError: the folder cannot be written.
        OSError: a named file cannot be read.
    """
    before, added = read(folder) or {}, {name: _entry(folder / name) for name in add}
    entries = {name: entry for name, entry in before.items() if name not in set(drop)} | added
    if entries != before:
        _put(folder, entries)


def read(folder: Path) -> dict[str, dict[str, Any]] | None:
    """What the manifest of a folder says of each file (``sha256``, ``bytes``); None if it is missing or damaged."""
    return _entries(files.read_json(folder / NAME))


def parse(data: bytes) -> dict[str, dict[str, Any]] | None:
    """What the contents of a ``manifest.json`` say of each file; None if they are damaged."""
    return _entries(files.parse_json(data))


def problems(folder: Path, names: Iterable[str] | None = None) -> list[str]:
    """The problems of the files of a manifest, a short phrase each.

    Args:
        folder: the folder.
        names: the files to check; None for all that the manifest names. A file that it does not name is a problem.
    """
    entries = read(folder)
    if entries is None:
        return [f"{NAME} is {'damaged' if (folder / NAME).exists() else 'missing'}"]
    phrases = []
    for name in entries if names is None else names:
        if name not in entries:
            phrases.append(f"{name} is not in {NAME}")
        elif problem := _problem(folder / name, entries[name]):
            phrases.append(f"{name} {problem}")
    return phrases


def text(entries: Mapping[str, dict[str, Any]]) -> str:
    """What ``manifest.json`` holds, from what it is to say of each file (``sha256``, ``bytes``)."""
    return files.json_text({"version": VERSION, "files": dict(sorted(entries.items()))})


def entry(data: bytes) -> dict[str, Any]:
    """What a manifest says of a file with these contents."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def changed(state: os.stat_result) -> tuple[int, int, int]:
    """What changes with a file's contents; the last one, no program can set."""
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _entries(values: dict[str, Any] | None) -> dict[str, dict[str, Any]] | None:
    entries = (values or {}).get("files")
    if not isinstance(entries, dict) or not all(_is_entry(name, entry) for name, entry in entries.items()):
        return None
    return entries


def _put(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    files.write_text(folder / NAME, text(entries))


def _problem(path: Path, entry: dict[str, Any]) -> str:
    try:
        state = path.stat()
        if state.st_size == entry["bytes"] and _sha256(path, *changed(state)) == entry["sha256"]:
            return ""
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "differs from its checksum"


def _entry(path: Path) -> dict[str, Any]:
    state = path.stat()
    return {"sha256": _sha256(path, *changed(state)), "bytes": state.st_size}


@lru_cache(maxsize=65536)
def _sha256(path: Path, size: int, modified: int, changed: int) -> str:
    """Digest of a file, read again only if its size or a time of change differs."""
    return files.file_digest(path)


def _is_entry(name: str, entry: object) -> bool:
    """Whether an entry has the right form and its name stays inside the folder."""
    inside = bool(name) and not Path(name).is_absolute() and ".." not in Path(name).parts
    return inside and isinstance(entry, dict) and {"sha256", "bytes"} <= set(entry)
