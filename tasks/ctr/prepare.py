"""Avazu's text turned, once, into rows of numbers on the disk, in memory that does not grow with the file.

Two passes. The first parses blocks of text side by side; each block's columns are kept on the disk as places in the
block's own lists of values, and counted. The lists of all blocks then give the vocabulary of each field, and the second
pass translates places into rows of the embedding table. A preparation that was interrupted finds the blocks that it
has parsed, and one with other options of the same text finds all of them: only the second pass is left.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from tasks.ctr.fields import Field, Tally, fields, numbers
from tasks.ctr.kept import META, PARTS, Rows, hold, hold_whole, tidy
from tasks.ctr.parts import VERSION as PARTS_VERSION
from tasks.ctr.parts import Columns, DamagedError, Lists, Part, Parts
from tasks.ctr.split import SPLITS, sizes_before
from tasks.ctr.text import fault, read_blocks
from tmsgd_bench import files
from tmsgd_bench.data import sealed
from tmsgd_bench.data.catalog import find
from tmsgd_bench.data.texts import FOLDER
from tmsgd_bench.engine.progress import LOG_SECONDS, duration
from tmsgd_bench.errors import DataError, StoreError
from tmsgd_bench.task import TaskSettings

log = logging.getLogger(__name__)

VERSION = 1  # to be raised when the rows change
CACHED = 4096
"""Rows that are written field by field before the next ones: they stay in the processor's cache."""
WORKERS = 8
"""Threads at most; each holds two blocks, about 100 MB."""

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Source:
    """The file that rows are made from.

    Args:
        path: where it lies.
        fingerprint: what identifies its contents.
    """

    path: Path
    fingerprint: str


def prepared(settings: TaskSettings, min_count: int, hour: str) -> Rows:
    """The rows as numbers, made if they are not there yet; they are kept as long as what is returned is held.

    Two processes that need the same rows wait for each other. What others than the ones used last need is deleted (see
    :func:`tasks.ctr.kept.tidy`).

    Args:
        settings: the run's; the rows lie beside the data folder.
        min_count: values that occur less often in the training split share one number per field.
        hour: see :func:`fields`.

    Raises:
        DataError: the file is missing, damaged, has changed, or is so small that a split has no rows; or the folder
            cannot be written.
    """
    avazu = find("avazu")
    source = Source(
        avazu.files[0].path(settings.data_folder),
        settings.fingerprint or avazu.fingerprint(settings.data_folder, "real", verify=False),
    )
    made = {"version": VERSION, "fingerprint": source.fingerprint, "min_count": min_count, "hour": hour}
    parsed = {"version": PARTS_VERSION, "fingerprint": source.fingerprint}
    place = settings.data_folder.parent / FOLDER
    stem = f"{settings.data_folder.name}-rows"
    folder, parts = place / f"{stem}-{files.digest(made)[:16]}", place / f"{stem}-{files.digest(parsed)[:16]}{PARTS}"
    if (rows := hold_whole(folder)) is not None:
        return rows
    try:
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / f"{stem}.lock"):
            if (rows := hold_whole(folder)) is None:
                _make(source, Parts(parts), folder, min_count, fields(hour))
                rows = hold(folder)
                tidy(place, stem, parts)
    except (OSError, StoreError) as error:
        raise DataError(
            f"cannot keep the rows of avazu in {place} ({files.os_reason(error)}): free some space or choose another "
            "data.root."
        ) from error
    return rows


def _make(source: Source, parts: Parts, folder: Path, min_count: int, chosen: Sequence[Field]) -> None:
    """Make the rows; parts that turn out to be damaged are parsed again, once."""
    if folder.exists():
        log.warning("%s is damaged and is made anew", folder)
    parts.folder.mkdir(exist_ok=True)
    try:
        _prepare(source, parts, folder, min_count, chosen)
    except DamagedError as damage:
        log.warning("%s and is made anew", damage)
        parts.forget()
        try:
            _prepare(source, parts, folder, min_count, chosen)
        except DamagedError as error:
            raise DataError(
                f"{error} as soon as it is written: check the disk, or choose another data.root."
            ) from error


def _prepare(source: Source, parts: Parts, folder: Path, min_count: int, chosen: Sequence[Field]) -> None:
    start = time.monotonic()
    with ThreadPoolExecutor(_threads()) as pool:
        tallies = [Tally() for _ in chosen]
        parsed = _counted(pool, source, parts, chosen, tallies)
        rows = parsed[-1].first + parsed[-1].rows
        log.info(
            "%s has %s rows (the whole of Avazu: %s)", source.path, f"{rows:,}", f"{find('avazu').files[0].examples:,}"
        )
        _check_splits(source.path, rows)
        vocabularies = list(pool.map(lambda tally: tally.frequent(min_count), tallies))
        temporary = folder.with_name(f".{folder.name}.tmp")  # one process at a time, so a killed one's is found
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            digests = _translate_all(pool, parsed, Translation(chosen, vocabularies, parts, temporary))
            sizes = {field.name: 1 + len(own) for field, own in zip(chosen, vocabularies, strict=True)}
            _describe(temporary, rows, sizes, digests)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    spent = time.monotonic() - start
    log.info("prepared %s rows of avazu in %s, %s rows/s", f"{rows:,}", duration(spent), f"{rows / spent:,.0f}")


