"""Avazu's text turned, once, into rows of numbers on the disk, in memory that does not grow with the file.

Two passes. The first parses blocks of text side by side; each block's columns are kept on the disk as places in the
block's own lists of values, and counted. The lists of all blocks then give the vocabulary of each field, and the second
pass translates places into rows of the embedding table. A preparation that was interrupted finds the blocks that it
has parsed.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from tasks.ctr.fields import Field, Tally, fields, numbers
from tasks.ctr.split import SPLITS, TRAIN, sizes_before, split
from tasks.ctr.text import FIELDS, Block, encode, fault, parse, read_blocks
from tmsgd_bench import files
from tmsgd_bench.data.catalog import find
from tmsgd_bench.data.sources import file_digest
from tmsgd_bench.data.texts import FOLDER
from tmsgd_bench.engine.progress import LOG_SECONDS, duration
from tmsgd_bench.errors import DataError, StoreError
from tmsgd_bench.task import TaskSettings

log = logging.getLogger(__name__)

VERSION = 1  # to be raised when what is kept changes
META = "rows.json"
CACHED = 4096
"""Rows that are written field by field before the next ones: they stay in the processor's cache."""
WORKERS = 8
"""Threads at most; each holds two blocks, about 100 MB."""
UNREADABLE = (zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError)
"""What reading a damaged part raises."""

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Part:
    """A parsed block, whose columns are kept on the disk.

    Args:
        path: where.
        first, rows: which rows of the file it holds.
        hours: its first and its last hour.
        backwards: the first of its rows whose hour is earlier than the one before; -1 if there is none.
    """

    path: Path
    first: int
    rows: int
    hours: tuple[int, int]
    backwards: int


def prepared(settings: TaskSettings, min_count: int, hour: str) -> Path:
    """The folder with the rows as numbers, made if it is not there yet.

    Two processes that need the same rows wait for each other.

    Args:
        settings: the run's; the folder lies beside the data folder.
        min_count: values that occur less often in the training split share one number per field.
        hour: see :func:`fields`.

    Raises:
        DataError: the file is missing or damaged, or the folder cannot be written.
    """
    options = {"version": VERSION, "fingerprint": settings.fingerprint}
    made = files.digest({**options, "min_count": min_count, "hour": hour})[:16]
    place = settings.data_folder.parent / FOLDER
    stem = f"{settings.data_folder.name}-rows"
    folder, parts = place / f"{stem}-{made}", place / f"{stem}-{files.digest(options)[:16]}.parts"
    if is_whole(folder):
        return folder
    try:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / f"{stem}.lock"):
            if not is_whole(folder):
                _prepare(find("avazu").files[0].path(settings.data_folder), parts, folder, min_count, fields(hour))
    except (OSError, StoreError) as error:
        raise DataError(
            f"cannot keep the rows of avazu in {place} ({files.os_reason(error)}): free some space or choose another "
            "data.root."
        ) from error
    return folder


def is_whole(folder: Path) -> bool:
    """Whether a folder holds prepared rows with the bytes that were written."""
    meta = files.read_json(folder / META)
    if meta is None:
        return False
    try:
        if all(file_digest(folder / name) == digest for name, digest in meta["sha256"].items()):
            return True
    except (OSError, KeyError, AttributeError):  # a file is gone, or what describes them is something else
        pass
    log.warning("%s is damaged and is made anew", folder)
    return False


def _prepare(path: Path, parts: Path, folder: Path, min_count: int, chosen: Sequence[Field]) -> None:
    start = time.monotonic()
    parts.mkdir(exist_ok=True)
    with ThreadPoolExecutor(_threads()) as pool:
        parsed, tallies = _parse_all(pool, path, parts, chosen)
        rows = parsed[-1].first + parsed[-1].rows
        log.info("%s has %s rows (the whole of Avazu: %s)", path, f"{rows:,}", f"{find('avazu').files[0].examples:,}")
        vocabularies = [tally.frequent(min_count) for tally in tallies]
        temporary = folder.with_name(f".{folder.name}.tmp")  # one process at a time, so a killed one's is found
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            _translate_all(pool, parsed, Translation(chosen, vocabularies, temporary))
            _describe(pool, temporary, rows, {f.name: 1 + len(v) for f, v in zip(chosen, vocabularies, strict=True)})
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(parts)
    spent = time.monotonic() - start
    log.info("prepared %s rows of avazu in %s, %s rows/s", f"{rows:,}", duration(spent), f"{rows / spent:,.0f}")


