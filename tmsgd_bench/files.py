"""Reading and writing small files so that a crash or a full disk never leaves a half-written one."""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from tmsgd_bench.errors import StoreError


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write`` with a temporary path in the same folder, flush it to disk and rename it.

    Raises:
        StoreError: the disk is full or cannot be written; the file at ``path`` is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if path.is_dir():
            raise StoreError(f"{path} is a folder, and a file is to be written there: move it away.") from error
        raise unwritable(path.parent, error) from error
    finally:
        with suppress(OSError):  # such as NotADirectoryError, if the folder is a file
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8.

    Raises:
        StoreError: see :func:`write_atomically`.
    """
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write files, name by name, into a folder that is made if missing.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
    except (OSError, StoreError) as error:
        raise unwritable(folder, error, "") from error


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a mapping of plain values; NaN and infinity become null.

    Raises:
        StoreError: see :func:`write_atomically`.
    """
    write_text(path, json_text(values))


def json_text(values: dict[str, Any]) -> str:
    """What :func:`write_json` writes."""
    return json.dumps(finite(values), indent=2, allow_nan=False) + "\n"


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    """Write a mapping of plain values.

    Raises:
        StoreError: see :func:`write_atomically`.
    """
    write_text(path, yaml_text(values))


def yaml_text(values: dict[str, Any]) -> str:
    """What :func:`write_yaml` writes."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON file's mapping, or None if the file is missing or damaged."""
    try:
        return parse_json(path.read_bytes())
    except OSError:
        return None


def parse_json(data: bytes) -> dict[str, Any] | None:
    """The mapping in a JSON file's contents, or None if they are damaged."""
    try:
        values = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def unreadable(path: Path, error: BaseException) -> StoreError:
    """The error for a file that is damaged or cannot be read."""
    return StoreError(f"cannot read {path} ({os_reason(error)}): restore it from a copy, or make it again.")


def unwritable(folder: Path, error: BaseException, chosen_with: str = "results.root=PATH") -> StoreError:
    """The error for a folder that cannot be written, with its remedies.

    Args:
        folder: the folder.
        error: what was raised.
        chosen_with: the setting or option that chooses another folder; empty if it differs.
    """
    return StoreError(
        f"cannot write into {folder} ({os_reason(error)}): free some space, mend its permissions, or choose another "
        f"folder{f' with {chosen_with}' * bool(chosen_with)}."
    )


def finite(value: Any) -> Any:
    """A plain value as JSON can hold it: NaN and infinity become None."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def os_reason(error: BaseException) -> str:
    """The operating system's message for an error, also if another error hides it, as torch's errors do."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of a nested mapping of plain values, whatever the order of its keys; 1.0 counts as 1."""
    return hashlib.sha256(canonical(values).encode()).hexdigest()


def canonical(values: Mapping[str, Any]) -> str:
    """A nested mapping of plain values as JSON, the same text whatever the order of keys, and for 1 and 1.0."""
    return json.dumps(_canonical(values), sort_keys=True)


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
