"""A sweep on a terminal: a line for each run that trains, and one for the whole sweep.

The workers write where they are into small files of the sweep's folder, and their log lines into one more. A thread of
the main process reads them and draws. Without a terminal, or with ``progress=log``, workers print log lines.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tmsgd_bench import escaping, files
from tmsgd_bench.engine import plan
from tmsgd_bench.engine.progress import LINES, SCREEN, duration
from tmsgd_bench.engine.sweep import SweepCallback, job_file
from tmsgd_bench.results.status import Status

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

log = logging.getLogger(__name__)

DRAW_SECONDS = 0.5
GAP, SHORTEST_NAME = 2, 12
COLUMNS = ((0, 1, 2, 3, 4), (0, 1, 2, 4), (0, 1, 4), (0, 4))
"""Of a run's cells, those that are shown: the first of these that fit the terminal."""
CALIBRATED = 0.1
"""From this share of the work on, the time left follows from the sweep's own speed, and not from recorded runs."""
OVER = (Status.DONE, Status.SKIPPED, Status.DIVERGED, Status.FAILED, Status.BUSY)


@dataclass
class SweepScreen:
    """What the screen shows of a sweep.

    Args:
        place: the sweep's folder.
        numbers: of the sweep's jobs.
        at_once: how many train at a time.
        seconds: tells what each run that is to be trained takes, by its name, by recorded runs; NaN where unknown.
    """

    place: Path
    numbers: range
    at_once: int
    seconds: Callable[[], Mapping[str, float]] = dict

    def __post_init__(self) -> None:
        self.began, self.read_to = time.monotonic(), 0
        self.live: dict[int, dict[str, Any]] = {}
        self.names: dict[int, str] = {}  # of the runs that have trained, by their jobs
        self.trouble: Exception | None = None
        self.work: dict[str, float] | None = None

    def new_lines(self) -> list[str]:
        """The log lines that the workers have written since the last call."""
        try:
            with (self.place / LINES).open("rb") as file:
                file.seek(self.read_to)
                data = file.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.read_to += len(whole)
        return [escaping.lines(line) for line in whole.decode("utf-8", errors="replace").splitlines()]

    def rows(self) -> tuple[list[tuple[str, ...]], str]:
        """The cells of a line for each run that trains, and the line of the sweep."""
        states = {number: files.read_json(job_file(self.place, number)) or {} for number in self.numbers}
        over = {number: state for number, state in states.items() if state.get("status") in OVER}
        started = {number: state for number, state in states.items() if state.get("pid")}
        running = {number: state for number, state in started.items() if state.get("status") == Status.UNFINISHED}
        # A failed job's file does not name its run.
        names = {str(state.get("run_id") or self.names.get(number)) for number, state in over.items()}
        lives = [self._live(int(state["pid"]), names) for state in running.values()]
        self.names |= {number: live["run_id"] for number, live in zip(running, lives, strict=True) if live}
        common = set[str]().union(*(state.get("overrides", ()) for state in states.values()))
        common = common.intersection(*(state.get("overrides", ()) for state in states.values()))
        rows = [self._row(state, live, common) for state, live in zip(running.values(), lives, strict=True)]
        left = self._left(names, lives)
        total = f"sweep: {len(over)} of {len(self.numbers)} runs, {self.at_once} at a time"
        return rows, total if left is None else f"{total}, {duration(left)} left"

    def _live(self, pid: int, over: set[str]) -> dict[str, Any]:
        """Where a worker is, or was when its file could last be read; empty before its next run begins."""
        if known := files.read_json(self.place / f"live-{pid}.json"):
            self.live[pid] = known
        known = self.live.get(pid, {})  # between the end of training and the result there is no file
        return {} if known.get("run_id") in over else known

    def _row(self, state: Mapping[str, Any], live: Mapping[str, Any], common: set[str]) -> tuple[str, ...]:
        """The cells of a run; before it has a name, the settings in which it differs from others stand for it."""
        if not live:
            overrides = [override for override in state.get("overrides", ()) if override not in common]
            return escaping.plain(" ".join(overrides)), "begins", "", "", ""
        speed, left = live.get("steps_per_second"), live.get("seconds_left")
        return (
            escaping.plain(str(live["run_id"])),
            f"epoch {live['epoch']} of {live['epochs']}",
            escaping.plain(str(live["metric"])),
            f"{speed:.3g} steps/s" if speed else "",
            f"{duration(left)} left" if left is not None else "waits or begins",
        )

    def _left(self, over: set[str], lives: Sequence[Mapping[str, Any]]) -> float | None:
        """Seconds until the end of the sweep; None if nothing tells it yet."""
        if self.work is None:  # not before the first drawing: to read the stores takes a moment
            self.work = dict(self.seconds())
        known = [seconds for seconds in self.work.values() if not math.isnan(seconds)]
        typical = sum(known) / len(known) if known else 1.0
        work = {name: typical if math.isnan(seconds) else seconds for name, seconds in self.work.items()}
        total = sum(work.values())
        done = sum(seconds for name, seconds in work.items() if name in over)
        done += sum(work.get(str(live.get("run_id")), 0.0) * live.get("share", 0.0) for live in lives if live)
        if total <= 0:
            return None
        longest = max((live["seconds_left"] for live in lives if live.get("seconds_left") is not None), default=0.0)
        if done >= CALIBRATED * total:
            return max(longest, (time.monotonic() - self.began) * (total - done) / done)
        return max(longest, (total - done) / self.at_once) if known else None

    def drawn(self, width: int) -> RenderableType:
        """The lines, for rich, in so many columns of characters: names are shortened first, then cells left out."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        rows, total = self.rows()
        table = Table.grid(padding=(0, GAP))
        for row in _fitting(rows, width):
            table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
        return Group(table, Text(total, style="bold"))


def _fitting(rows: Sequence[tuple[str, ...]], width: int) -> list[tuple[str, ...]]:
    """The cells that have room, with shortened names."""
    needed = [max((len(row[column]) for row in rows), default=0) + GAP for column in range(5)]
    room = {columns: width - sum(needed[column] for column in columns[1:]) for columns in COLUMNS}
    columns = next((columns for columns in COLUMNS if room[columns] >= SHORTEST_NAME), COLUMNS[-1])
    longest = max(SHORTEST_NAME, room[columns])
    names = [row[0] if len(row[0]) <= longest else f"{row[0][: longest - 1]}…" for row in rows]
    return [(name, *(row[column] for column in columns[1:])) for name, row in zip(names, rows, strict=True)]


def if_wanted(progress: object, numbers: range, at_once: int) -> AbstractContextManager[None]:
    """A screen for the jobs of a sweep while the block runs, where there is a terminal and nothing else was asked for.

    Args:
        progress: the setting; only with "auto" there is a screen.
        numbers: of the jobs.
        at_once: how many train at a time.
    """
    place = SweepCallback.folder
    if progress != "auto" or place is None or not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    runs = plan.runs_of(SweepCallback.jobs)
    return shown(SweepScreen(place, numbers, at_once, lambda: plan.seconds_left(runs)), Console(stderr=True))


@contextmanager
def shown(screen: SweepScreen, console: Console) -> Iterator[None]:
    """Draw a sweep while the block runs; the workers that it starts write for it."""
    from rich.live import Live

    stopped = threading.Event()

    def draw(live: Live) -> None:
        while not stopped.wait(DRAW_SECONDS):
            _draw_once(screen, live)

    os.environ[SCREEN] = f"{os.getpid()}:{screen.place}"
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            thread = threading.Thread(target=draw, args=(live,), daemon=True)
            thread.start()
            try:
                yield
            finally:
                stopped.set()
                thread.join()
                _draw_once(screen, live)
    finally:
        del os.environ[SCREEN]
        if screen.trouble is not None:
            log.warning("the sweep's screen stopped (%s); the runs were not affected", screen.trouble)


def _draw_once(screen: SweepScreen, live: Any) -> None:
    from rich.text import Text

    if screen.trouble is not None:
        return
    try:
        for line in screen.new_lines():
            live.console.print(Text(line), soft_wrap=True)
        live.update(screen.drawn(live.console.width), refresh=True)
    except Exception as error:  # whatever it is, it must not end the sweep
        screen.trouble = error
