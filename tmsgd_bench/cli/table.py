"""``table``: a table of the paper with our numbers beside the printed ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from tmsgd_bench import files, manifest, outputs, terminal
from tmsgd_bench.cli import stores
from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.results import store, table_forms, tables
from tmsgd_bench.results.paper import paper
from tmsgd_bench.results.status import FINISHED
from tmsgd_bench.version import PROTOCOLS


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "table",
        help="a table of the paper with our numbers beside the printed ones",
        description="A table of the paper: its value, ours as mean ± standard deviation over n seeds, and the "
        "difference to SGD paired by seed with its interval. Only runs that follow the protocol exactly enter.",
    )
    parser.add_argument("number", metavar="NUMBER", help=f"the paper's number: {', '.join(paper()['tables'])}")
    stores.add_results(parser)
    parser.add_argument("--data", choices=("real", "synthetic"), default="real", help="which runs (default: real)")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="table2", help="which settings (default: table2)")
    parser.add_argument(
        "--format", choices=tuple(table_forms.FORMATS), default="md", help="printed format (default: md)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="also write all formats and the runs behind them there, in place of what an earlier one wrote",
    )
    parser.set_defaults(action=print_table)


def print_table(options: argparse.Namespace) -> int:
    """Print a table and, with --out, write it in all formats beside copies of the runs behind it."""
    runs = stores.read(options.results)
    table = tables.build(runs, options.number, options.data, options.protocol)
    others = "" if table.run_ids else tables.other_conditions(runs, options.number)
    if options.out is not None:
        outputs.apart(options.out, [options.results])
        _write_table(table, runs, options.out, others)
    terminal.say(table_forms.FORMATS[options.format](table), end="")
    if others:
        terminal.warn(f"no run has these conditions; finished runs of this table here: {others}")
    return 0


def _write_table(table: tables.Table, runs: pd.DataFrame, folder: Path, others: str) -> None:
    name = f"table{table.number}"
    if not table.run_ids:
        there = f"; finished runs of this table here: {others}" if others else ""
        raise StoreError(f"no run enters table {table.number} ({table.conditions}), so nothing is written{there}.")
    for other in manifest.read(folder) or {}:
        if other.startswith("table") and other.endswith(".md") and other != f"{name}.md":
            raise ConfigError(
                f"{folder} holds another table, {other}, with its runs: choose another folder with --out."
            )
    finished = runs[runs["status"].isin(FINISHED) & runs["run_id"].isin(table.run_ids)]
    texts = {f"{name}.{suffix}": render(table) for suffix, render in table_forms.FORMATS.items()}

    def fill(place: Path) -> None:
        files.write_texts(place, texts)
        for run_id, source in zip(finished["run_id"], finished["folder"], strict=True):
            store.copy_evidence(Path(str(source)), place / "runs" / str(run_id))

    outputs.renew(folder, fill, replaced=lambda name: name.startswith("runs/"))
