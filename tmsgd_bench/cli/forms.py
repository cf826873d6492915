"""Shared by the commands that print tables: ``--format``, and what is printed without it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from tmsgd_bench import terminal

Content = TypeVar("Content")
HINT = "--format md prints all columns."


def add(parser: argparse.ArgumentParser, forms: Mapping[str, object], default: str = "md") -> None:
    """Add ``--format`` for :func:`say`."""
    parser.add_argument(
        "--format",
        choices=tuple(forms),
        help=f"printed format (default: a drawn table in a terminal, {default} elsewhere)",
    )


def say(
    content: Content,
    forms: Mapping[str, Callable[[Content], str]],
    form: str | None,
    least: Sequence[str],
    default: str = "md",
    drawn: Callable[[Content], str] | None = None,
) -> None:
    """Print tables in the form that was asked for; without one, draw them in a terminal.

    Args:
        content: what the forms are made of.
        forms: by name.
        form: the name that was asked for, or None.
        least: the columns needed least in a terminal that is too narrow; see :func:`tmsgd_bench.drawing.render`.
        default: the form where the output is no terminal.
        drawn: makes the Markdown that is drawn; by default the form "md" does.
    """
    if form is None and terminal.is_drawn():
        terminal.show((drawn or forms["md"])(content), least, HINT)
    else:
        terminal.say(forms[form or default](content), end="")


def say_markdown(text: str, least: Sequence[str]) -> None:
    """Print tables in Markdown, drawn in a terminal, for a command without ``--format``.

    Args:
        text: with a line break at its end.
        least: as in :func:`say`.
    """
    if terminal.is_drawn():
        terminal.show(text, least)
    else:
        terminal.say(text, end="")
