"""Shared by the commands: the options that name stores, the runs in them, and the folder to write into."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tmsgd_bench import escaping, outputs, terminal
from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.results import learning_rates, packed, store
from tmsgd_bench.results.commands import own_folders

RESULTS = store.DEFAULT_ROOT
SHOWN = 20
"""Stores at most that a message names."""


def add(parser: argparse.ArgumentParser, several: bool = True) -> None:
    """Add ``--results`` for a command that reads stores: see :func:`read`.

    Args:
        several: take more than one, which would swallow an argument that comes after them.
    """
    parser.add_argument(
        "--results",
        type=_place,
        nargs="+" if several else 1,
        default=[RESULTS],
        metavar="PLACE",
        help=f"{'stores' if several else 'store'} to read: a folder of runs, or a packed file (default: results/runs)",
    )


def _place(text: str) -> Path:
    if not text:  # an unset variable of the shell, say; as a path it would be the current folder
        raise argparse.ArgumentTypeError("name a folder or a packed file, not nothing")
    return Path(text)


def add_numerics(parser: argparse.ArgumentParser) -> None:
    """Add ``--numerics``: see :func:`numerics_folder`."""
    parser.add_argument(
        "--numerics",
        type=Path,
        metavar="FOLDER",
        help="what the numerics command wrote (default: what is published in results/numerics, if it is there)",
    )


def read(roots: Sequence[Path]) -> pd.DataFrame:
    """The runs in stores, as :func:`tmsgd_bench.results.store.read_runs` gives them; warns of those that are damaged.

    A run that is in two stores counts once. Where its results differ, that of the store named first counts, and a
    warning says so.

    Raises:
        StoreError: one of them is not there, cannot be read, or is a folder of stores that holds no runs itself.
    """
    return merged([_read(root) for root in roots])


def merged(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The runs of several stores in one frame; warns of those whose results differ, of which the first counts."""
    if differing := store.differing(frames):
        named = f"{differing[0]} and {len(differing) - 1} more" if len(differing) > 1 else differing[0]
        terminal.warn(
            f"{named}: more than one store has it, with different results, from different machines, say. That of the "
            "store named first counts."
        )
    return store.merge(frames)


def _read(root: Path) -> pd.DataFrame:
    if not root.exists():
        raise StoreError(f"there are no results in {root}: train a run first, or name another place with --results.")
    if root.is_file() and not packed.is_packed(root):
        raise StoreError(f"{root} holds no runs: name a folder of runs, or a packed file ({packed.SUFFIX}).")
    runs = store.read_runs(root)
    if runs.empty:
        check_no_folder_of_stores(root)
    for sentence in store.complaints(runs):
        terminal.warn(escaping.plain(f"{sentence}."))
    return runs


def check_no_folder_of_stores(root: Path) -> None:
    """Refuse a folder that holds no runs itself, but whose folders or files do: it would pass for an empty store.

    Args:
        root: a store without runs.

    Raises:
        StoreError: there are such places; the message names them as --results takes them.
    """
    inner = [path for path in sorted(root.iterdir()) if store.holds_runs(path)] if root.is_dir() else []
    if inner:
        more = f" and {len(inner) - SHOWN} more" if len(inner) > SHOWN else ""
        raise StoreError(
            f"{root} holds no runs itself, but these do: name them, or some of them, in its place: "
            f"{shlex.join(map(str, inner[:SHOWN]))}{more}."
        )


def filtered(runs: pd.DataFrame, options: argparse.Namespace, names: Sequence[str]) -> pd.DataFrame:
    """The runs that have what the options of these names ask for.

    Raises:
        ConfigError: an option asks for a task, model or optimizer that no run has.
    """
    matching = runs
    for name in names:
        value = getattr(options, name)
        known = sorted(set(runs[name].dropna().map(str)))
        if value is not None and value not in known and name in ("task", "model", "optimizer"):
            remedy = f"leave out --{name}, or take one of {', '.join(known)}" if known else "there are no runs"
            raise ConfigError(f"no run has the {name} {value!r}: {remedy}.")
        matching = matching if value is None else matching[matching[name] == value]
    return matching


def no_search(runs: pd.DataFrame, options: argparse.Namespace, task: str = "ctr") -> StoreError:
    """The error that there is no search on the asked kind of data, which names what there is, or how to start one.

    Args:
        runs: of both kinds of data.
        task: to be searched.
    """
    sentence = f"no run in {listed(options.results)} is of a search on {options.data} data"
    if learning_rates.searches(runs):
        other = "real" if options.data == "synthetic" else "synthetic"
        return StoreError(f"{sentence}, but some are on {other} data: add --data {other}.")
    return StoreError(f"{sentence}: start one with '{_search_command(runs, options, task)}'.")


def _search_command(runs: pd.DataFrame, options: argparse.Namespace, task: str) -> str:
    """The command whose runs the same options find."""
    of_task = runs.loc[runs["task"] == task, "folder"]
    data = [] if options.data == "real" else [f"data={options.data}"]
    roots = [root for root in options.results if root != RESULTS and not packed.is_packed(root)]
    place = [f"results.root={shlex.quote(str(root))}" for root in roots[:1]]
    folders = own_folders(map(Path, of_task))
    return " ".join(["python run.py", *folders, "experiment=search", f"task={task}", *data, *place])


def check_some(runs: pd.DataFrame, options: argparse.Namespace) -> None:
    """Refuse to write about no runs.

    Raises:
        StoreError: there is no run in the stores of ``--results``.
    """
    if runs.empty:
        raise StoreError(
            f"there is no run in {listed(options.results)}: train one first, or name another place with --results."
        )


def listed(paths: Sequence[Path]) -> str:
    """The stores in a sentence."""
    return ", ".join(map(str, paths))


def as_option(options: argparse.Namespace) -> str:
    """The stores as a command's option, with a space before it; empty for the default."""
    return "" if options.results == [RESULTS] else f" --results {shlex.join(map(str, options.results))}"


def numerics_folder(options: argparse.Namespace) -> Path:
    """Where the numerical experiments are; the default folder may be missing.

    Raises:
        ConfigError: the folder of ``--numerics`` is not there.
    """
    folder: Path | None = options.numerics
    if folder is not None and not folder.is_dir():
        raise ConfigError(
            f"there is no folder {folder}: write it with 'python -m tmsgd_bench numerics --out {folder}'."
        )
    return folder or RESULTS.with_name("numerics")


def place_of(name: str) -> Path:
    """The folder of this name for what commands write without ``--out``: beside the default store.

    It is not in the folder of what is published, which is not to be written over.
    """
    return RESULTS.with_name(f"{RESULTS.name}-out") / name


def target(options: argparse.Namespace, name: str) -> Path:
    """The folder to write into: that of ``--out``, or :func:`place_of`.

    Raises:
        ConfigError: there is no ``--out``, and the runs are not those of the default store alone.
        StoreError: the folder is one of the stores, lies in one, or contains one; a packed file may lie in it.
    """
    place = place_of(name)
    if options.out is None and options.results != [RESULTS]:
        raise ConfigError(f"name a folder with --out: {place} is for the runs in {RESULTS}.")
    folder: Path = place if options.out is None else options.out
    check_apart(folder, options)
    return folder


def check_apart(folder: Path, options: argparse.Namespace) -> None:
    """Raise StoreError if a folder to write into is one of the stores, lies in one, or contains one.

    A packed file may lie in it.
    """
    outputs.apart(folder, [root for root in options.results if not packed.is_packed(root)])
