"""Signals that end a run early: Ctrl-C, SIGTERM and SIGHUP.

While a run trains, the first signal asks it to stop at the end of its epoch. There it writes a checkpoint or, after its
last epoch, publishes its result. If the epoch does not end within ``GRACE_SECONDS``, or a second signal comes, the run
stops at once. A signal while nothing trains stops the process at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

GRACE_SECONDS = 5.0
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
ASKED = f"\ninterrupted: stopping at the end of this epoch, or in {GRACE_SECONDS:.0f} s; once more stops at once\n"


class Interrupted(KeyboardInterrupt):
    """A signal ended the work. It is not an Exception, because it is not an error.

    Args:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)


@dataclass
class _State:
    """The first signal of this process, what the process is doing, and what to do before it ends."""

    asked: int | None = None
    training: bool = False
    finishing: bool = False
    timer: threading.Timer | None = None
    before: Callable[[], None] | None = None
    quiet: bool = False


_state = _State()


@contextmanager
def handled() -> Iterator[None]:
    """Within the block, signals are handled as the module describes; afterwards the old handlers are back."""
    _forget()
    earlier = listen()
    try:
        yield
    finally:
        _forget()
        for number, handler in earlier.items():
            signal.signal(number, handler)


def listen() -> dict[int, Any]:
    """Handle the signals in this process; returns the old handlers. Ignored signals stay ignored, as with nohup."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    return {int(number): signal.signal(number, _handle) for number in numbers}


def be_quiet() -> None:
    """Print nothing for a signal: in a sweep only the main process prints, not the workers."""
    _state.quiet = True


def before_end(action: Callable[[], None]) -> None:
    """Call ``action`` before a signal stops this process, unless this process itself trains."""
    _state.before = action


def ignore() -> None:
    """Ignore further signals, so that they do not disturb the end of the process."""
    for number in SIGNALS:
        if signal.getsignal(number) is _handle:
            signal.signal(number, signal.SIG_IGN)


def training_begins() -> None:
    """From here on a signal waits for the end of the epoch."""
    _state.training = True


def training_is_over() -> None:
    """From here on a signal stops at once."""
    _state.training = _state.finishing = False
    _cancel()


def epoch_ended(last: bool) -> None:
    """From here on the process takes its time: it saves the epoch or, after the last one, publishes the result."""
    _state.finishing = last
    _cancel()


def asked() -> bool:
    """Whether a signal has asked to stop."""
    return _state.asked is not None


def exit_code() -> int:
    """The exit code of a process that a signal ended, 128 + its number; without a signal, that of Ctrl-C."""
    return 128 + (_state.asked or signal.SIGINT)


def stop_if_asked() -> None:
    """Stop here if a signal has asked for it; the caller has saved what it needs to go on.

    Raises:
        Interrupted: a signal has asked to stop.
    """
    if _state.asked is not None:
        raise Interrupted(_state.asked)


def _handle(number: int, _: FrameType | None) -> None:
    first = _state.asked is None
    _state.asked = _state.asked or number
    if first and _state.training:
        if not _state.finishing:
            _wait_for_the_epoch(number)
        return
    if first and _state.before:
        _state.before()
    raise Interrupted(_state.asked)


def _wait_for_the_epoch(number: int) -> None:
    _state.timer = threading.Timer(GRACE_SECONDS, os.kill, (os.getpid(), number))
    _state.timer.daemon = True
    _state.timer.start()
    if not _state.quiet:
        with suppress(OSError):  # not by print(), which the signal may have interrupted
            os.write(2, ASKED.encode())


def _cancel() -> None:
    if _state.timer:
        _state.timer.cancel()


def _forget() -> None:
    global _state
    _cancel()
    _state = _State()
