"""Parsed blocks of Avazu's text, kept on the disk: every column as places in the block's own list of its values.

They hold all that any choice of rare values or of fields needs, so the text is parsed once. What each block's list has,
and how often each value occurs in the training split, is kept with it. Rows stand split by split, as they are used.
"""

from __future__ import annotations

import io
import logging
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np

from tasks.ctr.split import TRAIN, grouped
from tasks.ctr.text import FIELDS, Block, encode, parse
from tmsgd_bench.data import sealed

log = logging.getLogger(__name__)

VERSION = 3  # to be raised when what is kept changes
LIST = "parts.json"
UNREADABLE = (OSError, zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError, struct.error)
"""What reading a damaged or missing part raises."""

LENGTHS = 26
"""Where a file's header in a ZIP archive has the lengths of its name and of its extra field, which end it."""

Lists = dict[str, tuple[np.ndarray, np.ndarray]]
"""Of each column some different values (int64), and how often each occurs in the training split (int32)."""


class DamagedError(Exception):
    """A kept part is gone or does not have the bytes that were written; its message is that, as a clause."""


@dataclass(frozen=True)
class Part:
    """A parsed block, whose columns are kept on the disk.

    Args:
        name: of its file, without the ending.
        first, rows: which rows of the file it holds.
        hours: its first and its last hour.
        backwards: the first of its rows whose hour is earlier than the one before; -1 if there is none.
    """

    name: str
    first: int
    rows: int
    hours: tuple[int, int]
    backwards: int


@dataclass(frozen=True)
class Columns:
    """A part's columns, with the rows for training first, then those for validation, then those for testing.

    Args:
        clicks: uint8, shape (rows,): 0 or 1.
        values: of each of ``FIELDS``, its values: the places (unsigned, shape (rows,)) and the list that they are
            places in (int64).
    """

    clicks: np.ndarray
    values: dict[str, tuple[np.ndarray, np.ndarray]]


