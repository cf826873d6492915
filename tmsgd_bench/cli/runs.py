"""The runs: ``runs`` lists them, ``show`` prints one in full."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from tmsgd_bench import escaping, files, terminal
from tmsgd_bench.cli import stores
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.results import packed, store
from tmsgd_bench.results.status import OF_RUNS, Status

KNOWN = {"status": tuple(map(str, OF_RUNS)), "data": ("real", "synthetic")}
RUN_COLUMNS = ["run_id", "status", "epochs_done", "epochs", "final", "best", "data", "protocols", "note"]
LEAST = ("best", "protocols", "data")
"""The columns that a narrow terminal may lack, the least needed first."""
STYLES: dict[str, str] = {
    Status.DONE: "green",
    Status.RUNNING: "cyan",
    Status.DIVERGED: "yellow",
    Status.ABANDONED: "yellow",
    Status.FAILED: "red",
    Status.DAMAGED: "red",
}
FORMAT_HELP = "default: a drawn table in a terminal, text elsewhere; csv prints every column"


def add(commands: Any) -> None:
    """Add both commands to the parser's commands."""
    _add_runs(commands)
    _add_show(commands)


def _add_runs(commands: Any) -> None:
    parser = commands.add_parser(
        "runs",
        help="list runs: done, diverged, failed, running, abandoned, damaged",
        description="List runs. 'final' is the primary metric after the last epoch, 'best' its best epoch "
        "(chosen on test data). An abandoned run was interrupted; the command that started it resumes it.",
    )
    stores.add(parser)
    for name in ("task", "model", "optimizer"):
        parser.add_argument(f"--{name}", help=f"only runs with this {name}")
    for name, known in KNOWN.items():
        parser.add_argument(f"--{name}", choices=known, help=f"only runs with this {name}")
    parser.add_argument("--seed", type=int, help="only runs with this seed")
    parser.add_argument("--format", choices=("text", "csv"), help=FORMAT_HELP)
    parser.set_defaults(action=list_runs)


def _add_show(commands: Any) -> None:
    parser = commands.add_parser(
        "show",
        help="one run in full",
        description="Settings, outcome, environment and last epochs of one run.",
    )
    parser.add_argument("run", metavar="RUN", help="the run's name, or enough of its start to be unique")
    stores.add(parser, several=False)
    parser.set_defaults(action=show_run)


def list_runs(options: argparse.Namespace) -> int:
    """Print the runs that match the filters."""
    every = stores.read(options.results)
    runs = stores.filtered(every, options, ("task", "model", "optimizer", "status", "data", "seed"))
    if runs.empty and options.format != "csv":
        terminal.say(f"there is no run in {stores.listed(options.results)}" if every.empty else "no runs match")
        return 0
    if options.format == "csv":
        terminal.say(escaping.csv(runs), end="")
        return 0
    if options.format is None and terminal.is_drawn():
        _draw(runs)
    else:
        terminal.say(_as_text(runs))
    return 0


def _draw(runs: pd.DataFrame) -> None:
    shown = _shown(runs)
    epochs = [_of(row["epochs_done"], row["epochs"]) for _, row in shown.iterrows()]
    shown = shown.drop(columns="epochs_done").assign(epochs=epochs).rename(columns={"run_id": "run"})
    rows = [[_cell(value) for value in row] for row in shown.itertuples(index=False)]
    terminal.show_table(list(shown.columns), rows, STYLES, LEAST, "--format csv prints all columns.")


def _of(done: Any, epochs: Any) -> str:
    """How many epochs are done, of how many if not all are."""
    return _cell(done) if done == epochs else f"{_cell(done)} of {_cell(epochs)}"


def _cell(value: Any) -> str:
    """A cell's text, with numbers as the plain lines have them."""
    if pd.isna(value):
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _shown(runs: pd.DataFrame) -> pd.DataFrame:
    """What is printed of the runs, with words in place of lists."""
    shown = runs[RUN_COLUMNS].map(lambda cell: escaping.plain(cell) if isinstance(cell, str) else cell)
    shown["protocols"] = shown["protocols"].map(lambda names: "+".join(names) or "custom")
    shown["data"] = [_data(row) for _, row in runs.iterrows()]
    return shown


def _as_text(runs: pd.DataFrame) -> str:
    shown = _shown(runs)
    shown["run_id"] = shown["run_id"].str.ljust(shown["run_id"].str.len().max())
    return shown.to_string(index=False, na_rep="–", float_format=lambda x: f"{x:.6g}")


def _data(row: pd.Series) -> str:
    """What a run was trained and measured on; empty if that is not known."""
    if pd.isna(row["data"]):
        return ""
    words = [str(row["data"])]
    words += [] if pd.isna(row["limit"]) else [f"{row['limit']:.0f} examples"]
    words += [] if pd.isna(row["split"]) or row["split"] == "test" else [f"{row['split']} split"]
    return ", ".join([*words, *(["unverified"] if row["verified"] is False else [])])


def show_run(options: argparse.Namespace) -> int:
    """Print everything the store knows of one run."""
    row = _named(stores.read(options.results), options)
    folder = Path(row["folder"])
    note = "" if pd.isna(row["note"]) else escaping.plain(str(row["note"]))
    place = f"packed in: {folder.parent}" if packed.is_packed(folder.parent) else f"folder: {folder}"
    terminal.say(f"{row['run_id']}: {row['status']}\n{note}\n{place}\n")
    if row["status"] == Status.DAMAGED:
        return 1
    terminal.say((store.content(folder, store.CONFIG) or b"").decode("utf-8"))
    for name in (store.RESULT, store.ENVIRONMENT, store.FAILURE):
        values = files.parse_json(store.content(folder, name) or b"")
        if values is not None:
            error = values.pop("error", "")
            terminal.say(f"{name}:\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}{error}")
    if (history := store.history(folder)) is not None:
        terminal.say("last epochs:\n" + history.tail(5).to_string(index=False))
    return 0


def _named(runs: pd.DataFrame, options: argparse.Namespace) -> pd.Series:
    """The run with the name that was asked for, or the only one whose name starts so."""
    matches = runs[runs["run_id"].str.startswith(options.run)]
    exact = matches[matches["run_id"] == options.run]
    matches = exact if len(exact) else matches
    if len(matches) != 1:
        names = "none" if matches.empty else ", ".join(matches["run_id"])
        raise ConfigError(
            f"{options.run!r} must name one run, but matches {names}: see "
            f"'python -m tmsgd_bench runs{stores.as_option(options)}'."
        )
    return matches.iloc[0]