def _threads() -> int:
    return min(WORKERS, os.cpu_count() or 1)


class Progress:
    """A bar on a terminal, and a line now and then elsewhere; both say how much time is left."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.start, self.latest = what, total, time.monotonic(), time.monotonic()
        self.bar = tqdm(desc=what, total=total, unit="B", unit_scale=True, disable=not sys.stderr.isatty())

    def reach(self, done: int) -> None:
        """So much of the total is done."""
        self.bar.update(done - self.bar.n)
        now = time.monotonic()
        if self.bar.disable and done and now - self.latest >= LOG_SECONDS:
            self.latest = now
            left = (now - self.start) / done * (self.total - done)
            log.info("%s: %d %%, %s left", self.what, 100 * done // self.total, duration(left))

    def close(self) -> None:
        """It is over."""
        self.bar.close()


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Made], items: Iterable[Item]
) -> Iterator[tuple[Item, Made]]:
    """Items with what ``work`` makes of them, in their order; one more of them is held than there are threads."""
    ahead = _threads() + 1
    waiting: deque[tuple[Item, Future[Made]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()


# --- first pass: text into parts -----------------------------------------------------------------------------------


Lists = dict[str, tuple[np.ndarray, np.ndarray]]
"""The different values of each column, and how often each occurs in the training split."""


def _parse_all(
    pool: ThreadPoolExecutor, path: Path, folder: Path, chosen: Sequence[Field]
) -> tuple[list[Part], list[Tally]]:
    """All parts, and a tally for each field."""
    try:
        total = path.stat().st_size
    except OSError as error:
        raise fault(path, f"cannot be read ({error.strerror})") from error
    progress, found, tallies = Progress("reading avazu", total), [], [Tally() for _ in chosen]
    try:
        for block, (part, lists) in _in_order(pool, lambda block: _part(block, folder), read_blocks(path)):
            found.append(part)
            for field, tally in zip(chosen, tallies, strict=True):
                keys, counts = lists[field.column]
                trained = np.flatnonzero(counts)
                tally.add(field.key(keys[trained]), counts[trained])
            progress.reach(block.position)
    finally:
        progress.close()
    _warn_of_order(path, found)
    return found, tallies


def _part(block: Block, folder: Path) -> tuple[Part, Lists]:
    """A block's part: kept by an earlier attempt, or made and kept now."""
    path = folder / f"{block.name}.npz"
    if path.exists():
        return _load(path, block)
    arrays = _parsed(block)
    files.write_atomically(path, lambda temporary: _save(temporary, arrays))
    return _described(path, block, arrays)


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _load(path: Path, block: Block) -> tuple[Part, Lists]:
    try:
        with np.load(path) as kept:
            return _described(path, block, kept)
    except UNREADABLE as error:
        raise _damaged(path) from error


def _described(path: Path, block: Block, arrays: Mapping[str, np.ndarray]) -> tuple[Part, Lists]:
    first, last, backwards = arrays["hours"].tolist()
    lists = {name: (arrays[f"keys_{name}"], arrays[f"counts_{name}"]) for name in FIELDS}
    return Part(path, block.first, block.rows, (first, last), backwards), lists


def _damaged(path: Path) -> DataError:
    return DataError(f"{path}, left by an interrupted preparation, is damaged: delete {path.parent} and start again.")


