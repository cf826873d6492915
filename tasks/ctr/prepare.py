"""Avazu's text turned, once, into columns of numbers for the embedding table.

The text is first converted to temporary Arrow files, one for each column, so that one column at a time can be held in
memory. Each column's values that are frequent in the training split then get the numbers from 1 on, in their sorted
order; all others share the number 0.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from tasks.ctr.split import SPLITS, TRAIN, split
from tasks.ctr.text import FIELDS, HEXADECIMAL, SCHEMA, fault, read_batches
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
"""The columns with by far the most values: numbered early, while little else is in memory."""


class Column(NamedTuple):
    """A field's values, in chunks of rows.

    Args:
        values: the different values: whole numbers, shape (values,).
        chunks: of each chunk a list of places in ``values``, shape (listed,); and of each of its rows the place in that
            list, uint16, shape (rows,).
    """

    values: np.ndarray
    chunks: list[tuple[np.ndarray, np.ndarray]]

    def replaced(self, substitutes: np.ndarray) -> np.ndarray:
        """For each row, what stands in the place of its value: shape (rows,)."""
        return np.concatenate([substitutes[listed][places] for listed, places in self.chunks])


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
        with ExitStack() as stack:  # the files have no names, so that nothing is left of a killed process
            columns = {name: stack.enter_context(tempfile.TemporaryFile(dir=place)) for name in SCHEMA.names}
            _convert(path, columns)
            _refuse_changed(path, settings.fingerprint)
            made = _numbered(path, columns, min_count, hour)
    except OSError as error:
        raise DataError(
            f"cannot prepare avazu in {place} ({files.os_reason(error)}): free some space or choose another data.root."
        ) from error
    log.info("prepared %s rows of avazu in %s", f"{len(made['click']):,}", duration(time.monotonic() - start))
    return made


def _convert(path: Path, columns: Mapping[str, IO[bytes]]) -> None:
    """Write the rows as Arrow streams."""
    with ExitStack() as stack:
        streams = ((name, pa.ipc.new_stream(file, pa.schema([SCHEMA.field(name)]))) for name, file in columns.items())
        writers = {name: stack.enter_context(writer) for name, writer in streams}
        for batch in read_batches(path):
            for name, writer in writers.items():
                writer.write_batch(batch.select([name]))


def _refuse_changed(path: Path, fingerprint: str) -> None:
    """Rows of other contents would be kept as those of the ones that the run looked at."""
    current = [find("avazu").fingerprint(path.parent, kind, verify=False) for kind in ("real", "synthetic")]
    if fingerprint not in current:
        raise DataError(
            f"{path} has changed since this run looked at its contents: wait until nothing writes to it any more, and "
            "start again."
        )


def _numbered(path: Path, columns: Mapping[str, IO[bytes]], min_count: int, hour: str) -> Tensors:
    clicks = _read(columns, "click").to_numpy().astype(np.uint8)
    rows = len(clicks)
    log.info("%s has %s rows (the whole of Avazu: %s)", path, f"{rows:,}", f"{find('avazu').files[0].examples:,}")
    member = split(rows)
    made = {f"rows {name}": np.flatnonzero(member == place).astype(np.int32) for place, name in enumerate(SPLITS)}
    if empty := [name for name in SPLITS if not len(made[f"rows {name}"])]:
        raise DataError(f"the {empty[0]} split has no rows, since {path} has only {rows:,}: use a file with more rows.")
    in_training = member == TRAIN
    fields = {name: _numbers(column, in_training, min_count) for name, column in _hour_fields(path, columns, hour)}
    by_size = sorted(FIELDS[1:], key=LARGE.count, reverse=True)
    others = {name: _numbers(_column(columns, name), in_training, min_count) for name in by_size}
    fields |= {name: others[name] for name in FIELDS[1:]}
    made |= {"click": clicks} | {f"field {name}": numbers for name, (numbers, _) in fields.items()}
    made["sizes"] = np.array([size for _, size in fields.values()])
    return {name: torch.from_numpy(array) for name, array in made.items()}


def _hour_fields(path: Path, columns: Mapping[str, IO[bytes]], hour: str) -> Iterator[tuple[str, Column]]:
    """The fields that are made of the hour."""
    hours = _column(columns, "hour")
    times = _times(path, hours)
    if hour == "value":
        yield "hour", hours
    else:
        for name, of_times in (("hour_of_day", [t.hour for t in times]), ("weekday", [t.weekday() for t in times])):
            values, value_of_time = np.unique(of_times, return_inverse=True)
            yield name, Column(values, [(value_of_time[listed], places) for listed, places in hours.chunks])


def _column(columns: Mapping[str, IO[bytes]], name: str) -> Column:
    chunks = _read(columns, name).chunks
    kind = pa.int64() if name in HEXADECIMAL else pa.int32()
    lists = pa.chunked_array([chunk.dictionary.view(kind) for chunk in chunks]).dictionary_encode().chunks
    values = lists[0].dictionary.to_numpy()  # which all lists have in common
    places = ((listed.indices, chunk.indices) for listed, chunk in zip(lists, chunks, strict=True))
    return Column(values, [(listed.to_numpy(), chunk.to_numpy()) for listed, chunk in places])


def _read(columns: Mapping[str, IO[bytes]], name: str) -> pa.ChunkedArray:
    columns[name].seek(0)
    return pa.ipc.open_stream(columns[name]).read_all()[name]


def _times(path: Path, hours: Column) -> list[datetime]:
    """The time of each of the different hours.

    Raises:
        DataError: an hour is not YYMMDDHH; names the first line that has it.
    """
    of_rows = hours.replaced(hours.values)
    back = np.flatnonzero(np.diff(of_rows) < 0)
    if len(back):  # the file can be used all the same, since no split depends on the time
        line = f"{back[0] + 3:,}"
        log.warning("%s: the hour goes back in line %s, so the file is not as it was published", path, line)
    times = []
    for hour in hours.values:
        try:
            times.append(datetime.strptime(f"{hour:08d}", "%y%m%d%H"))
        except ValueError as error:
            line = f"{(of_rows == hour).argmax() + 2:,}"
            raise fault(path, f"in line {line}: invalid value {hour} for hour, which must be YYMMDDHH") from error
    return times


def _numbers(column: Column, in_training: np.ndarray, min_count: int) -> tuple[np.ndarray, int]:
    """A field's numbers, and how many different ones there are.

    Args:
        column: the field.
        in_training: which rows to count, bool, shape (rows,).
        min_count: how often a value must occur among these to have a number of its own.
    """
    counts = np.zeros(len(column.values), np.int64)
    ends = np.cumsum([len(places) for _, places in column.chunks])
    for (listed, places), chosen in zip(column.chunks, np.split(in_training, ends[:-1]), strict=True):
        np.add.at(counts, listed, np.bincount(places[chosen], minlength=len(listed)))
    frequent = np.flatnonzero(counts >= min_count)
    size = 1 + len(frequent)
    kind = next(kind for kind in (np.uint8, np.int16, np.int32) if size - 1 <= np.iinfo(kind).max)
    numbers = np.full(len(counts), RARE, kind)
    numbers[frequent[column.values[frequent].argsort()]] = np.arange(1, size)
    return column.replaced(numbers), size
