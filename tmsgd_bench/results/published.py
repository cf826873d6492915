"""What a folder of published results says of itself: the command that makes each file (``published.yaml``)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, TypeVar

import yaml

from tmsgd_bench import files
from tmsgd_bench.checks import shown
from tmsgd_bench.errors import StoreError

NAME = "published.yaml"
KEYS = ("commands", "quoted", "slow", "not_derived")
FOLDER = "results"
"""The name of the folder in its commands."""
OF_THE_READER = ("runs", "demo")
"""Folders beside the published ones that hold a reader's own runs; git ignores them."""
COMMANDS = ("table", "compare", "claims", "targets", "tuned", "jumps", "figure", "report", "numerics")
"""The commands that may stand there: they read results, and write into one folder."""
OUTSIDE = (NAME, "README.md")
"""Files that nothing makes."""
EVIDENCE = ".parquet"
"""The ending of files of packed runs."""
Kind = TypeVar("Kind")


def is_of_the_reader(path: PurePath) -> bool:
    """Whether a path within the results is of a reader's own runs, or of what was made of some; or hidden."""
    top, *_ = path.parts
    folders = path.parts[:-1]
    return top in OF_THE_READER or top.startswith(".") or any(name.endswith("-out") for name in folders)


@dataclass(frozen=True)
class Command:
    """A command that makes something of the evidence.

    Args:
        line: as it stands in the file, behind ``python -m tmsgd_bench``.
        words: its arguments, patterns not yet replaced.
        file: where what it prints goes; None if it stays on the screen.
    """

    line: str
    words: tuple[str, ...]
    file: str | None = None

    @property
    def folder(self) -> str | None:
        """The folder that it writes into; None if it writes none."""
        return self.words[self.words.index("--out") + 1] if "--out" in self.words[:-1] else None

    @property
    def target(self) -> str:
        """The file or folder that it makes."""
        return self.file or self.folder or "nothing"

    @property
    def places(self) -> tuple[str, ...]:
        """The paths in it."""
        return tuple(word for word in (*self.words, self.file or "") if PurePosixPath(word).parts[:1] == (FOLDER,))


@dataclass(frozen=True)
class Published:
    """The contents of ``published.yaml``.

    Args:
        commands: each makes files of the evidence beside it; in this order.
        quoted: pages, and the commands whose printed tables stand in them.
        slow: commands that take longer than a check should.
        not_derived: files and folders that cannot be made again here, and what they need.
    """

    commands: tuple[Command, ...]
    quoted: Mapping[str, tuple[Command, ...]]
    slow: tuple[Command, ...]
    not_derived: Mapping[str, str]


def read(results: Path) -> Published:
    """What is published in a folder.

    Raises:
        StoreError: the folder has no ``published.yaml``, or one with other contents than it may have.
    """
    path = results / NAME
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _published(values)
    except FileNotFoundError:
        raise StoreError(
            f"there is no {NAME} in {results}, so nothing says what is published there: name the folder that has it."
        ) from None
    except OSError as error:
        raise files.unreadable(path, error) from error
    except (ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as error:
        raise StoreError(f"cannot use {path} ({files.os_reason(error)}): restore it, or correct it.") from error


def _published(values: Any) -> Published:
    if not isinstance(values, dict) or set(values) != set(KEYS):
        raise ValueError(f"it must have the keys {', '.join(KEYS)}")
    return Published(
        commands=_makers(values["commands"]),
        quoted=_quoted(values["quoted"]),
        slow=_makers(values["slow"]),
        not_derived=_reasons(values["not_derived"]),
    )


def _commands(lines: Any) -> tuple[Command, ...]:
    return tuple(map(command, _kind([] if lines is None else lines, list)))


def _makers(lines: Any) -> tuple[Command, ...]:
    """Commands that write files."""
    made = _commands(lines)
    for command in made:
        if command.folder is None and command.file is None:
            raise ValueError(f"{shown(command.line)} writes nothing: it needs --out FOLDER, or > FILE")
    return made


def _quoted(pages: Any) -> dict[str, tuple[Command, ...]]:
    return {_inside(page): _commands(lines) for page, lines in _kind({} if pages is None else pages, dict).items()}


def _reasons(places: Any) -> dict[str, str]:
    return {
        _inside(place): _kind(reason, str) for place, reason in _kind({} if places is None else places, dict).items()
    }


def command(line: Any) -> Command:
    """Read a command.

    Raises:
        ValueError: it is none of :data:`COMMANDS`, or names a path that leads out of the results.
    """
    words = tuple(shlex.split(_kind(line, str)))
    words, file = (words[:-2], _inside(words[-1])) if words[-2:-1] == (">",) else (words, None)
    if words[:1] not in [(name,) for name in COMMANDS]:
        raise ValueError(f"{shown(line)} begins with none of {', '.join(COMMANDS)}")
    for word in words:
        if "/" in word or "\\" in word or word == "..":
            _inside(word)
    made = Command(line, words, file)
    if made.folder is not None:
        _inside(made.folder)
    return made


def _inside(place: Any) -> str:
    """A path, if it is one in the results.

    Raises:
        ValueError: it is not.
    """
    parts = PurePosixPath(_kind(place, str)).parts
    if parts[:1] != (FOLDER,) or len(parts) < 2 or ".." in parts or "\\" in place:
        raise ValueError(f"{shown(place)} is no path in {FOLDER}/")
    return str(place)


def _kind(value: Any, kind: type[Kind]) -> Kind:
    if not isinstance(value, kind):
        raise ValueError(f"{shown(value)} is no {kind.__name__}")
    return value
