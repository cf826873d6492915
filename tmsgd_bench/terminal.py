"""What a command says: only characters that show, and an error of the output is told as what it is."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from tmsgd_bench import escaping
from tmsgd_bench.errors import OutputError
from tmsgd_bench.files import os_reason


def prepare() -> None:
    """Let characters that the output cannot show be replaced by "?"."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def say(text: str, end: str = "\n") -> None:
    """Print a text of any origin.

    Raises:
        OutputError: it cannot be written.
        BrokenPipeError: nobody reads it any more.
    """
    if sys.stdout is None:
        raise OutputError("cannot print: the output is closed.")
    try:
        print(escaping.lines(text), end=end)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _failed(error) from error


def finish() -> None:
    """Write what is still kept back.

    Raises:
        OutputError: it cannot be written.
        BrokenPipeError: nobody reads it any more.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _failed(error) from error


def warn(text: str) -> None:
    """Say something on stderr, if that is possible."""
    with suppress(OSError):
        print(escaping.lines(text), file=sys.stderr, flush=True)


def give_up_if_broken() -> None:
    """:func:`give_up`, if nothing can be written any more."""
    try:
        finish()
    except (OutputError, OSError):
        give_up()


def give_up() -> None:
    """Throw away what cannot be written, so that Python does not try once more at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(error: OSError) -> OutputError:
    return OutputError(f"cannot print ({os_reason(error)}): free some space, or send the output to another place.")
