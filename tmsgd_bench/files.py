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
from typing import TYPE_CHECKING, Any

import yaml

from tmsgd_bench.errors import StoreError

if TYPE_CHECKING:
    import pandas as pd


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
        with suppress(OSError):  # where the folder is a file, say, there is nothing to tidy up
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
        raise StoreError(
            f"cannot write into {folder} ({os_reason(error)}): free some space, mend its permissions, or choose "
            "another folder."
        ) from error


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


def read_parquet(path: Path) -> pd.DataFrame:
    """A Parquet file's rows.

    Raises:
        StoreError: the file is missing, damaged or cannot be read.
    """
    import pandas as pd  # which takes half a second

    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # ValueError: pyarrow's word for a damaged file
        raise unreadable(path, error) from error


def unreadable(path: Path, error: BaseException) -> StoreError:
    """The error for a file that is damaged or cannot be read."""
    return StoreError(f"cannot read {path} ({os_reason(error)}): restore it from a copy, or make it again.")


def unwritable(folder: Path, error: OSError) -> StoreError:
    """The error for a folder that cannot be written, with what to do about it."""
    return StoreError(
        f"cannot write into {folder} ({error.strerror or error}): free some space, mend its permissions, or choose "
        "another folder with results.root=PATH."
    )


def finite(value: Any) -> Any:
    """A plain value as JSON takes it: with null in place of NaN and infinity."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def os_reason(error: BaseException) -> str:
    """The operating system's word for an error; torch, for one, hides an OSError behind an error of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]


def digest(values: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of a nested mapping of plain values; the order of keys, and 1 against 1.0, do not count."""
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
