"""Avazu's CSV, read in blocks of whole lines, each block parsed on its own and every fault found by its line.

What a line may look like: the columns of the first line, separated by commas, without quotes; eight bytes in columns of
hexadecimal digits, and elsewhere what pyarrow takes for a whole number of 32 bits (leading zeros, and blanks around it,
do not count; a plus sign is refused). The click is 0 or 1, the hour YYMMDDHH. Lines end with a line feed, before which
a carriage return may stand. A byte-order mark at the beginning and blank lines at the end are passed over.
"""

from __future__ import annotations

import codecs
import mmap
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
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
NEW_LINE = ord("\n")
NARROW = 1 << 16
"""How far apart whole numbers may be that are kept as their distance from the least."""
HUGE_PAGE = 2 << 20
"""Bytes; memory of a multiple of it begins at one."""
CACHED = 1 << 18
"""Bytes that are counted or parsed at once: they stay in the processor's cache."""
SAMPLE = 2048
"""Rows by which it is judged whether a column has very many values: nearly all of these differ."""
TYPES = {name: pa.binary(8) if name in HEXADECIMAL else pa.int32() for name in COLUMNS[1:]}
"""What the columns are read as."""


@dataclass(frozen=True)
class Block:
    """Whole lines of the file.

    Args:
        path: the file.
        header: its columns, in its own order.
        number: how many blocks come before it.
        first: how many rows come before it.
        rows: how many it has.
        text: its bytes; the last line of the file may lack its end.
        position: bytes of the file that have been read, compressed or not.
    """

    path: Path
    header: tuple[str, ...]
    number: int
    first: int
    rows: int
    text: memoryview
    position: int

    @cached_property
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
    """The blocks of a CSV file, plain or gzip; none of its lines is blank at the end of the file.

    Raises:
        DataError: it is missing, empty, damaged or cut off, or its first line does not name the 24 columns.
    """
    rows = number = 0
    try:
        with path.open("rb") as raw, open_text(raw) as file:
            header = _header(path, file.readline())
            for text in _whole_lines(file):
                count = _lines(text)
                yield Block(path, header, number, rows, count, text, raw.tell())
                rows, number = rows + count, number + 1
    except OSError as error:
        after = f" after line {rows + HEADER_LINES:,}" if rows else ""
        raise fault(path, f"cannot be read{after} ({error.strerror or error})") from error
    except (EOFError, zlib.error) as error:
        raise fault(path, f"is damaged or cut off after line {rows + HEADER_LINES:,}") from error
    if not rows:
        raise fault(path, "holds no rows")


def _whole_lines(file: IO[bytes]) -> Iterator[memoryview]:
    """Lines, as many as ``BLOCK_BYTES`` hold, but one at least; blank ones come before others only.

    What is behind the last of them is put before what is read next, so that nothing else is copied.
    """
    rest = b""
    while True:
        text = _memory(len(rest) + BLOCK_BYTES)
        text[: len(rest)] = rest
        end = len(rest) + file.readinto(memoryview(text)[len(rest) : len(rest) + BLOCK_BYTES])  # type: ignore[attr-defined]
        is_last = end == len(rest)
        cut = _end_of_rows(text, end if is_last else text.rfind(b"\n", 0, end) + 1)
        if cut:
            yield memoryview(text)[:cut]
        if is_last:
            return
        rest = text[cut:end]


