"""Prints a command's output: only printable characters, and a clear error if the output cannot be written."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from tmsgd_bench import escaping
from tmsgd_bench.errors import OutputError
from tmsgd_bench.files import os_reason

if TYPE_CHECKING:
    from rich.text import Text

    from tmsgd_bench.drawing import Table


PLAIN = {"−": "-", "–": "-", "±": "+-", "“": '"', "”": '"', "’": "'", "…": "...", "×": "x", "λ": "lambda", "→": "->"}
"""For an output whose encoding has ASCII alone. Without its sign a number would be another."""


def prepare() -> None:
    """Replace characters that the output's encoding lacks by those of PLAIN, others by "?"."""
    codecs.register_error("plain", lambda error: (_plain(error), error.end))  # type: ignore[attr-defined]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="plain")


def _plain(error: UnicodeError) -> str:
    assert isinstance(error, UnicodeEncodeError)  # streams to write to raise no other
    return "".join(PLAIN.get(character, "?") for character in error.object[error.start : error.end])


def say(text: str, end: str = "\n") -> None:
    """Print a text of any origin, escaped for a terminal.

    Raises:
        OutputError: it cannot be written.
        BrokenPipeError: the reader of a pipe has ended.
    """
    _print(escaping.lines(text) + end)


def is_drawn() -> bool:
    """Whether the output is a terminal, which gets drawn tables; pipes and files get plain lines."""
    return sys.stdout is not None and sys.stdout.isatty()


def show(markdown: str, least: Sequence[str] = (), hint: str = "") -> None:
    """Draw a text in Markdown, whose tables have words and numbers of any origin, on the terminal.

    Args:
        markdown: with paragraphs, lists and tables.
        least, hint: see :func:`tmsgd_bench.drawing.render`.

    Raises:
        OutputError, BrokenPipeError: see :func:`say`.
    """
    from tmsgd_bench import drawing  # here, because only a terminal needs it

    _draw(drawing.parse(markdown), least, hint)


def show_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    styles: Mapping[str, str],
    least: Sequence[str] = (),
    hint: str = "",
) -> None:
    """Draw a table of texts of any origin on the terminal.

    Args:
        heads, rows, styles: see :func:`tmsgd_bench.drawing.table`.
        least, hint: see :func:`tmsgd_bench.drawing.render`.

    Raises:
        OutputError, BrokenPipeError: see :func:`say`.
    """
    from tmsgd_bench import drawing

    _draw([drawing.table(heads, rows, styles)], least, hint)


def _draw(blocks: Sequence[Text | Table], least: Sequence[str], hint: str) -> None:
    from rich.console import Console

    from tmsgd_bench import drawing

    _print(drawing.render(blocks, Console(file=sys.stdout), least, hint))


def _print(text: str) -> None:
    """Print a text that is safe for a terminal."""
    if sys.stdout is None:
        raise OutputError("cannot print: the output is closed.")
    try:
        print(text, end="")
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _failed(error) from error


def finish() -> None:
    """Flush the output.

    Raises:
        OutputError: it cannot be written.
        BrokenPipeError: the reader of a pipe has ended.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _failed(error) from error


def warn(text: str) -> None:
    """Print a text to stderr, if that is possible."""
    with suppress(OSError):
        print(escaping.lines(text), file=sys.stderr, flush=True)


def piped(main: Callable[[], int | None]) -> int:
    """Call a command and return its exit code.

    It is 0 also where the reader of the pipe (head, less) has ended, and 2 where the output cannot be written.
    """
    prepare()
    try:
        try:
            return main() or 0
        finally:
            finish()
    except BrokenPipeError:
        give_up()
        return 0
    except OutputError as error:
        give_up_if_broken()
        warn(f"error: {error}")
        return 2


def give_up_if_broken() -> None:
    """Call :func:`give_up` if the output cannot be flushed."""
    try:
        finish()
    except (OutputError, OSError):
        give_up()


def give_up() -> None:
    """Discard unwritten output, so that Python does not fail at exit when it flushes."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(error: OSError) -> OutputError:
    return OutputError(f"cannot print ({os_reason(error)}): free some space, or send the output to another place.")
