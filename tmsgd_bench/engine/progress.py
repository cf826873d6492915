"""How a run reports while it trains: a bar on a terminal, plain log lines otherwise."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from tmsgd_bench.task import Metric

log = logging.getLogger(__name__)

LOG_SECONDS = 10.0
BAR_SECONDS = 0.5


class Reporter(Protocol):
    """Receives what happens in a run."""

    def step(self, epoch: int, step: int) -> bool:
        """Count one step; True asks for the current loss through ``show_loss``."""

    def show_loss(self, loss: float) -> None:
        """The mean loss of the running epoch."""

    def epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        """A finished epoch with its losses and metrics."""

    def close(self) -> None:
        """The run is over."""


class BarReporter:
    """One bar for the whole run, in optimizer steps."""

    def __init__(self, name: str, epochs: int, done: int, steps_per_epoch: int, metrics: tuple[Metric, ...]) -> None:
        self.metrics = metrics
        self.shown: dict[str, str] = {}
        self.next_loss = time.monotonic() + BAR_SECONDS
        total, initial = epochs * steps_per_epoch, done * steps_per_epoch
        self.bar = tqdm(
            total=total,
            initial=initial,
            desc=name,
            unit="step",
            mininterval=0.2,
            dynamic_ncols=True,
            smoothing=0.05,
        )

    def step(self, epoch: int, step: int) -> bool:
        self.bar.update()
        return time.monotonic() >= self.next_loss

    def show_loss(self, loss: float) -> None:
        self.next_loss = time.monotonic() + BAR_SECONDS
        self._show(loss=f"{loss:.4f}")

    def epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        primary = {m.name: f"{row[m.name]:.4g}{m.unit}" for m in self.metrics[:1] if m.name in row}
        self._show(epoch=str(epoch), **primary)

    def close(self) -> None:
        self.bar.close()

    def _show(self, **values: str) -> None:
        self.shown |= values
        self.bar.set_postfix(self.shown, refresh=False)


class LogReporter:
    """A log line for the first and last epoch, and in between at most one every ten seconds."""

    def __init__(self, name: str, epochs: int, done: int, steps_per_epoch: int, metrics: tuple[Metric, ...]) -> None:
        self.name, self.epochs = name, epochs
        self.metrics = [metric for metric in metrics if not metric.detail]
        self.seen, self.start, self.latest = 0, time.monotonic(), -LOG_SECONDS

    def step(self, epoch: int, step: int) -> bool:
        return False

    def show_loss(self, loss: float) -> None:
        """Log lines show whole epochs only."""

    def epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        now = time.monotonic() - self.start
        self.seen += 1  # epochs that came from a checkpoint or a trunk took no time here
        if now - self.latest < LOG_SECONDS and epoch + 1 < self.epochs:
            return
        self.latest = now
        left = now / self.seen * (self.epochs - epoch - 1)
        shown = [*(key for key in row if key.startswith("loss")), *(m.name for m in self.metrics if m.name in row)]
        numbers = " ".join(f"{key}={row[key]:.4g}" for key in shown)
        log.info("%s: epoch %d of %d, %s, %s left", self.name, epoch + 1, self.epochs, numbers, duration(left))

    def close(self) -> None:
        """Nothing is held open."""


def make_reporter(
    kind: str, name: str, epochs: int, done: int, steps_per_epoch: int, metrics: tuple[Metric, ...]
) -> Reporter:
    """The reporter for "bar", "log" or "auto"."""
    bar = kind == "bar" or (kind == "auto" and sys.stderr.isatty())
    return (BarReporter if bar else LogReporter)(name, epochs, done, steps_per_epoch, metrics)


def duration(seconds: float) -> str:
    """Seconds as a person says them.

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
    """A text stream whose failure loses what was to be written, and nothing else: a full disk, a reader that has gone.

    Args:
        stream: None where the shell has closed it.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = Path(os.devnull).open("w") if stream is None else stream  # noqa: SIM115  # open to the end

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write the text, or lose it."""
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what has been written, or lose it."""
        with suppress(OSError):
            self.stream.flush()

    def settle(self) -> None:
        """Flush for the last time; what cannot be written any more is thrown away, so that the exit code stays."""
        try:
            self.stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


def protect_streams() -> list[SafeStream]:
    """Put a :class:`SafeStream` in front of this process's standard streams, once."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, SafeStream):
            setattr(sys, name, SafeStream(stream))
    return [sys.stdout, sys.stderr]  # type: ignore[list-item]  # which they are by now


class ConsoleHandler(logging.Handler):
    """Log lines on the standard error stream, written so that a progress bar stays whole."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)
