"""How a run reports while it trains: a bar on a terminal, plain log lines otherwise, or to its sweep's screen."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from tmsgd_bench import escaping, files
from tmsgd_bench.engine.observers import Observer, Row

if TYPE_CHECKING:
    from tmsgd_bench.engine.loop import LossRecord, Trainer

log = logging.getLogger(__name__)
Item = TypeVar("Item")

LOG_SECONDS = 10.0
PREPARATION_SECONDS = 30.0
BAR_SECONDS = 0.5
LIVE_SECONDS = 1.0
SCREEN = "TMSGD_SWEEP_SCREEN"
"""The environment variable that tells workers of their sweep's screen: the main process's number, and the folder."""
LINES = "lines"
"""The file in the sweep's folder with the workers' log lines, for the screen."""


class BarReporter(Observer):
    """One bar for the whole run, in optimizer steps."""

    def start(self, trainer: Trainer) -> None:
        per_epoch = trainer.task.steps_per_epoch
        self.shown: dict[str, str] = {}
        self.next_loss = time.monotonic() + BAR_SECONDS
        self.bar = tqdm(
            total=trainer.spec.epochs * per_epoch,
            initial=trainer.epoch * per_epoch,
            desc=trainer.spec.run_id,
            unit="step",
            mininterval=0.2,
            dynamic_ncols=True,
            smoothing=0.05,
        )

    def step(self, trainer: Trainer, losses: LossRecord) -> None:
        self.bar.update()
        if time.monotonic() >= self.next_loss:
            self.next_loss = time.monotonic() + BAR_SECONDS
            self._show(loss=f"{losses.mean():.4f}")

    def epoch(self, trainer: Trainer, row: Row) -> None:
        self.bar.n = trainer.epoch * trainer.task.steps_per_epoch  # other runs may have trained some of them
        primary = trainer.task.metrics[0]
        shown = {primary.name: f"{row[primary.name]:.4g}{primary.unit}"} if primary.name in row else {}
        self._show(epoch=str(int(row["epoch"])), **shown)

    def end(self, trainer: Trainer, error: BaseException | None) -> None:
        self.bar.close()

    def _show(self, **values: str) -> None:
        self.shown |= values
        self.bar.set_postfix(self.shown, refresh=False)


class LogReporter(Observer):
    """A log line for the first and last epoch, and in between at most one every ten seconds."""

    def start(self, trainer: Trainer) -> None:
        self.began, self.latest = time.monotonic(), -LOG_SECONDS

    def epoch(self, trainer: Trainer, row: Row) -> None:
        now = time.monotonic() - self.began
        if now - self.latest < LOG_SECONDS and not trainer.finished:
            return
        self.latest = now
        spec, metrics = trainer.spec, [metric.name for metric in trainer.task.metrics if not metric.detail]
        left = now / trainer.trained_here * (spec.epochs - trainer.epoch)  # shared epochs took no time in this process
        shown = [*(key for key in row if key.startswith("loss")), *(name for name in metrics if name in row)]
        numbers = " ".join(f"{key}={row[key]:.4g}" for key in shown)
        log.info("%s: epoch %d of %d, %s, %s left", spec.run_id, trainer.epoch, spec.epochs, numbers, duration(left))


class LiveReporter(Observer):
    """Writes a run's progress for the screen, at most once a second.

    Args:
        place: the sweep's folder.
    """

    def __init__(self, place: Path) -> None:
        self.path = place / f"live-{os.getpid()}.json"
        self.metric, self.written = "", -math.inf

    def start(self, trainer: Trainer) -> None:
        self.began, self.steps = time.monotonic(), 0
        self._write(trainer)

    def step(self, trainer: Trainer, losses: LossRecord) -> None:
        self.steps += 1
        if time.monotonic() - self.written >= LIVE_SECONDS:
            self._write(trainer)

    def epoch(self, trainer: Trainer, row: Row) -> None:
        primary = trainer.task.metrics[0]
        if primary.name in row:
            self.metric = f"{primary.label or primary.name} {row[primary.name]:.4g}{primary.unit}"

    def end(self, trainer: Trainer, error: BaseException | None) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _write(self, trainer: Trainer) -> None:
        self.written = time.monotonic()
        per_epoch, seconds = trainer.task.steps_per_epoch, self.written - self.began
        within = (self.steps - trainer.trained_here * per_epoch) / per_epoch  # shared epochs took no steps here
        here = trainer.trained_here + max(0.0, within)
        left = trainer.spec.epochs - trainer.epoch - max(0.0, within)
        values = {
            "run_id": trainer.spec.run_id,
            "epoch": trainer.epoch,
            "epochs": trainer.spec.epochs,
            "metric": self.metric,
            "steps_per_second": self.steps / seconds if self.steps and seconds > 0 else None,
            "share": 1.0 - left / trainer.spec.epochs,
            "seconds_left": seconds / here * left if here > 0 else None,
        }
        with suppress(OSError):  # a full disk ends the run only if a checkpoint cannot be written
            self.path.write_text(files.json_text(values), encoding="utf-8")


def screen_folder() -> Path | None:
    """The sweep's folder, in a worker of a sweep that has a screen; None elsewhere."""
    number, _, path = os.environ.get(SCREEN, "").partition(":")
    return Path(path) if path and number != str(os.getpid()) else None