def _memory(size: int) -> mmap.mmap:
    """So many bytes at least, in huge pages if the system has them: one fault for each in place of hundreds."""
    memory = mmap.mmap(-1, -(-size // HUGE_PAGE) * HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # not for shared
    if hasattr(mmap, "MADV_HUGEPAGE"):  # Linux
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _end_of_rows(text: mmap.mmap, end: int) -> int:
    """Where the last line before ``end`` that is not blank ends; 0 if all are blank."""
    while end:
        start = text.rfind(b"\n", 0, end - 1) + 1
        if text[start:end] not in (b"\n", b"\r\n"):
            return end
        end = start
    return 0


def _lines(text: memoryview) -> int:
    found = np.frombuffer(text, np.uint8)
    ends = sum(int(np.count_nonzero(found[k : k + CACHED] == NEW_LINE)) for k in range(0, len(found), CACHED))
    return ends + int(found[-1] != NEW_LINE)


def fault(path: Path, what: str) -> DataError:
    """The error that says what is wrong with the file, and where a good one comes from."""
    return DataError(f"{path} {what}: {find('avazu').remedy(path.parent)}")


def _header(path: Path, line: bytes) -> tuple[str, ...]:
    if not line:
        raise fault(path, "is empty")
    names = tuple(line.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").strip().split(","))
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
    try:
        table = _read(block.text, block.header, TYPES).combine_chunks()
    except pa.ArrowInvalid as error:
        raise _find_fault(block, str(error)) from error
    clicks, values = _numbers(table["click"].chunk(0)), {name: _array(table[name].chunk(0)) for name in FIELDS}
    are_clicks, are_hours = not (clicks & ~1).any(), _are_hours(_numbers(values["hour"]))
    if table.num_rows != block.rows or not are_clicks or not are_hours:
        raise _find_fault(block, "its rows cannot be told apart")
    return Rows(clicks.astype(np.uint8), values)


def _read(text: bytes | memoryview, header: Sequence[str], types: Mapping[str, pa.DataType]) -> pa.Table:
    return pc.read_csv(
        pa.BufferReader(text),
        # Threads would interleave the blocks of several calls; the caller has one thread for each call.
        pc.ReadOptions(use_threads=False, block_size=CACHED, column_names=list(header)),
        pc.ParseOptions(quote_char=False, ignore_empty_lines=False),
        pc.ConvertOptions(check_utf8=False, column_types=types, include_columns=list(types), null_values=[]),
    )


def _array(column: pa.Array) -> pa.Array:
    """A column as numbers: eight characters are read as one, without a copy."""
    if column.type == pa.int32():
        return column
    return pa.Array.from_buffers(pa.int64(), len(column), [None, column.buffers()[1]], offset=column.offset)


def _numbers(column: pa.Array) -> np.ndarray:
    """The same without pandas, which pyarrow's own conversion imports."""
    return np.frombuffer(column.buffers()[1], np.dtype(str(column.type)))[column.offset : column.offset + len(column)]


def encode(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """A column as places in a list of values.

    Returns:
        The places: unsigned whole numbers, as small as can be, shape (rows,). The list: int64, shape (values,), not
        longer than the column; each value stands in it once, and some may not occur in the column.
    """
    values = _numbers(column)
    is_whole_number = column.type == pa.int32()  # text is never near other text
    least, most = (int(values.min()), int(values.max())) if is_whole_number else (0, NARROW)
    if most - least < min(len(values), NARROW):
        places, keys = values - np.int32(least), np.arange(least, most + 1)
    elif len(np.unique(values[:SAMPLE])) > SAMPLE * 15 // 16:  # a hash table of so many would not stay in the cache
        places, keys = _ranked(values)
    else:
        encoded = column.dictionary_encode()
        places, keys = _numbers(encoded.indices), _numbers(encoded.dictionary)
    return places.astype(np.min_scalar_type(len(keys) - 1)), keys.astype(np.int64)


def _ranked(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in the sorted list of different values, and that list (``numpy.unique`` takes longer)."""
    order = values.argsort()
    ranked = values[order]
    first = np.concatenate([[True], ranked[1:] != ranked[:-1]])
    places = np.empty(len(values), np.int32)
    places[order] = first.cumsum(dtype=np.int32) - 1
    return places, ranked[first]


def hexadecimal(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eight characters each as the number that they write, the last digit being the highest, which keeps their order.

    Args:
        keys: int64, shape (values,): eight characters, the first of them in the lowest byte.

    Returns:
        The numbers: uint32, shape (values,). Whether a key has nothing but 0 to 9 and a to f: bool, shape (values,);
        where it has not, the number means nothing.
    """
    written = keys.astype("<u8")
    found = (written & _each(0x0F)) + (written >> 6 & _each(1)) * 9  # of each byte
    valid = (_characters(found) == written) & (found & _each(0xF0) == 0)
    for bits, mask in ((4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF), (16, 0x00000000FFFFFFFF)):
        found = (found | found >> bits) & np.uint64(mask)
    return found.astype(np.uint32), valid


def characters(numbers: np.ndarray) -> np.ndarray:
    """The other way round: uint32 to int64."""
    found = numbers.astype("<u8")
    for bits, mask in ((16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F)):
        found = (found | found << bits) & np.uint64(mask)
    return _characters(found).astype(np.int64)


def _characters(digits: np.ndarray) -> np.ndarray:
    """What writes the numbers below 16 in each byte of a word."""
    return digits + _each(ord("0")) + (digits + _each(6) >> 4 & _each(1)) * (ord("a") - ord("0") - 10)


def _each(byte: int) -> np.uint64:
    """A word of eight such bytes."""
    return np.uint64(0x0101010101010101 * byte)


def _are_hours(values: np.ndarray) -> bool:
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1  # few: the file is in order of time
    return all(is_hour(value) for value in {int(values[0]), *values[changes].tolist()})


def is_hour(value: int) -> bool:
    """Whether a number is YYMMDDHH."""
    try:
        datetime.strptime(f"{value:08d}", "%y%m%d%H")
    except ValueError:
        return False
    return True


def _find_fault(block: Block, otherwise: str) -> DataError:
    """What is wrong with the first line of a block that is not as it should be."""
    for row, line in enumerate(bytes(block.text).split(b"\n")[: block.rows]):
        if what := _fault_of(line.removesuffix(b"\r"), block.header):
            return fault(block.path, f"in line {block.first + row + HEADER_LINES + 1:,} {what}")
    return fault(block.path, f"cannot be read after line {block.first + HEADER_LINES:,} ({otherwise})")


def _fault_of(line: bytes, header: tuple[str, ...]) -> str:
    if b"\r" in line:
        return "has a carriage return within it"
    cells = line.split(b",")
    if len(cells) != len(header):
        return f"has {len(cells)} columns in place of {len(header)}"
    found = dict(zip(header, cells, strict=True))
    for name in COLUMNS[1:]:
        if what := _wrong_value(name, found[name]):
            return f"has the {name} {found[name].decode('utf-8', 'replace')!r}, which must be {what}"
    return ""


def _wrong_value(name: str, cell: bytes) -> str:
    """What a value must be that is not; an empty string if it is."""
    if name in HEXADECIMAL:
        return "" if len(cell) == 8 else "8 characters"
    number = _whole_number(cell)
    if name == "click":
        return "" if number in (0, 1) else "0 or 1"
    if number is None:
        return "a whole number of 32 bits"
    return "YYMMDDHH" if name == "hour" and not is_hour(number) else ""


@lru_cache(maxsize=1 << 16)
def _whole_number(cell: bytes) -> int | None:
    """A cell read on its own, but as whole blocks are, so that it is refused here if and only if it is there."""
    try:
        column = _read(cell + b"\n", ("cell",), {"cell": pa.int32()})["cell"].to_pylist()
    except pa.ArrowInvalid:
        return None
    return column[0] if len(column) == 1 else None
