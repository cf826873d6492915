"""``pack`` and ``unpack``: finished runs as one file for publication, and as folders again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tmsgd_bench import outputs, terminal
from tmsgd_bench.cli import stores
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import packed, packing
from tmsgd_bench.wording import number_of


def add(commands: Any) -> None:
    """Add both commands to the parser's commands."""
    _add_pack(commands)
    _add_unpack(commands)


def _add_pack(commands: Any) -> None:
    parser = commands.add_parser(
        "pack",
        help="finished runs in one file, to publish",
        description="Write the finished runs of stores into one file, with those that it holds already. Every command "
        "reads such a file with --results. It holds settings, environment, history and result of each run; pictures, "
        "predictions and weights stay where they are.",
    )
    parser.add_argument("stores", type=Path, nargs="+", metavar="STORE", help="folders of runs, or packed files")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="to write; its name ends in .parquet")
    parser.set_defaults(action=pack)


def _add_unpack(commands: Any) -> None:
    parser = commands.add_parser(
        "unpack",
        help="packed runs as folders again",
        description="Write the runs of packed files as folders into a store. run.py skips what is done there. A run "
        "that is there already stays as it is.",
    )
    parser.add_argument("places", type=Path, nargs="+", metavar="PLACE", help="packed files, or folders with one")
    parser.add_argument("--out", type=Path, required=True, metavar="STORE", help="a folder of runs; made if missing")
    parser.set_defaults(action=unpack)


def pack(options: argparse.Namespace) -> int:
    """Pack the finished runs of stores.

    Raises:
        ConfigError: the file's name does not say what it is.
        StoreError: a run is damaged, or there is none, or the file would lie among the folders of runs.
    """
    packed.check_name(options.out)
    # Among the folders of runs the file would pass for the store, where no run could be trained any more.
    outputs.apart(options.out, [root for root in options.stores if packed.file_at(root) is None])
    runs = packing.gathered(options.stores)
    for root in options.stores if not runs else ():
        stores.check_no_folder_of_stores(root)
    if not runs:
        raise StoreError(f"no run in {stores.listed(options.stores)} has finished: train one first.")
    terminal.say(f"{options.out} holds {number_of(packing.add(options.out, runs), 'run')}.")
    return 0


def unpack(options: argparse.Namespace) -> int:
    """Write packed runs as folders.

    Raises:
        StoreError: there are no packed runs in a place, or they cannot be read or written.
    """
    for path in [_packed_file(place) for place in options.places]:
        written = packing.unpack(path, options.out)
        terminal.say(f"{len(written)} of the {len(packed.read(path))} runs in {path} are new in {options.out}.")
    return 0


def _packed_file(place: Path) -> Path:
    """The packed file that a place names: itself, or the one in this folder."""
    if not place.is_dir():
        return place
    file = packed.file_at(place)
    if file is None:
        raise StoreError(f"there is no {packed.NAME} in {place}: name a packed file, or a folder that holds one.")
    return file
