"""``jumps``: how often the training loss jumps, for each optimizer."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tmsgd_bench import files, outputs, terminal
from tmsgd_bench.checks import is_number, is_whole
from tmsgd_bench.cli import forms, stores
from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.results import store
from tmsgd_bench.results.status import FINISHED

if TYPE_CHECKING:  # torch and scipy take seconds to import
    from tmsgd_bench.results.jumps import Group, Rule, Trace

DESCRIPTION = """\
For each optimizer: how many runs jump, how often, and how runs with a late jump end. TM-SGD is compared with SGD after
its switch epoch. A jump begins where the training loss is at least FACTOR times the smallest loss before it, and lasts
until it is halfway back on a logarithmic axis. Runs with log_sharpness=1 have lr × sharpness in their histories. If one
of the stores holds such a run, its values around each jump are printed. If some are missing, the last lines are
the commands that record them."""


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "jumps", help="how often the training loss jumps, for each optimizer", description=DESCRIPTION
    )
    stores.add(parser)
    for name in ("task", "model"):
        parser.add_argument(f"--{name}", help=f"only runs of this {name}")
    parser.add_argument("--data", choices=("real", "synthetic"), default="real", help="which runs (default: real)")
    parser.add_argument("--factor", type=float, default=10.0, help="times the smallest loss so far (default: 10)")
    parser.add_argument("--first", type=int, default=30, metavar="EPOCH", help="count from here on (default: 30)")
    parser.add_argument(
        "--late", type=int, default=20, metavar="EPOCHS", help="late jumps are in the last EPOCHS (default: 20)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="also write CSV, Markdown and a picture there")
    parser.set_defaults(action=print_jumps)


def print_jumps(options: argparse.Namespace) -> int:
    """Print the tables, and write them with --out.

    Raises:
        ConfigError: the rule counts nothing.
        StoreError: there are no runs to count in, or the folder cannot be written.
    """
    from tmsgd_bench.results import jump_forms, jumps

    rule = _rule(options)
    if options.out is not None:
        stores.check_apart(options.out, options)
    groups = jumps.grouped(_traces(options, rule), rule)
    text = jump_forms.to_markdown(groups, rule)
    if options.out is not None:
        outputs.renew(options.out, lambda folder: _write(folder, groups, rule, text))
    forms.say_markdown(text, jump_forms.LEAST)
    if lines := jump_forms.commands(groups):
        terminal.say("\n  ".join(("\nTo record lr × sharpness around these jumps:", *lines)))
    return 0


def _rule(options: argparse.Namespace) -> Rule:
    from tmsgd_bench.results.jumps import Rule

    if not (is_number(options.factor) and options.factor > 1.0):
        raise ConfigError(f"--factor {options.factor}: write a number above 1.")
    if not (is_whole(options.first, 1) and is_whole(options.late, 1)):
        raise ConfigError("--first and --late must be whole numbers of at least 1.")
    return Rule(options.factor, options.first, options.late)


def _traces(options: argparse.Namespace, rule: Rule) -> list[Trace]:
    """The runs that the options ask for.

    Raises:
        StoreError: none has finished, or none has an epoch to count.
    """
    from tmsgd_bench.results import jumps

    frames = [stores.read([root]) for root in options.results]
    recorded = {run_id: history for frame in frames for run_id, history in _recorded(frame)}
    runs = stores.filtered(stores.merged(frames), options, ["task", "model", "data"])
    if not runs["status"].isin(FINISHED).any():
        raise StoreError(
            f"{stores.listed(options.results)} holds no finished run on {options.data} data: name another store with "
            "--results, or other data with --data."
        )
    traces = [trace for trace in jumps.read(runs, recorded) if trace.exposed(rule.first)]
    if not traces:
        raise StoreError(
            f"no finished run in {stores.listed(options.results)} has a training loss from epoch {rule.first} on: name "
            "an earlier epoch with --first, or another store with --results."
        )
    return traces


def _recorded(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The histories that have lr × sharpness, by run id."""
    from tmsgd_bench.results import jumps

    for _, run in runs[runs["status"].isin(FINISHED)].iterrows():
        history = store.history(Path(str(run["folder"])))
        if history is not None and {jumps.LOSS, jumps.MEASURED} <= set(history):
            yield str(run["run_id"]), history


def _write(folder: Path, groups: list[Group], rule: Rule, text: str) -> None:
    from tmsgd_bench.results import jump_forms
    from tmsgd_bench.results.figure_jumps import draw

    files.write_texts(folder, {"jumps.md": text, **jump_forms.csv_files(groups, rule)})
    for place, group in enumerate(groups):
        draw(group, folder / ("jumps.png" if place == 0 else f"jumps-{place + 1}.png"))
