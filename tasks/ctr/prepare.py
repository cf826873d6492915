"""Avazu's text turned, once, into columns of numbers for the embedding table.

The text is first converted to a temporary Parquet file, so that one column at a time can be held in memory. Each
column's values that are frequent in the training split then get the numbers from 1 on, in their sorted order; all
others share the number 0.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tasks.ctr.split import SPLITS, TRAIN, split
from tasks.ctr.text import FIELDS, HEXADECIMAL, TYPES, fault, read_batches
from tmsgd_bench import files
from tmsgd_bench.data.cache import Tensors, tensors
from tmsgd_bench.data.catalog import find
from tmsgd_bench.data.texts import FOLDER
from tmsgd_bench.engine.progress import duration
from tmsgd_bench.errors import DataError
from tmsgd_bench.task import TaskSettings

log = logging.getLogger(__name__)

VERSION = 1  # to be raised when the tensors change
RARE = 0
"""The number of all values of a field that are too rare, or unknown."""
LARGE = ("device_id", "device_ip")
"""The columns with by far the most values: numbered first, while little else is in memory."""
SCHEMA = pa.schema({name: pa.int64() if name in HEXADECIMAL else kind for name, kind in TYPES.items()})
"""Of the Parquet file: eight characters are stored as one number of 64 bits."""


def prepared(settings: TaskSettings, min_count: int, hour: str) -> Tensors:
    """All rows as numbers, from the disk if they were prepared before; see :func:`tmsgd_bench.data.cache.tensors`.

    Args:
        settings: the run's.
        min_count: values that occur less often in the training split share one number per field.
        hour: "value" for the hour as it is, "split" for the hour of the day and the weekday in its place.

    Returns:
        ``field NAME`` of each field in its order: the numbers of its values, uint8, int16 or int32, shape (rows,).
        ``click``: 0 or 1, uint8, shape (rows,). ``sizes``: how many numbers each field has, int64, shape (fields,).
        ``rows SPLIT`` of each split: which rows belong to it, int32, in rising order.

    Raises:
        DataError: the file is missing, damaged, has changed, or is so small that a split has no rows; or the folder
            cannot be written.
    """
    options = {"version": VERSION, "min_count": min_count, "hour": hour}
    return tensors(settings, "rows", options, lambda: _make(settings, min_count, hour))


def _make(settings: TaskSettings, min_count: int, hour: str) -> Tensors:
    path, place = find("avazu").files[0].path(settings.data_folder), settings.data_folder.parent / FOLDER
    start = time.monotonic()
    pa.set_memory_pool(pa.system_memory_pool())  # pyarrow's usual pool keeps most of what a column has needed
    try:
        with tempfile.TemporaryFile(dir=place) as file:  # it has no name, so that nothing is left of a killed process
            _convert(path, file)
            _refuse_changed(path, settings.fingerprint)
            made = _numbered(path, pq.ParquetFile(file), min_count, hour)
    except OSError as error:
        raise DataError(
            f"cannot prepare avazu in {place} ({files.os_reason(error)}): free some space or choose another data.root."
        ) from error
    log.info("prepared %s rows of avazu in %s", f"{len(made['click']):,}", duration(time.monotonic() - start))
    return made


def _convert(path: Path, file: IO[bytes]) -> None:
    """Write the rows as Parquet."""
    with pq.ParquetWriter(file, SCHEMA) as writer:
        for batch in read_batches(path):
            columns = [column.view(kind) for column, kind in zip(batch.columns, SCHEMA.types, strict=True)]
            writer.write_batch(pa.record_batch(columns, schema=SCHEMA))


def _refuse_changed(path: Path, fingerprint: str) -> None:
    """Rows of other contents would be kept as those of the ones that the run looked at."""
    current = [find("avazu").fingerprint(path.parent, kind, verify=False) for kind in ("real", "synthetic")]
    if fingerprint not in current:
        raise DataError(
            f"{path} has changed since this run looked at its contents: wait until nothing writes to it any more, and "
            "start again."
        )


def _numbered(path: Path, table: pq.ParquetFile, min_count: int, hour: str) -> Tensors:
    rows = table.metadata.num_rows
    log.info("%s has %s rows (the whole of Avazu: %s)", path, f"{rows:,}", f"{find('avazu').files[0].examples:,}")
    member = split(rows)
    made = {f"rows {name}": np.flatnonzero(member == place).astype(np.int32) for place, name in enumerate(SPLITS)}
    if empty := [name for name in SPLITS if not len(made[f"rows {name}"])]:
        raise DataError(f"the {empty[0]} split has no rows, since {path} has only {rows:,}: use a file with more rows.")
    made["click"] = table.read(["click"])["click"].to_numpy().astype(np.uint8)
    numbered = {}
    for name, places, values in _fields(path, table, hour):
        numbered[name] = _numbers(places, values, member == TRAIN, min_count)
        del places, values  # the memory is needed for the next ones
    names = sorted(numbered, key=lambda name: FIELDS.index(name) if name in FIELDS else 0)
    made |= {f"field {name}": numbered[name][0] for name in names}
    made["sizes"] = np.array([numbered[name][1] for name in names])
    return {name: torch.from_numpy(array) for name, array in made.items()}


def _fields(path: Path, table: pq.ParquetFile, hour: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """The model's fields, one at a time: each row's place in a list of different values, and that list."""
    yield from _hour_fields(path, table, hour)
    for name in sorted(FIELDS[1:], key=LARGE.count, reverse=True):
        yield name, *_encoded(table, name)


def _hour_fields(path: Path, table: pq.ParquetFile, hour: str) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    places, hours = _encoded(table, "hour")
    times = _times(path, places, hours)
    if hour == "value":
        yield "hour", places, hours
    else:
        for name, of_times in (("hour_of_day", [t.hour for t in times]), ("weekday", [t.weekday() for t in times])):
            values, value_of_time = np.unique(of_times, return_inverse=True)
            yield name, value_of_time.astype(np.int32)[places], values


def _encoded(table: pq.ParquetFile, name: str) -> tuple[np.ndarray, np.ndarray]:
    chunks = table.read([name])[name].dictionary_encode().chunks  # which share one list
    values = chunks[0].dictionary.to_numpy()
    smallest = np.min_scalar_type(len(values) - 1)
    return np.concatenate([chunk.indices for chunk in chunks], dtype=smallest, casting="unsafe"), values


def _times(path: Path, places: np.ndarray, hours: np.ndarray) -> list[datetime]:
    """The time of each of the different hours.

    Raises:
        DataError: an hour is not YYMMDDHH; names the first line that has it.
    """
    back = np.flatnonzero(np.diff(hours[places]) < 0)
    if len(back):  # the file can be used all the same, since no split depends on the time
        line = f"{back[0] + 3:,}"
        log.warning("%s: the hour goes back in line %s, so the file is not as it was published", path, line)
    times = []
    for place, hour in enumerate(hours):
        try:
            times.append(datetime.strptime(f"{hour:08d}", "%y%m%d%H"))
        except ValueError as error:
            line = f"{(places == place).argmax() + 2:,}"
            raise fault(path, f"in line {line}: invalid value {hour} for hour, which must be YYMMDDHH") from error
    return times


def _numbers(places: np.ndarray, values: np.ndarray, in_training: np.ndarray, min_count: int) -> tuple[np.ndarray, int]:
    """A field's numbers, and how many different ones there are.

    Args:
        places: each row's place among the values, shape (rows,).
        values: different whole numbers, shape (values,).
        in_training: which rows to count, bool, shape (rows,).
        min_count: how often a value must occur among these to have a number of its own.
    """
    counts = np.bincount(places[in_training], minlength=len(values))
    frequent = np.flatnonzero(counts >= min_count)
    size = 1 + len(frequent)
    kind = next(kind for kind in (np.uint8, np.int16, np.int32) if size - 1 <= np.iinfo(kind).max)
    numbers = np.full(len(values), RARE, kind)
    numbers[frequent[values[frequent].argsort()]] = np.arange(1, size)
    return numbers[places], size
