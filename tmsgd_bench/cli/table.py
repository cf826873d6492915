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
        "difference to SGD paired by seed with its interval. Only runs that follow the protocol exactly are used.",
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
        help="also write all formats there, with copies of the runs, and replace those of an earlier table",
    )
    parser.add_argument(
        "--force", action="store_true", help="with --out: delete there also runs that are in no other folder"
    )
    parser.set_defaults(action=print_table)


def print_table(options: argparse.Namespace) -> int:
    """Print a table and, with --out, write it in all formats beside copies of the runs behind it."""
    runs = stores.read(options.results)
    table = tables.build(runs, options.number, options.data, options.protocol)
    others = "" if table.run_ids else tables.other_conditions(runs, options.number)
    if options.out is not None:
        outputs.apart(options.out, [options.results])
        _check_target(table, options.out, others)
        if not options.force:
            _check_no_run_is_lost(runs, options.out)
        _write_table(table, runs, options.out)
    terminal.say(table_forms.FORMATS[options.format](table), end="")
    if others:
        terminal.warn(f"no run has these conditions; finished runs of this table here: {others}")
    return 0


def _check_target(table: tables.Table, folder: Path, others: str) -> None:
    """Refuse an empty table, and a folder that holds another one."""
    if not table.run_ids:
        available = f"; finished runs of this table here: {others}" if others else ""
        raise StoreError(f"no run enters table {table.number} ({table.conditions}), so nothing is written{available}.")
    for other in manifest.read(folder) or {}:
        if other.startswith("table") and other.endswith(".md") and other != f"table{table.number}.md":
            raise ConfigError(
                f"{folder} holds another table, {other}, with its runs: choose another folder with --out."
            )


def _check_no_run_is_lost(runs: pd.DataFrame, folder: Path) -> None:
    """Refuse to delete the runs of an earlier table that are not among the results any more."""
    names = [Path(name).parts for name in manifest.read(folder) or {}]
    lost = sorted({name[1] for name in names if name[0] == "runs"} - set(runs["run_id"]))
    if lost:
        raise StoreError(
            f"{folder} holds {len(lost)} runs that the results lack, {lost[0]} for one: choose another folder, or "
            "delete them with --force."
        )


def _write_table(table: tables.Table, runs: pd.DataFrame, folder: Path) -> None:
    name = f"table{table.number}"
    finished = runs[runs["status"].isin(FINISHED) & runs["run_id"].isin(table.run_ids)]
    texts = {f"{name}.{suffix}": render(table) for suffix, render in table_forms.FORMATS.items()}

    def fill(place: Path) -> None:
        files.write_texts(place, texts)
        for run_id, source in zip(finished["run_id"], finished["folder"], strict=True):
            store.copy_evidence(Path(str(source)), place / "runs" / str(run_id))

    outputs.renew(folder, fill, replaced=lambda name: name.startswith("runs/"))
