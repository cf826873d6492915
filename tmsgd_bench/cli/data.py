"""``data``: list, verify, prepare or describe data sets."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tmsgd_bench import terminal
from tmsgd_bench.data import synthetic
from tmsgd_bench.data.catalog import OWN, Dataset, catalog, data_root, find, own_entries
from tmsgd_bench.errors import ConfigError


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
    parser.set_defaults(action=manage_data)


def manage_data(options: argparse.Namespace) -> int:
    """List, verify, prepare or describe data sets."""
    folders = _entry_folders(options.config_dir)
    names = options.names or [*catalog(), *(name for name in own_entries(folders) if name not in catalog())]
    chosen = [find(name, folders) for name in names]
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
    states = [_describe(dataset, root, verify_only=options.do == "verify") for dataset in chosen]
    return 0 if options.do == "list" or all(states) else 1


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


def _describe(dataset: Dataset, root: Path, verify_only: bool) -> bool:
    """Print the state of a data set; returns whether the real files have no problems."""
    folder = dataset.folder(root, "real")
    problems = dataset.problems(folder)
    verified = "verified" if dataset.pinned else "all files are there (the publisher gives no checksums)"
    terminal.say(f"{dataset.name}: {'; '.join(problems) or verified} ({folder})")
    if not verify_only:
        synthetic_folder = dataset.folder(root, "synthetic")
        state = "present" if (synthetic_folder / synthetic.MARK).exists() else "not written yet"
        terminal.say(f"  {dataset.title}\n  licence: {' '.join(dataset.licence.split())}")
        terminal.say("\n".join(f"  {line}" for line in _files(dataset)))
        terminal.say(f"  synthetic data: {state} ({synthetic_folder})")
    if problems:
        terminal.say(f"  to mend it, {dataset.remedy(folder)}")
    return not problems


def _files(dataset: Dataset) -> list[str]:
    """A line for each file, folder and archive of a data set."""
    lines = []
    for file in dataset.files:
        size = "" if file.bytes is None else f", {file.bytes:,} bytes"
        lines.append(f"{file.name}: {file.examples:,} examples{size}{f', {file.url}' if file.url else ''}")
    lines += [f"{folder.name}/{folder.pattern}: {folder.count:,} files" for folder in dataset.folders]
    return [*lines, *(f"from {archive.url}" for archive in dataset.archives)]