def _parsed(block: Block) -> dict[str, np.ndarray]:
    """A block's columns as places in the list of its values, the lists, and their counts in the training split."""
    rows = parse(block)
    held_out = np.flatnonzero(split(block.first, block.rows) != TRAIN)  # fewer to gather than those for training
    made = {"clicks": rows.clicks}
    for name in FIELDS:
        places, keys = encode(rows.values[name])
        made[f"keys_{name}"] = keys
        counts = np.bincount(places) - np.bincount(places[held_out], minlength=len(keys))
        made[f"counts_{name}"] = counts.astype(np.int32)
        made[f"places_{name}"] = places.astype(np.min_scalar_type(len(keys) - 1))
    hours = made["keys_hour"][made["places_hour"]]
    back = (np.diff(hours) < 0).nonzero()[0]
    made["hours"] = np.array([hours[0], hours[-1], back[0] + 1 if len(back) else -1])
    return made


def _warn_of_order(path: Path, parts: Iterable[Part]) -> None:
    """The published file is in order of time; one that is not can be used, since no split depends on it."""
    latest = 0
    for part in parts:
        row = 0 if part.hours[0] < latest else part.backwards
        if row >= 0:
            line = part.first + row + 2
            log.warning("%s: the hour goes back in line %s, so the file is not as it was published", path, f"{line:,}")
            return
        latest = part.hours[1]


# --- second pass: parts into rows ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Translation:
    """From values to rows of the embedding table.

    Args:
        fields: the model's.
        vocabularies: the values of each that have a number of their own, sorted.
        folder: where the rows are written.
    """

    fields: Sequence[Field]
    vocabularies: Sequence[np.ndarray]
    folder: Path

    def ids(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """A part's ids (int32, shape (rows, fields)) and clicks (uint8, shape (rows,))."""
        columns, start = [], 0
        with np.load(part.path) as kept:
            for field, vocabulary in zip(self.fields, self.vocabularies, strict=True):
                table = numbers(vocabulary, field.key(kept[f"keys_{field.column}"])) + np.int32(start)
                columns.append((table, kept[f"places_{field.column}"]))
                start += 1 + len(vocabulary)
            clicks = kept["clicks"]
        ids = np.empty((part.rows, len(columns)), np.int32)
        for rows in (slice(first, first + CACHED) for first in range(0, part.rows, CACHED)):
            for place, (table, places) in enumerate(columns):
                ids[rows, place] = table[places[rows]]
        return ids, clicks

    def write(self, part: Part) -> None:
        """Write a part's rows where they belong in the files of the three splits."""
        try:
            ids, clicks = self.ids(part)
        except UNREADABLE as error:
            raise _damaged(part.path) from error
        member, before = split(part.first, part.rows), sizes_before(part.first)
        for number, name in enumerate(SPLITS):
            chosen = np.flatnonzero(member == number)
            _write_at(self.folder / f"{name}.ids", ids.take(chosen, axis=0), before[number])
            _write_at(self.folder / f"{name}.clicks", clicks[chosen], before[number])


def _translate_all(pool: ThreadPoolExecutor, parts: list[Part], translation: Translation) -> None:
    for name in SPLITS:
        for kind in ("ids", "clicks"):
            (translation.folder / f"{name}.{kind}").touch()
    width = 4 * len(translation.fields)  # bytes of a row
    progress = Progress("writing avazu", width * (parts[-1].first + parts[-1].rows))
    try:
        for part, _ in _in_order(pool, translation.write, parts):
            progress.reach(width * (part.first + part.rows))
    finally:
        progress.close()


def _write_at(path: Path, rows: np.ndarray, before: int) -> None:
    """Write rows behind those that come before, which another thread may write later."""
    with path.open("r+b") as file:
        file.seek(int(before) * rows.itemsize * int(np.prod(rows.shape[1:])))
        file.write(rows.data)


def _describe(pool: ThreadPoolExecutor, folder: Path, rows: int, sizes: Mapping[str, int]) -> None:
    paths = sorted(folder.iterdir())
    digests = dict(zip([path.name for path in paths], pool.map(file_digest, paths), strict=True))
    counts: dict[str, Any] = dict(zip(SPLITS, sizes_before(rows).tolist(), strict=True))
    files.write_json(folder / META, {"rows": counts, "sizes": dict(sizes), "sha256": digests})
