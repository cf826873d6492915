"""Avazu's CSV, read as batches of typed columns.

A line has the columns of the first line, separated by commas, without quotes. The click is 0 or 1, the hour YYMMDDHH;
the identifiers of sites, apps and devices have eight characters, and the other columns hold whole numbers of 32 bits.
Lines end with a line feed, before which a carriage return may stand. Blank lines are passed over.
"""

from __future__ import annotations

import logging
import re
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc

from tmsgd_bench import files
from tmsgd_bench.data.catalog import find
from tmsgd_bench.data.texts import open_text
from tmsgd_bench.engine.progress import LOG_SECONDS
from tmsgd_bench.errors import DataError

log = logging.getLogger(__name__)

BLOCK_BYTES = 4 << 20
"""Text that is parsed at once. A batch holds its rows, fewer than 2 ** 16: a line has more than 64 bytes."""
COLUMNS = tuple(field["name"] for field in find("avazu").fields)
"""id, click, hour and the others, 24 in all."""
FIELDS = COLUMNS[2:]
"""The 22 categorical columns: all but id and click."""
HEXADECIMAL = COLUMNS[5:14]
"""Columns of eight characters each."""
KINDS = {"click": pa.bool_(), **{name: pa.binary(8) if name in HEXADECIMAL else pa.int32() for name in FIELDS}}
"""What the values are read as; the id is not read."""
RULES = {pa.bool_(): "0 or 1", pa.binary(8): "8 characters", pa.int32(): "a whole number of 32 bits"}
SCHEMA = pa.schema({"click": pa.bool_()} | {name: pa.dictionary(pa.uint16(), KINDS[name]) for name in FIELDS})
"""Of a batch: a categorical column is a list of the batch's different values, and each row's place in it."""
WRONG_VALUE = re.compile(r"In CSV column #(\d+): Row #(\d+): CSV conversion error to .*?: (.*)", re.DOTALL)
WRONG_LENGTH = re.compile(r"CSV parse error: Row #(\d+): (Expected \d+ columns, got \d+)")
"""What pyarrow says of a line that it cannot read, as long as it reads with one thread."""


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a CSV file, plain or gzip, in their order: batches of ``SCHEMA``.

    Raises:
        DataError: the file is missing, damaged or cut off, or lacks a column; or a line has another number of columns,
            or a value of another type. Names the line; blank lines are not counted.
    """
    names: list[str] = []
    try:
        names = _column_names(path)
        with path.open("rb") as raw, open_text(raw) as file:
            latest, size = time.monotonic(), path.stat().st_size
            for batch in _reader(file):
                yield batch.cast(SCHEMA)
                if time.monotonic() - latest >= LOG_SECONDS:
                    latest = time.monotonic()
                    log.info("reading %s: %d %%", path, 100 * raw.tell() // size)
    except pa.ArrowInvalid as error:
        raise fault(path, _explained(str(error), names)) from error
    except (OSError, EOFError, zlib.error) as error:  # the last two, and an OSError: damaged gzip
        raise fault(path, f"cannot be read ({files.os_reason(error)})") from error


def fault(path: Path, what: str) -> DataError:
    """The error that says what is wrong with the file, and where a good one comes from."""
    return DataError(f"{path} {what}: {find('avazu').remedy(path.parent)}")


def _column_names(path: Path) -> list[str]:
    with path.open("rb") as raw, open_text(raw) as file:
        names = file.readline().decode("utf-8-sig", "replace").strip().split(",")
    if missing := [name for name in COLUMNS if name not in names]:
        raise fault(path, f"lacks the columns {', '.join(missing)} in line 1")
    if len(names) != len(COLUMNS):
        raise fault(path, f"has {len(names)} columns in line 1 in place of {len(COLUMNS)}")
    return names


def _reader(file: object) -> pc.CSVStreamingReader:
    types = KINDS | {name: pa.dictionary(pa.int32(), KINDS[name]) for name in FIELDS}  # no shorter places can be read
    clicks = {"true_values": ["1"], "false_values": ["0"]}
    convert = pc.ConvertOptions(
        check_utf8=False, column_types=types, include_columns=list(types), null_values=[], **clicks
    )
    reading = pc.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)  # with threads, errors do not name the line
    return pc.open_csv(file, reading, pc.ParseOptions(quote_char=False), convert)


def _explained(message: str, names: Sequence[str]) -> str:
    """pyarrow's message with the line and the column by their usual names."""
    if match := WRONG_VALUE.fullmatch(message):
        name = names[int(match[1])]
        return f"in line {int(match[2]):,}: {match[3]} for {name}, which must be {RULES[KINDS[name]]}"
    if match := WRONG_LENGTH.match(message):
        return f"in line {int(match[1]):,}: {match[2]}"
    return f"cannot be read ({message})"
