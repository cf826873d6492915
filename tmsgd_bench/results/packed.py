"""Published runs in one Parquet file, in place of their folders: ``runs.parquet``.

It has a row for each run and a column for each of its files. The columns hold the files byte for byte: a history is a
Parquet file in a Parquet file. The metadata holds a SHA-256 of all rows. The address of a packed run is
``FILE/<run id>``. Functions that read a run take its folder or this address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from tmsgd_bench import files, manifest
from tmsgd_bench.errors import ConfigError, StoreError

if TYPE_CHECKING:
    import pyarrow as pa

NAME = "runs.parquet"
"""The packed file that belongs to a folder."""
SUFFIX = ".parquet"
RUN_ID = "run_id"
DIGEST = b"sha256"
"""The key of the digest in the file's metadata."""
AGAIN = "restore it from a copy, or pack its runs again with 'python -m tmsgd_bench pack'"

Files = Mapping[str, bytes]
"""The contents of a run's files by their names."""


def is_packed(path: Path) -> bool:
    """Whether a path is a file that may hold packed runs."""
    return path.suffix == SUFFIX and path.is_file()


def file_at(place: Path) -> Path | None:
    """The packed file that a place names: itself, or the one in this folder; None if it names none."""
    return next((path for path in (place, place / NAME) if is_packed(path)), None)


def check_name(path: Path) -> None:
    """Raise ConfigError unless a file to pack runs into has a name by which it is known as a packed file."""
    if path.suffix != SUFFIX:
        raise ConfigError(f"cannot pack runs into {path}: give --out a name that ends in {SUFFIX}.")


def run_at(folder: Path) -> Files | None:
    """The files of a packed run by its address; None for a folder on the disk.

    A run that the packed file lacks has no files.


    Raises:
        StoreError: as :func:`read`.
    """
    return read(folder.parent).get(folder.name, {}) if is_packed(folder.parent) else None


def on_disk(folder: Path) -> Path:
    """The folder of a run, or the packed file that it is in."""
    return folder.parent if is_packed(folder.parent) else folder


def read(path: Path) -> Mapping[str, Files]:
    """The runs in a packed file by their ids, sorted.

    Raises:
        StoreError: the file cannot be read, is damaged, or is another kind of file.
    """
    try:
        return _read(path, *state(path))
    except OSError as error:
        raise files.unreadable(path, error) from error


def state(path: Path) -> tuple[int, int, int]:
    """What changes with a packed file's contents.

    Raises:
        StoreError: the file cannot be looked at.
    """
    try:
        return manifest.changed(path.stat())
    except OSError as error:
        raise files.unreadable(path, error) from error


@lru_cache(maxsize=64)
def _read(path: Path, size: int, modified: int, changed: int) -> Mapping[str, Files]:
    """The runs in a file, read again only if its size or one of its times of change differs."""
    table = _table(path)
    recorded = (table.schema.metadata or {}).get(DIGEST)
    if recorded is None or RUN_ID not in table.column_names:
        raise StoreError(f"{path} holds no packed runs: name a file that 'python -m tmsgd_bench pack' wrote.")
    try:
        rows = list(_rows(table))
    except Exception as error:  # pyarrow has many kinds for columns of the wrong type
        raise StoreError(f"{path} is damaged (its columns are of the wrong type): {AGAIN}.") from error
    runs = dict(rows)
    if len(runs) < len(rows):
        raise StoreError(f"{path} is damaged (it holds a run twice): {AGAIN}.")
    if not all(map(_is_name, (*table.column_names, *runs))):
        raise StoreError(f"{path} is not used: a run or a file in it has a name that leads out of its folder.")
    if recorded != _digest(runs):
        raise StoreError(f"{path} is damaged (it differs from its checksum): {AGAIN}.")
    return runs


def _is_name(name: str) -> bool:
    """Whether a name is that of a file or folder in the one where it is written."""
    return bool(name) and name == Path(name).name and not name.startswith(".") and "\0" not in name


def _table(path: Path) -> pa.Table:
    import pyarrow.parquet as pq  # which takes half a second

    try:
        with path.open("rb") as file:
            return pq.read_table(file)
    except PermissionError:
        raise
    except Exception as error:  # pyarrow has many kinds for a damaged file
        raise StoreError(f"{path} is damaged (it is not Parquet): {AGAIN}.") from error


def _rows(table: pa.Table) -> Iterator[tuple[str, Files]]:
    import pyarrow as pa

    columns = {name: table[name].cast(pa.binary()).to_pylist() for name in table.column_names}
    for place, run_id in enumerate(columns.pop(RUN_ID)):
        contents = {name: column[place] for name, column in columns.items()}
        yield run_id.decode(errors="replace"), {name: data for name, data in contents.items() if data is not None}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a packed file's lock, a hidden file beside it, so that what one command adds another does not undo.

    Args:
        path: its folder is made if missing.

    Raises:
        StoreError: the folder cannot be written.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()


def write(path: Path, runs: Mapping[str, Files]) -> None:
    """Write runs into a packed file, in place of an earlier one; the same runs give the same bytes.

    Args:
        path: ends in ``.parquet``; its folder is made if missing.
        runs: their files by run id; all but Parquet files are text in UTF-8.

    Raises:
        StoreError: the file cannot be written.
    """
    import pyarrow.parquet as pq

    table = _packed({run_id: runs[run_id] for run_id in sorted(runs)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(
            path,
            lambda temporary: pq.write_table(
                # Runs resemble each other: compressed a column at a time, they take a tenth of their size.
                table,
                temporary,
                compression="zstd",
                compression_level=19,
                use_dictionary=False,
                write_statistics=False,
            ),
        )
    except (OSError, StoreError) as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"cannot write {path} ({files.os_reason(error)}): free some space, mend the permissions of its folder, or "
        "choose another file."
    )


def _packed(runs: Mapping[str, Files]) -> pa.Table:
    import pyarrow as pa

    names = sorted({name for contents in runs.values() for name in contents})
    columns = {RUN_ID: pa.array(list(runs), pa.string())}
    for name in names:
        data = pa.array([contents.get(name) for contents in runs.values()], pa.binary())
        columns[name] = data if name.endswith(SUFFIX) else data.cast(pa.string())
    return pa.table(columns).replace_schema_metadata({DIGEST: _digest(runs)})


def _digest(runs: Mapping[str, Files]) -> bytes:
    """SHA-256 (hexadecimal) of all ids, names and contents, each with its length before it."""
    total = hashlib.sha256()
    for run_id, contents in runs.items():
        for text in (run_id.encode(), *(part for name in sorted(contents) for part in (name.encode(), contents[name]))):
            total.update(len(text).to_bytes(8, "big") + text)
        total.update(b"\0" * 8)
    return total.hexdigest().encode()