def make_reporter(kind: str) -> Observer:
    """The reporter for "bar", "log" or "auto"; in a worker whose sweep has a screen, that which writes for it."""
    if (place := screen_folder()) is not None:
        return LiveReporter(place)
    bar = kind == "bar" or (kind == "auto" and sys.stderr.isatty())
    return BarReporter() if bar else LogReporter()


def counted(items: Iterable[Item], total: int, what: str, unit: str) -> Iterator[Item]:
    """The items of some work before training, with its progress: a bar on a terminal, or log lines.

    On the screen of a sweep there are log lines, too: its workers share one terminal.

    Args:
        items: one for each piece of work.
        total: how many there are.
        what: the work, in a word or two.
        unit: what an item is; its plural has an s.
    """
    if sys.stderr.isatty() and screen_folder() is None:
        yield from tqdm(items, desc=what, total=total, unit=unit, dynamic_ncols=True)
        return
    began = latest = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - latest >= PREPARATION_SECONDS and done < total:
            latest = now
            left = duration((now - began) / done * (total - done))
            log.info("%s: %d of %d %ss, %s left", what, done, total, unit, left)


def duration(seconds: float) -> str:
    """A time in words.

    Example:
        >>> duration(42.4), duration(125), duration(7260)
        ('42 s', '2 min 05 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class SafeStream:
    """A text stream that ignores errors of writing, such as a full disk or a closed pipe; the text is lost then.

    Args:
        stream: None if the shell has closed it.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = Path(os.devnull).open("w") if stream is None else stream  # noqa: SIM115  # open to the end

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write the text, if that is possible."""
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if that is possible."""
        with suppress(OSError):
            self.stream.flush()

    def settle(self) -> None:
        """Flush for the last time.

        Text that cannot be written is thrown away: Python would try again at exit, fail, and change the exit code.
        """
        try:
            self.stream.flush()
        except OSError:
            null_device = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null_device, self.stream.fileno())
            os.close(null_device)


def protect_streams() -> list[SafeStream]:
    """Put a :class:`SafeStream` in front of this process's standard streams, once."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, SafeStream):
            setattr(sys, name, SafeStream(stream))
    return [sys.stdout, sys.stderr]  # type: ignore[list-item]  # both are SafeStreams now


class ConsoleHandler(logging.Handler):
    """Log lines on the standard error stream, or for the sweep's screen, written so that bars stay whole."""

    def emit(self, record: logging.LogRecord) -> None:
        line = escaping.lines(self.format(record))
        if (place := screen_folder()) is None:
            tqdm.write(line, file=sys.stderr)
            return
        with suppress(OSError), (place / LINES).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
