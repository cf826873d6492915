"""What ends a run early: Ctrl-C, SIGTERM and SIGHUP.

While a run trains, the first signal asks it to stop: it goes on to the end of its epoch, if that comes within
``GRACE_SECONDS``, and leaves a checkpoint; after its last epoch it publishes its result. The end of that time, or a
second signal, stops it at once. Where nothing trains, the first signal stops at once.
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
ASKED = b"\ninterrupted: stopping at the end of this epoch, or in 5 s; once more stops at once\n"


class Interrupted(KeyboardInterrupt):
    """A signal ended the work; it is no Exception, since nothing went wrong.

    Args:
        number: the signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)


@dataclass
class _State:
    """What this process knows of its interruption: the signal, what it does now, and what comes before the end."""

    asked: int | None = None
    training: bool = False
    finishing: bool = False
    timer: threading.Timer | None = None
    before: Callable[[], None] | None = None
    quiet: bool = False


_state = _State()


@contextmanager
def handled() -> Iterator[None]:
    """Within the block, signals end the work as described above; afterwards all is as it was before."""
    _forget()
    earlier = listen()
    try:
        yield
    finally:
        _forget()
        for number, handler in earlier.items():
            signal.signal(number, handler)


def listen() -> dict[int, Any]:
    """Take the signals over for good; returns the handlers that were there. Ignored ones stay ignored, as for nohup."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    ours = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    return {int(number): signal.signal(number, _handle) for number in ours}


def be_quiet() -> None:
    """A worker: its sweep's main process speaks for it."""
    _state.quiet = True


def before_end(action: Callable[[], None]) -> None:
    """What to do before this process is stopped by a signal, where it does not train itself."""
    _state.before = action


def ignore() -> None:
    """The end has begun: further signals are not to spoil it."""
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
    """What comes now is worth its time: an epoch is kept or, after the last one, the result is published."""
    _state.finishing = last
    _cancel()


def asked() -> bool:
    """Whether a signal has asked to stop."""
    return _state.asked is not None


def exit_code() -> int:
    """Of a process that ends for a signal, as a shell has it; where none was seen, for Ctrl-C."""
    return 128 + (_state.asked or signal.SIGINT)


def stop_if_asked() -> None:
    """Stop here, where all that is needed to go on has been kept.

    Raises:
        Interrupted: a signal has asked for it.
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
        with suppress(OSError):  # not by print: the signal may have come in the middle of one
            os.write(2, ASKED)


def _cancel() -> None:
    if _state.timer:
        _state.timer.cancel()


def _forget() -> None:
    global _state
    _cancel()
    _state = _State()
