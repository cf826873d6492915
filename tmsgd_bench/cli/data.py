"""``data``: list, verify, prepare or describe data sets."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tmsgd_bench import terminal
from tmsgd_bench.data import synthetic
from tmsgd_bench.data.catalog import OWN, Dataset, catalog, data_root, find, own_entries
from tmsgd_bench.errors import ConfigError

HERE, MISSING, DAMAGED = "here", "missing", "damaged"
STYLES = {HERE: "green", MISSING: "yellow", DAMAGED: "red"}


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "data",
        help="data sets: list, verify, prepare, describe",
        description="Without an action: list which data sets are present, and where each comes from.",
    )
    parser.add_argument(
        "do",
        nargs="?",
        choices=("list", "verify", "prepare", "card"),
        default="list",
        help="list (default); verify checksums; prepare: download and verify, or with --synthetic write synthetic "
        "data; card: print the Croissant JSON-LD description",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(catalog())} (default: all)")
    parser.add_argument(
        "--config-dir",
        type=Path,
        metavar="FOLDER",
        help=f"your folder, for your own data sets, which are described in {OWN}/ there",
    )
    parser.add_argument("--root", help="folder of the data sets (default: $TMSGD_DATA or the user's cache folder)")
    parser.add_argument("--synthetic", action="store_true", help="synthetic data in place of the real data")
    parser.add_argument(
        "--without-test", action="store_true", help="prepare and verify: without the files of the test split alone"
    )
    parser.set_defaults(action=manage_data)


def manage_data(options: argparse.Namespace) -> int:
    """List, verify, prepare or describe data sets."""
    chosen = _chosen(options)
    root, kind = data_root(options.root), "synthetic" if options.synthetic else "real"
    if options.do == "card":
        return _print_cards(chosen)
    if options.do == "prepare":
        if not options.names and kind == "real":
            raise ConfigError(
                f"name the data sets to prepare, some of {', '.join(catalog())}: together they are large."
            )
        for dataset in chosen:
            folder = dataset.prepare(root, kind, terminal.warn)
            terminal.say(f"{dataset.name}: ready in {folder}")
        return 0
    if options.synthetic:
        raise ConfigError("--synthetic is for 'prepare', which also checks synthetic data that are there already.")
    if options.do == "verify":
        verified = [_is_verified(dataset, root) for dataset in chosen]
        return 0 if all(verified) else 1
    _list(chosen, root, options)
    return 0


def _chosen(options: argparse.Namespace) -> list[Dataset]:
    """The data sets that are named, or all; with ``--without-test`` without the files of the test split alone.

    Raises:
        ConfigError: there is none of a name, or the action takes no ``--without-test``.
    """
    folders = _entry_folders(options.config_dir)
    names = options.names or [*catalog(), *(name for name in own_entries(folders) if name not in catalog())]
    chosen = [find(name, folders) for name in names]
    if not options.without_test:
        return chosen
    if options.do not in ("prepare", "verify"):
        raise ConfigError("--without-test is for 'prepare' and 'verify'.")
    return [dataset.without_test() for dataset in chosen]


def _entry_folders(config_dir: Path | None) -> list[Path]:
    """The folder of the user's own entries, in a list; empty without ``--config-dir``.

    Raises:
        ConfigError: it is not there.
    """
    if config_dir is None:
        return []
    folder = (config_dir / OWN).absolute()
    if not folder.is_dir():
        raise ConfigError(f"--config-dir: there is no folder {folder}: put your entries there, NAME.yaml each.")
    return [folder]


def _print_cards(chosen: list[Dataset]) -> int:
    """Print the card of one data set, or a list of those of several."""
    from tmsgd_bench.data.croissant import card  # here, because no other command needs it

    cards = [card(dataset) for dataset in chosen]
    terminal.say(json.dumps(cards[0] if len(cards) == 1 else cards, indent=2))
    return 0


def _is_verified(dataset: Dataset, root: Path) -> bool:
    """Print the state of the real data set; returns whether it has no problems."""
    problems = dataset.problems(dataset.folder(root, "real"))
    _say_state(dataset, root, problems)
    _say_remedy(dataset, root, problems)
    return not problems


def _list(chosen: list[Dataset], root: Path, options: argparse.Namespace) -> None:
    """Print all about each data set; in a terminal a table, and all about those that were named."""
    if not terminal.is_drawn():
        for dataset in chosen:
            _describe(dataset, root, dataset.problems(dataset.folder(root, "real")))
        return
    problems = {dataset.name: dataset.problems(dataset.folder(root, "real")) for dataset in chosen}
    _draw(chosen, root, problems)
    if not options.names:
        _say_next(chosen, problems, options)
    for dataset in chosen if options.names else ():
        _describe(dataset, root, problems[dataset.name])


def _describe(dataset: Dataset, root: Path, problems: list[str]) -> None:
    """Print all about a data set."""
    synthetic_folder = dataset.folder(root, "synthetic")
    state = "present" if _has_synthetic(dataset, root) else "not written yet"
    _say_state(dataset, root, problems)
    terminal.say(f"  {dataset.title}\n  licence: {' '.join(dataset.licence.split())}")
    terminal.say("\n".join(f"  {line}" for line in _files(dataset)))
    terminal.say(f"  synthetic data: {state} ({synthetic_folder})")
    _say_remedy(dataset, root, problems)


def _say_state(dataset: Dataset, root: Path, problems: list[str]) -> None:
    """Print whether the real data set is here."""
    verified = "verified" if dataset.pinned else "all files are there (the publisher gives no checksums)"
    terminal.say(f"{dataset.name}: {'; '.join(problems) or verified} ({dataset.folder(root, 'real')})")


def _say_remedy(dataset: Dataset, root: Path, problems: list[str]) -> None:
    if problems:
        terminal.say(f"  to mend it, {dataset.remedy(dataset.folder(root, 'real'))}")


def _has_synthetic(dataset: Dataset, root: Path) -> bool:
    return (dataset.folder(root, "synthetic") / synthetic.MARK).exists()


def _draw(chosen: list[Dataset], root: Path, problems: Mapping[str, list[str]]) -> None:
    """Draw a row for each data set."""
    rows = [
        (
            dataset.name,
            _state(dataset.folder(root, "real"), problems[dataset.name]),
            f"{dataset.examples:,}",
            "written" if _has_synthetic(dataset, root) else "–",
            " ".join(dataset.licence.split()),
        )
        for dataset in chosen
    ]
    terminal.show_table(("data set", "real data", "examples", "synthetic", "licence"), rows, STYLES)
    terminal.say(f"\nIn {root}.\n")


def _state(folder: Path, problems: list[str]) -> str:
    """The state of the real files in one word."""
    if not problems:
        return HERE
    return MISSING if not folder.exists() or all("is missing" in problem for problem in problems) else DAMAGED


def _say_next(chosen: list[Dataset], problems: Mapping[str, list[str]], options: argparse.Namespace) -> None:
    """Print a line for each data set that is missing or damaged: how to get it, or how to read more."""
    places = [] if options.root is None else ["--root", options.root]
    places += [] if options.config_dir is None else ["--config-dir", str(options.config_dir)]
    for dataset in chosen:
        if problems[dataset.name]:
            do = "prepare" if dataset.is_downloadable else "list"
            command = shlex.join(["python", "-m", "tmsgd_bench", "data", do, dataset.name, *places])
            terminal.say(f"{dataset.name}: {command}{'' if do == 'prepare' else ' says how to get it'}")


def _files(dataset: Dataset) -> list[str]:
    """A line for each file, folder and archive of a data set."""
    lines = []
    for file in dataset.files:
        size = "" if file.bytes is None else f", {file.bytes:,} bytes"
        lines.append(f"{file.name}: {file.examples:,} examples{size}{f', {file.url}' if file.url else ''}")
    lines += [f"{folder.name}/{folder.pattern}: {folder.count:,} files" for folder in dataset.folders]
    return [*lines, *(f"from {archive.url}" for archive in dataset.archives)]
