"""``verify``: makes everything that is published again from its evidence, and compares."""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tmsgd_bench import escaping, files, manifest, terminal
from tmsgd_bench.errors import BenchError, ConfigError, StoreError
from tmsgd_bench.results import published
from tmsgd_bench.results.differences import first_difference, without_drawings
from tmsgd_bench.results.published import FOLDER, Command

Parsers = Mapping[str, argparse.ArgumentParser]
TEXTS = (".csv", ".md", ".tex", ".html")
"""The endings of files that are compared. Pictures are not: their numbers are in a table or CSV file beside them."""


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "verify",
        help="make published tables, figures' numbers, claims and the report again from their evidence, and compare",
        description="Runs every command of RESULTS/published.yaml in a copy of the evidence, and compares what it "
        "makes with what is published there. Prints a line for each file that differs, with the first difference, and "
        "then returns 1. Nothing published is changed without --write.",
    )
    parser.add_argument(
        "results",
        type=Path,
        nargs="?",
        default=Path(FOLDER),
        metavar="RESULTS",
        help="the folder with what is published (default: results)",
    )
    parser.add_argument("--slow", action="store_true", help="also what takes longer than seconds")
    parser.add_argument("--write", action="store_true", help="make the published files anew, in place of comparing")
    parser.set_defaults(action=partial(verify, commands.choices))


def verify(parsers: Parsers, options: argparse.Namespace) -> int:
    """Make everything again and compare; returns 1 if anything differs.

    Args:
        parsers: of the program's commands, by their names.
        options: of this command.
    """
    record = published.read(options.results)
    commands = (*record.commands, *(record.slow if options.slow else ()))
    if options.write:
        return _write(parsers, options.results, commands)
    with tempfile.TemporaryDirectory() as place:
        check = Check(parsers, options.results.resolve(), Path(place).resolve())
        check.copy(record)
        for command in commands:
            check.command(command)
        for page, quoted in record.quoted.items():
            check.page(page, quoted)
    reasons = {} if options.slow else {command.target: "takes long: add --slow" for command in record.slow}
    left = check.rest({**reasons, **record.not_derived})
    return _report(check, left)


def _report(check: Check, left: Mapping[str, str]) -> int:
    for place, reason in left.items():
        terminal.say(escaping.plain(f"not re-derived: {place}: {reason}"))
    for name, difference in check.differing.items():
        terminal.say(escaping.plain(f"DIFFERS: {name}: {difference}"))
    files_made = check.compared | set(check.differing)
    same = len(files_made) - len(check.differing)
    terminal.say(f"{same} of {len(files_made)} files are as their evidence gives them.")
    return 1 if check.differing else 0


def _write(parsers: Parsers, results: Path, commands: tuple[Command, ...]) -> int:
    """Run the commands where the results are published.

    Raises:
        ConfigError: the folder has another name than it has in the commands.
        BenchError: a command refuses to write.
    """
    root = results.resolve()
    if root.name != FOLDER:
        raise ConfigError(f"the commands write into {FOLDER}, not into {results}: give the folder that name first.")
    with chdir(root.parent):
        for command in commands:
            text = _run(parsers, command)
            if command.file:
                files.write_text(Path(command.file), text)
            terminal.say(f"Written: {command.target}.")
    return 0


def _run(parsers: Parsers, command: Command, force: bool = False) -> str:
    """What a command prints. It runs in the current folder.

    Args:
        force: delete runs that are in no other folder.

    Raises:
        BenchError: the command refuses.
        ConfigError: its options are not those that it has.
    """
    name, *words = [word for pattern in command.words for word in _matching(pattern)]
    try:
        options = parsers[name].parse_args(words)
    except SystemExit:
        raise ConfigError(f"'{command.line}' cannot be read as a command: correct it in {published.NAME}.") from None
    if force and hasattr(options, "force"):
        options.force = True
    with redirect_stdout(io.StringIO()) as printed:
        options.action(options)
    return printed.getvalue()


def _matching(word: str) -> list[str]:
    """The paths that a pattern stands for, as a shell has them; the word itself if it is none."""
    if "*" not in word:
        return [word]
    return sorted(path.as_posix() for path in Path().glob(word)) or [word]