def _check_splits(path: Path, rows: int) -> None:
    """Refuse a file too small to be of use, before anything that was prepared from another one makes way for it."""
    for name, size in zip(SPLITS, sizes_before(rows), strict=True):
        if not size:
            raise DataError(f"the {name} split has no rows, since {path} has only {rows:,}: use a file with more rows.")


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
) -> Generator[tuple[Item, Made], None, None]:
    """Items with what ``work`` makes of them, in their order; two more of them are held than there are threads, so that
    these have work while the caller is busy with what it got."""
    ahead = _threads() + 2
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


def _counted(
    pool: ThreadPoolExecutor, source: Source, parts: Parts, chosen: Sequence[Field], tallies: Sequence[Tally]
) -> list[Part]:
    """All parts, whose values are added to the tally of each field."""
    found = []
    known = parts.known()
    pairs = _parse_all(pool, source, parts) if known is None else _in_order(pool, parts.lists, known)
    with closing(pairs):
        for part, lists in pairs:
            found.append(part)
            for field, tally in zip(chosen, tallies, strict=True):
                keys, counts = lists[field.column]
                trained = np.flatnonzero(counts)
                tally.add(field.key(keys[trained]), counts[trained])
    _warn_of_order(source.path, found)
    return found


def _parse_all(pool: ThreadPoolExecutor, source: Source, parts: Parts) -> Generator[tuple[Part, Lists], None, None]:
    """Every part with its values, in the order of the file, which must be the one it was when the run began."""
    before = _state(source)
    progress, found = Progress("reading avazu", before.st_size), list[Part]()
    try:
        for block, (part, lists) in _in_order(pool, parts.make, read_blocks(source.path)):
            found.append(part)
            yield part, lists
            progress.reach(block.position)
    finally:
        progress.close()
    if any(getattr(before, key) != getattr(source.path.stat(), key) for key in ("st_ino", "st_size", "st_mtime_ns")):
        raise _changed(source)
    parts.complete(found)


def _state(source: Source) -> os.stat_result:
    """The file's size and time of change, of the contents that the fingerprint is of; the stand-in's is of none."""
    avazu, folder = find("avazu"), source.path.parent
    try:
        state = source.path.stat()
    except OSError as error:
        raise fault(source.path, f"cannot be read ({error.strerror})") from error
    if source.fingerprint == avazu.fingerprint(folder, "synthetic", verify=False):
        return state
    if source.fingerprint != avazu.fingerprint(folder, "real", verify=False):  # read again only if it has changed
        raise _changed(source)
    return state


def _changed(source: Source) -> DataError:
    return DataError(
        f"{source.path} has changed since this run looked at its contents: wait until nothing writes to it any more, "
        "and start again."
    )


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
        parts: where the values are.
        folder: where the rows are written.
    """

    fields: Sequence[Field]
    vocabularies: Sequence[np.ndarray]
    parts: Parts
    folder: Path

    def write(self, part: Part) -> dict[str, np.ndarray]:
        """Write a part's rows where they belong in the files of the three splits, and return what was written into
        each: ids (int32, shape (rows, fields)) and clicks (uint8, shape (rows,))."""
        kept, written = self.parts.columns(part), {}
        before, behind = sizes_before(part.first), sizes_before(part.first + part.rows)
        ends = (behind - before).cumsum()[:-1]
        for kind, rows in (("ids", self._ids(kept)), ("clicks", kept.clicks)):
            for number, own in enumerate(np.split(rows, ends)):
                name = f"{SPLITS[number]}.{kind}"
                _write_at(self.folder / name, own, before[number])
                written[name] = own
        return written

    def _ids(self, kept: Columns) -> np.ndarray:
        columns, start = [], 0
        for field, vocabulary in zip(self.fields, self.vocabularies, strict=True):
            places, keys = kept.values[field.column]
            columns.append((numbers(vocabulary, field.key(keys)) + np.int32(start), places))
            start += 1 + len(vocabulary)
        ids = np.empty((len(kept.clicks), len(columns)), np.int32)
        for first in range(0, len(ids), CACHED):
            for column, (table, places) in enumerate(columns):
                ids[first : first + CACHED, column] = table.take(places[first : first + CACHED])
        return ids


def _translate_all(pool: ThreadPoolExecutor, parts: list[Part], translation: Translation) -> dict[str, str]:
    """Write all rows; returns the digest of every file."""
    digests = {f"{name}.{kind}": hashlib.sha256() for name in SPLITS for kind in ("ids", "clicks")}
    for name in digests:
        (translation.folder / name).touch()
    width = 4 * len(translation.fields)  # bytes of a row
    progress = Progress("writing avazu", width * (parts[-1].first + parts[-1].rows))
    try:
        for part, written in _in_order(pool, translation.write, parts):
            for name, rows in written.items():
                digests[name].update(rows.ravel().data)
            progress.reach(width * (part.first + part.rows))
    finally:
        progress.close()
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _write_at(path: Path, rows: np.ndarray, before: int) -> None:
    """Write rows behind those that come before, which another thread may write later."""
    with path.open("r+b") as file:
        file.seek(int(before) * rows.itemsize * int(np.prod(rows.shape[1:])))
        file.write(rows.data)


def _describe(folder: Path, rows: int, sizes: Mapping[str, int], digests: Mapping[str, str]) -> None:
    counts: dict[str, Any] = dict(zip(SPLITS, sizes_before(rows).tolist(), strict=True))
    digests = dict(sorted(digests.items()))
    sealed.write_record(folder / META, {"rows": counts, "sizes": dict(sizes), "sha256": digests})
