"""Avazu's CSV, read in blocks of whole lines, each block parsed on its own and every fault found by its line."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from tmsgd_bench.data.catalog import find
from tmsgd_bench.data.texts import open_text
from tmsgd_bench.errors import DataError

BLOCK_BYTES = 16 << 20
COLUMNS = tuple(field["name"] for field in find("avazu").fields)
"""id, click, hour and the others, 24 in all."""
HEXADECIMAL = (
    *("site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"),
    *("device_id", "device_ip", "device_model"),
)
"""Columns of eight characters, which make one 64-bit number; the others are 32-bit whole numbers."""
FIELDS = COLUMNS[2:]
"""The 22 categorical columns: all but id and click."""
HEADER_LINES = 1


@dataclass(frozen=True)
class Block:
    """Whole lines of the file.

    Args:
        path: the file.
        header: its columns, in its own order.
        number: how many blocks come before it.
        first: how many rows come before it.
        rows: how many it has.
        text: its bytes.
        position: bytes of the file that have been read, compressed or not.
    """

    path: Path
    header: tuple[str, ...]
    number: int
    first: int
    rows: int
    text: bytes
    position: int

    @property
    def name(self) -> str:
        """A name that is the same for the same bytes at the same place alone."""
        return f"{self.number:05d}-{self.first}-{zlib.crc32(self.text):08x}"


@dataclass(frozen=True)
class Rows:
    """A block as numbers.

    Args:
        clicks: uint8, shape (rows,): 0 or 1.
        values: the text of each of ``FIELDS`` as numbers, shape (rows,), one number for one text.
    """

    clicks: np.ndarray
    values: dict[str, pa.Array]


def read_blocks(path: Path) -> Iterator[Block]:
    """The blocks of a CSV file, plain or gzip.

    Raises:
        DataError: it is missing, empty, damaged or cut off, or its first line does not name the 24 columns.
    """
    rows = number = 0
    try:
        with path.open("rb") as raw, open_text(raw) as file:
            header = _header(path, file.readline())
            while text := _whole_lines(file):
                count = text.count(b"\n") + (not text.endswith(b"\n"))
                yield Block(path, header, number, rows, count, text, raw.tell())
                rows, number = rows + count, number + 1
    except OSError as error:
        after = f" after line {rows + HEADER_LINES:,}" if rows else ""
        raise fault(path, f"cannot be read{after} ({error.strerror or error})") from error
    except (EOFError, zlib.error) as error:
        raise fault(path, f"is damaged or cut off after line {rows + HEADER_LINES:,}") from error
    if not rows:
        raise fault(path, "holds no rows")


def _whole_lines(file: IO[bytes]) -> bytes:
    text = file.read(BLOCK_BYTES)
    return text if text.endswith(b"\n") else text + file.readline()


def fault(path: Path, what: str) -> DataError:
    """The error that says what is wrong with the file, and where a good one comes from."""
    return DataError(f"{path} {what}: {find('avazu').remedy(path.parent)}")


def _header(path: Path, line: bytes) -> tuple[str, ...]:
    if not line:
        raise fault(path, "is empty")
    names = tuple(line.decode("utf-8", "replace").strip().split(","))
    if missing := [name for name in COLUMNS if name not in names]:
        raise fault(path, f"lacks the columns {', '.join(missing)} in line 1")
    if len(names) != len(COLUMNS):
        raise fault(path, f"has {len(names)} columns in line 1 in place of {len(COLUMNS)}")
    return names


def parse(block: Block) -> Rows:
    """A block's clicks and values.

    Raises:
        DataError: a line has other than 24 columns, a click other than 0 or 1, an hour that is no YYMMDDHH, or a value
            of another kind than its column's; names the line.
    """
    wanted = COLUMNS[1:]
    types = {name: pa.binary(8) if name in HEXADECIMAL else pa.int32() for name in wanted}
    try:
        table = pc.read_csv(
            pa.BufferReader(block.text),
            # Threads would interleave the blocks of several calls; the caller has one thread for each call.
            pc.ReadOptions(use_threads=False, column_names=list(block.header)),
            pc.ParseOptions(quote_char=False, ignore_empty_lines=False),
            pc.ConvertOptions(check_utf8=False, column_types=types, include_columns=list(wanted), null_values=[]),
        ).combine_chunks()
    except pa.ArrowInvalid as error:
        raise _find_fault(block, str(error)) from error
    clicks, values = _numbers(table["click"].chunk(0)), {name: _array(table[name].chunk(0)) for name in FIELDS}
    if table.num_rows != block.rows or ((clicks != 0) & (clicks != 1)).any() or not _are_hours(values["hour"]):
        raise _find_fault(block, "its rows cannot be told apart")
    return Rows(clicks.astype(np.uint8), values)


def _array(column: pa.Array) -> pa.Array:
    """A column as numbers: eight characters are read as one, without a copy."""
    if column.type == pa.int32():
        return column
    return pa.Array.from_buffers(pa.int64(), len(column), [None, column.buffers()[1]], offset=column.offset)


def _numbers(column: pa.Array) -> np.ndarray:
    """The same without pandas, which pyarrow's own conversion imports."""
    return np.frombuffer(column.buffers()[1], np.dtype(str(column.type)))[column.offset : column.offset + len(column)]


def encode(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """A column as places in the list of its different values: int32, shape (rows,), and int64, shape (values,)."""
    encoded = column.dictionary_encode()
    return _numbers(encoded.indices), _numbers(encoded.dictionary).astype(np.int64)


def _are_hours(column: pa.Array) -> bool:
    return all(is_hour(int(value)) for value in encode(column)[1])


def is_hour(value: int) -> bool:
    """Whether a number is YYMMDDHH."""
    try:
        datetime.strptime(f"{value:08d}", "%y%m%d%H")
    except ValueError:
        return False
    return True


def _find_fault(block: Block, otherwise: str) -> DataError:
    """What is wrong with the first line of a block that is not as it should be."""
    for row, line in enumerate(block.text.split(b"\n")[: block.rows]):
        if what := _fault_of(line.removesuffix(b"\r"), block.header):
            return fault(block.path, f"in line {block.first + row + HEADER_LINES + 1:,} {what}")
    return fault(block.path, f"cannot be read after line {block.first + HEADER_LINES:,} ({otherwise})")


def _fault_of(line: bytes, header: tuple[str, ...]) -> str:
    cells = line.decode("utf-8", "replace").split(",")
    if len(cells) != len(header):
        return f"has {len(cells)} columns in place of {len(header)}"
    found = dict(zip(header, cells, strict=True))
    if found["click"] not in ("0", "1"):
        return f"has the click {found['click']!r}, which must be 0 or 1"
    for name in FIELDS:
        if what := _wrong_value(name, found[name]):
            return f"has the {name} {found[name]!r}, which must be {what}"
    return "has a carriage return within it" if b"\r" in line else ""


def _wrong_value(name: str, cell: str) -> str:
    """What a value must be that is not; an empty string if it is."""
    if name in HEXADECIMAL:
        return "" if len(cell.encode()) == 8 else "8 characters"
    try:
        number = int(cell)
    except ValueError:
        return "a whole number"
    if name == "hour" and not is_hour(number):
        return "YYMMDDHH"
    return "" if -(1 << 31) <= number < 1 << 31 else "a whole number of 32 bits"