@dataclass
class Check:
    """The comparison of what is published with what its evidence gives.

    Args:
        parsers: of the program's commands.
        results: what is published.
        place: an empty folder, for a copy of it.
        compared: the files that were made again, by their paths.
        made: those, and pictures.
        differing: the first difference of each file that differs.
        written: the folders that commands wrote into.
    """

    parsers: Parsers
    results: Path
    place: Path
    compared: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    differing: dict[str, str] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)

    def copy(self, record: published.Published) -> None:
        """Copy what the commands read and write.

        Raises:
            StoreError: something cannot be copied.
        """
        quoted = [command for commands in record.quoted.values() for command in commands]
        places = {place for command in (*record.commands, *record.slow, *quoted) for place in command.places}
        (self.place / FOLDER).mkdir()
        for pattern in sorted(places):
            for path in self.results.glob(pattern.removeprefix(f"{FOLDER}/")):
                self._copy(path)

    def _copy(self, path: Path) -> None:
        target = self.place / FOLDER / path.relative_to(self.results)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            if path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True)
            else:
                shutil.copy2(path, target)
        except OSError as error:
            raise files.unreadable(path, error) from error

    def command(self, command: Command) -> None:
        """Run a command in the copy, and compare what it makes."""
        self._clear(command)
        text = self._printed(command, command.target)
        if text is None:
            return
        names = self._outputs(command)
        if command.file:
            names.append(command.file)
            files.write_text(self.place / command.file, text)
        for name in names:
            self._compare(name)
        self._say(command.target, names)

    def _say(self, target: str, names: list[str]) -> None:
        texts = [name for name in names if name in self.compared]
        same = sum(name not in self.differing for name in texts)
        phrases = [f"{same} of {len(texts)} files are as published"] if texts else []
        phrases += [f"{len(names) - len(texts)} pictures are not compared"] if len(names) > len(texts) else []
        terminal.say(escaping.plain(f"{target}: {'; '.join(phrases) or 'no file is made'}"))

    def _clear(self, command: Command) -> None:
        """Delete from the copy what the command is to make, but no evidence."""
        folder = self.place / (command.folder or "")
        for name in (manifest.read(folder) or {}) if command.folder else ():
            if not name.endswith(published.EVIDENCE):
                (folder / name).unlink(missing_ok=True)

    def _printed(self, command: Command, target: str) -> str | None:
        """What a command prints in the copy; None if it fails, which counts as a difference."""
        try:
            with chdir(self.place), without_drawings():
                return _run(self.parsers, command, force=True)
        except (BenchError, OSError, ValueError) as error:
            self.differing[target] = f"'{command.line}' fails: {error}"
            return None

    def _outputs(self, command: Command) -> list[str]:
        """The files that a command has just written into its folder."""
        if command.folder is None:
            return []
        self.written.add(command.folder)
        names = manifest.read(self.place / command.folder) or {}
        paths = [f"{command.folder}/{name}" for name in names if not name.endswith(published.EVIDENCE)]
        return [path for path in paths if (self.place / path).exists()]

    def _compare(self, name: str) -> None:
        """Compare a file of the copy with the published one."""
        self.made.add(name)
        if not name.endswith(TEXTS):
            return
        self.compared.add(name)
        path = self._published(name)
        if not path.is_file():
            self.differing[name] = "it is missing"
        elif difference := first_difference(name, _text(path), _text(self.place / name)):
            self.differing[name] = difference

    def _published(self, name: str) -> Path:
        return self.results / name.removeprefix(f"{FOLDER}/")

    def page(self, page: str, commands: tuple[Command, ...]) -> None:
        """Look for the rows of printed tables in a page."""
        path = self._published(page)
        lines = _text(path).splitlines() if path.is_file() else []
        self.compared.add(page)
        for command in commands:
            text = self._printed(command, page)
            rows = [] if text is None else [line for line in text.splitlines() if line.startswith("|")]
            missing = [row for row in rows if row not in lines]
            if text is not None and not rows:
                self.differing[page] = f"'{command.line}' prints no table"
            elif missing:
                self.differing[page] = f"it lacks a row that '{command.line}' prints: {missing[0]}"
        if page not in self.differing:
            terminal.say(f"{page}: it has every row that its {len(commands)} commands print")

    def rest(self, reasons: Mapping[str, str]) -> dict[str, str]:
        """Look at the published files that no command has made.

        One that differs from its checksum, or that a command should have made, counts as a difference.

        Args:
            reasons: why some files and folders are not made again.

        Returns:
            What is not made again, and why; first those with a reason.
        """
        left = {place: reason for place, reason in reasons.items() if self._published(place).exists()}
        for path in self._files():
            name = f"{FOLDER}/{path.relative_to(self.results).as_posix()}"
            if phrase := self._problem(path, name):
                self.differing.setdefault(name, phrase)
            elif not self._is_known(name, reasons) and name not in self.differing:
                left.setdefault(name, f"no command in {published.NAME} makes it")
        return left

    def _files(self) -> Iterator[Path]:
        def is_published(path: Path) -> bool:
            return not published.is_of_the_reader(path.relative_to(self.results))

        for top in filter(is_published, sorted(self.results.iterdir())):  # a reader's runs may be many: not looked at
            paths = sorted(top.rglob("*")) if top.is_dir() else [top]
            yield from (path for path in paths if path.is_file() and is_published(path))

    def _problem(self, path: Path, name: str) -> str:
        """What is wrong with a file by the manifest beside it, or because a command should have made it."""
        named = manifest.read(path.parent) or {}
        if path.name in named and (wrong := manifest.problems(path.parent, [path.name])):
            return wrong[0].removeprefix(f"{path.name} ")
        folder = name.rpartition("/")[0]
        is_stale = path.name in named and folder in self.written and name not in self.made
        return "its command does not make it" if is_stale and not name.endswith(published.EVIDENCE) else ""

    def _is_known(self, name: str, reasons: Mapping[str, str]) -> bool:
        if Path(name).name in (*published.OUTSIDE, manifest.NAME) or name.endswith(published.EVIDENCE):
            return True
        return name in self.made or any(name == place or name.startswith(f"{place}/") for place in reasons)


def _text(path: Path) -> str:
    """The contents of a file.

    Raises:
        StoreError: it cannot be read as text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path} ({files.os_reason(error)}): restore it from a copy.") from error
