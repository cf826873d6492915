"""``data``: which data sets are here; verify, prepare or describe them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tmsgd_bench import terminal
from tmsgd_bench.data.catalog import STAND_IN, Dataset, catalog, data_root, find
from tmsgd_bench.data.croissant import card
from tmsgd_bench.errors import ConfigError


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "data",
        help="data sets: what is here, where it comes from, verify, prepare",
        description="Without an action: which data sets are present and where each comes from.",
    )
    parser.add_argument(
        "do",
        nargs="?",
        choices=("list", "verify", "prepare", "card"),
        default="list",
        help="list (default); verify checksums; prepare: download or check, or write the stand-in with --synthetic; "
        "card: print the Croissant JSON-LD description",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(catalog())} (default: all)")
    parser.add_argument("--root", help="folder of the data sets (default: $TMSGD_DATA or the user's cache folder)")
    parser.add_argument("--synthetic", action="store_true", help="the synthetic stand-in in place of the real data")
    parser.set_defaults(action=manage_data)


def manage_data(options: argparse.Namespace) -> int:
    """List, verify, prepare or describe data sets."""
    chosen = [find(name) for name in options.names] or list(catalog().values())
    root, kind = data_root(options.root), "synthetic" if options.synthetic else "real"
    if options.do == "card":
        terminal.say(json.dumps(card(chosen[0]) if len(chosen) == 1 else [card(d) for d in chosen], indent=2))
        return 0
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
        raise ConfigError("--synthetic goes with 'prepare' alone, which also checks a stand-in that is there already.")
    states = [_describe(dataset, root, verify_only=options.do == "verify") for dataset in chosen]
    return 0 if options.do == "list" or all(states) else 1


def _describe(dataset: Dataset, root: Path, verify_only: bool) -> bool:
    """Print what is here of a data set; returns whether the real one is whole."""
    folder = dataset.folder(root, "real")
    problems = dataset.problems(folder)
    whole = "verified" if dataset.pinned else "all files are there (no digests of their contents are published)"
    terminal.say(f"{dataset.name}: {'; '.join(problems) or whole} ({folder})")
    if not verify_only:
        stand_in = dataset.folder(root, "synthetic")
        terminal.say(f"  {dataset.title}\n  licence: {' '.join(dataset.licence.split())}")
        terminal.say("\n".join(f"  {line}" for line in _parts(dataset)))
        terminal.say(
            f"  synthetic stand-in: {'present' if (stand_in / STAND_IN).exists() else 'not written yet'} ({stand_in})"
        )
    if problems:
        terminal.say(f"  to mend it, {dataset.remedy(folder)}")
    return not problems


def _parts(dataset: Dataset) -> list[str]:
    """What a data set consists of and where it comes from, a line each."""
    lines = []
    for file in dataset.files:
        size = "" if file.bytes is None else f", {file.bytes:,} bytes"
        lines.append(f"{file.name}: {file.examples:,} examples{size}{f', {file.url}' if file.url else ''}")
    lines += [f"{folder.name}/{folder.pattern}: {folder.count:,} files" for folder in dataset.folders]
    return [*lines, *(f"from {archive.url}" for archive in dataset.archives)]