class Parts:
    """The parts of one file.

    They are kept as NPZ without compression, whose CRC-32 of every array is checked when it is read.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def known(self) -> list[Part] | None:
        """All parts in the order of the file, or None if not all of them were parsed yet."""
        kept = sealed.read_record(self.folder / LIST)
        return None if kept is None else [Part(**{**part, "hours": tuple(part["hours"])}) for part in kept["parts"]]

    def complete(self, parts: Sequence[Part]) -> None:
        """Note that these are all; what else lies in the folder, of a file or an attempt that is no more, is deleted.

        Raises:
            StoreError: the folder cannot be written.
        """
        sealed.write_record(self.folder / LIST, {"parts": [asdict(part) for part in parts]})
        names = {LIST, *(self._path(part.name).name for part in parts)}
        for path in self.folder.iterdir():
            if path.name not in names:
                path.unlink()

    def forget(self) -> None:
        """The parts must be looked through, or made anew, from the text."""
        (self.folder / LIST).unlink(missing_ok=True)

    def make(self, block: Block) -> tuple[Part, Lists]:
        """A block's part: kept by an earlier attempt and whole, or made and kept now.

        Raises:
            DataError: see :func:`tasks.ctr.text.parse`.
            OSError: it cannot be written.
        """
        path = self._path(block.name)
        if path.exists():
            try:
                arrays = _load(path)
                return _described(block, arrays), _lists(arrays)
            except UNREADABLE:
                log.warning("%s is damaged and is made anew", path)
        arrays = _parsed(block)
        _keep(path, arrays)
        return _described(block, arrays), _lists(arrays)

    def lists(self, part: Part) -> Lists:
        """The values of a part.

        Raises:
            DamagedError: it cannot be read.
        """
        path = self._path(part.name)
        try:
            return _lists(_load(path, ("sizes", "keys", "counts")))
        except UNREADABLE as error:
            raise DamagedError(f"{path} is damaged") from error

    def columns(self, part: Part) -> Columns:
        """The rows of a part.

        Raises:
            DamagedError: it cannot be read.
        """
        path = self._path(part.name)
        try:
            return _columns(_load(path))
        except UNREADABLE as error:
            raise DamagedError(f"{path} is damaged") from error

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"


# --- what a part's file holds --------------------------------------------------------------------------------------

Arrays = Mapping[str, np.ndarray]
"""``clicks``; ``hours`` (first, last, and the row where they go back); of all columns, one after the other, ``keys``,
``counts`` and their ``sizes``; and ``places_1``, ``places_2`` and ``places_4`` (columns, rows) of those columns whose
places have so many bytes. Fewer and longer arrays are read faster than one for each column."""


def _parsed(block: Block) -> Arrays:
    rows = parse(block)
    order, sizes = grouped(block.first, block.rows)
    keys, counts, places = [], [], []
    for name in FIELDS:
        own, values = encode(rows.values[name])
        if name == "hour":
            hours = _hours(values[own])
        own = own.take(order)
        counts.append(np.bincount(own[: sizes[TRAIN]], minlength=len(values)).astype(np.int32))
        keys.append(values)
        places.append(own)
    made = {"clicks": rows.clicks.take(order), "hours": hours}
    made |= {"keys": np.concatenate(keys), "counts": np.concatenate(counts)}
    made["sizes"] = np.array([len(values) for values in keys])
    for width in (1, 2, 4):
        made[f"places_{width}"] = _stacked([own for own in places if own.itemsize == width], block.rows, width)
    return made


def _hours(hours: np.ndarray) -> np.ndarray:
    back = (np.diff(hours) < 0).nonzero()[0]
    return np.array([hours[0], hours[-1], back[0] + 1 if len(back) else -1])


def _stacked(columns: Sequence[np.ndarray], rows: int, width: int) -> np.ndarray:
    return np.stack(columns) if columns else np.zeros((0, rows), f"u{width}")


def _described(block: Block, arrays: Arrays) -> Part:
    first, last, backwards = arrays["hours"].tolist()
    return Part(block.name, block.first, block.rows, (first, last), backwards)


def _lists(arrays: Arrays) -> Lists:
    ends = arrays["sizes"].cumsum()[:-1]
    return dict(
        zip(FIELDS, zip(np.split(arrays["keys"], ends), np.split(arrays["counts"], ends), strict=True), strict=True)
    )


def _columns(arrays: Arrays) -> Columns:
    waiting: dict[int, Iterator[np.ndarray]] = {width: iter(arrays[f"places_{width}"]) for width in (1, 2, 4)}
    values = {
        name: (next(waiting[np.min_scalar_type(len(keys) - 1).itemsize]), keys)
        for name, (keys, _) in _lists(arrays).items()
    }
    return Columns(arrays["clicks"], values)


def _keep(path: Path, arrays: Arrays) -> None:
    """Write a part; nobody waits for the disk, since one that a crash leaves damaged is known by its CRC."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        _save(temporary, arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _save(path: Path, arrays: Arrays) -> None:
    """What ``numpy.savez`` does, without its copies."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
                file.write(array.data)


def _load(path: Path, names: Sequence[str] | None = None) -> Arrays:
    """Some arrays, or all."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        found = names or [Path(name).stem for name in archive.namelist()]
        return {name: _array(file, archive.getinfo(f"{name}.npy")) for name in found}


def _array(file: IO[bytes], info: zipfile.ZipInfo) -> np.ndarray:
    """What ``numpy.load`` does, without its copies; the array cannot be written to."""
    file.seek(info.header_offset + LENGTHS)
    file.seek(sum(struct.unpack("<HH", file.read(4))), io.SEEK_CUR)
    content = file.read(info.file_size)
    if zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile(f"{info.filename} does not have the bytes that were written")
    header = io.BytesIO(content)
    np.lib.format.read_magic(header)
    shape, _, dtype = np.lib.format.read_array_header_1_0(header)
    return np.frombuffer(content, dtype, offset=header.tell()).reshape(shape)
