"""``export``: all runs in one file, for other tools."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tmsgd_bench import outputs, terminal
from tmsgd_bench.cli import stores
from tmsgd_bench.results import export


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "export",
        help="all runs in one file, for other tools",
        description="Write all runs, with any status, data and protocol, as tidy rows: one for each run or, with "
        "--history, one for each epoch of each run.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="to write; its name ends in .parquet or .csv")
    stores.add(parser)
    parser.add_argument("--history", action="store_true", help="a row for each epoch of each run")
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there already")
    parser.set_defaults(action=export_runs)


def export_runs(options: argparse.Namespace) -> int:
    """Write all runs, or their histories, into one file."""
    runs = stores.read(options.results)
    stores.check_some(runs, options)
    outputs.apart(options.file, options.results)
    frame = export.histories(runs) if options.history else export.tidy(runs)
    export.write(frame, options.file, options.force)
    without = len(runs) - frame["run_id"].nunique()
    left_out = f"; {without} runs have no history yet" if without else ""
    terminal.say(f"{len(frame)} rows of {frame['run_id'].nunique()} runs are in {options.file}{left_out}.")
    return 0
