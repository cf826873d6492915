"""Shared by the commands: the options that name stores, the runs in them, and the folder to write into."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tmsgd_bench import escaping, outputs, terminal
from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.results import store

RESULTS = Path("results/runs")
"""The store that a command reads by default."""


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add ``--results`` for a command that reads one store: see :func:`read`."""
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FOLDER",
        help="the results (default: results/runs)",
    )


def add_stores(parser: argparse.ArgumentParser, numerics: bool = True) -> None:
    """Add ``--results`` for a command that reads several stores, and ``--numerics``: see :func:`read_all`."""
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=[RESULTS],
        metavar="FOLDER",
        help="the results, of one store or several (default: results/runs)",
    )
    if numerics:
        parser.add_argument(
            "--numerics",
            type=Path,
            metavar="FOLDER",
            help="what the numerics command wrote (default: results/numerics, if it is there)",
        )


def read(root: Path) -> pd.DataFrame:
    """The runs in a store, as :func:`tmsgd_bench.results.store.read_runs` gives them; warns of those that are damaged.

    Raises:
        StoreError: there is no such folder, or it cannot be read.
    """
    if not root.exists():
        raise StoreError(f"there are no results in {root}: train a run first, or name another folder with --results.")
    runs = store.read_runs(root)
    for sentence in store.complaints(runs):
        terminal.warn(escaping.plain(f"{sentence}."))
    return runs


def read_all(roots: Sequence[Path]) -> pd.DataFrame:
    """The runs in several stores, as :func:`read` gives them; a run that is in two of them counts once.

    Raises:
        StoreError: as :func:`read`.
    """
    return store.merge([read(root) for root in roots])


def filtered(runs: pd.DataFrame, options: argparse.Namespace, names: Sequence[str]) -> pd.DataFrame:
    """The runs that have what the options of these names ask for.

    Raises:
        ConfigError: an option asks for a task, model or optimizer that no run has.
    """
    selected = runs
    for name in names:
        value = getattr(options, name)
        known = sorted(set(runs[name].dropna().map(str)))
        if value is not None and value not in known and name in ("task", "model", "optimizer"):
            raise ConfigError(
                f"no run has the {name} {value!r}: leave out --{name}, or take one of {', '.join(known) or 'none'}."
            )
        selected = selected if value is None else selected[selected[name] == value]
    return selected


def check_some(runs: pd.DataFrame, options: argparse.Namespace) -> None:
    """Refuse to write a file about no runs.

    Raises:
        StoreError: there is no run in the stores of ``--results``.
    """
    if runs.empty:
        raise StoreError(f"there is no run in {listed(options.results)}, so nothing is written: train one first.")


def listed(paths: Sequence[Path]) -> str:
    """The stores in a sentence."""
    return ", ".join(map(str, paths))


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


def target(options: argparse.Namespace, name: str) -> Path:
    """The folder to write into: that of ``--out``, or ``name`` beside the default store.

    Raises:
        ConfigError: there is no ``--out``, and the runs are not only those of the default store.
        StoreError: the folder is one of the stores, lies in one, or contains one.
    """
    if options.out is None and options.results != [RESULTS]:
        place = RESULTS.with_name(name)
        raise ConfigError(f"name a folder with --out: {place} is for the runs in {RESULTS}.")
    folder: Path = RESULTS.with_name(name) if options.out is None else options.out
    outputs.apart(folder, options.results)
    return folder
