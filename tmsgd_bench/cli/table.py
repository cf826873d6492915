"""``table``: a table of the paper with our numbers beside the printed ones."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tmsgd_bench import files, manifest, outputs, terminal
from tmsgd_bench.cli import forms, stores
from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.results import packed, packing, table_forms, tables
from tmsgd_bench.results.paper import paper
from tmsgd_bench.results.status import FINISHED
from tmsgd_bench.version import PROTOCOLS
from tmsgd_bench.wording import number_of


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "table",
        help="a table of the paper with our numbers beside the printed ones",
        description="A table of the paper: its value, ours as mean ± standard deviation over n seeds, and the "
        "difference to SGD paired by seed with its interval. Only runs that follow the protocol exactly are used.",
    )
    parser.add_argument("number", metavar="NUMBER", help=f"the paper's number: {', '.join(paper()['tables'])}")
    stores.add(parser, several=False)
    parser.add_argument("--data", choices=("real", "synthetic"), default="real", help="which runs (default: real)")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="table2", help="which settings (default: table2)")
    forms.add(parser, table_forms.FORMATS)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="also write there all formats, and the runs behind them in runs.parquet, in place of an earlier table's",
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
        stores.check_apart(options.out, options)
        _check_target(table, options.out, others)
        if not options.force:
            check_nothing_lost(table.run_ids, runs, options.out / packed.NAME)
        texts = {f"table{table.number}.{suffix}": render(table) for suffix, render in table_forms.FORMATS.items()}
        write_with_runs(options.out, texts, table.run_ids, runs)
    forms.say(table, table_forms.FORMATS, options.format, table_forms.LEAST)
    if others:
        terminal.warn(f"no run has these conditions; finished runs of this table here: {others}")
    return 0


def _check_target(table: tables.Table, folder: Path, others: str) -> None:
    """Refuse an empty table, and a folder that holds another one."""
    if not table.run_ids:
        finished = f"; finished runs of this table here: {others}" if others else ""
        raise StoreError(f"no run enters table {table.number} ({table.conditions}), so nothing is written{finished}.")
    for other in manifest.read(folder) or {}:
        if other.startswith("table") and other.endswith(".md") and other != f"table{table.number}.md":
            raise ConfigError(
                f"{folder} holds another table, {other}, with its runs: choose another folder with --out."
            )


def check_nothing_lost(run_ids: set[str], runs: pd.DataFrame, path: Path) -> None:
    """Refuse to lose runs of an earlier table: each must be written again, or be in another store as well.

    Args:
        run_ids: that are written.
        runs: of the stores.
        path: of the packed runs of the earlier table.

    Raises:
        StoreError: a run would be lost.
    """
    if not path.exists():
        return
    elsewhere = [run["run_id"] for _, run in runs.iterrows() if Path(run["folder"]).parent.resolve() != path.resolve()]
    lost = sorted(set(packed.read(path)) - run_ids - set(elsewhere))
    if lost:
        raise StoreError(
            f"{path} holds {number_of(len(lost), 'run')} that the results lack, {lost[0]} for one: "
            f"add them to the results with 'python -m tmsgd_bench unpack {path} --out STORE', choose another "
            "folder, or delete them with --force."
        )


def write_with_runs(folder: Path, texts: Mapping[str, str], run_ids: set[str], runs: pd.DataFrame) -> None:
    """Write texts into a folder, and the finished runs behind them, packed.

    Args:
        folder: made if missing.
        texts: by the names of their files.
        run_ids: of the runs behind them.
        runs: of the stores.

    Raises:
        StoreError: see :func:`tmsgd_bench.outputs.renew`.
    """
    evidence = runs[runs["status"].isin(FINISHED) & runs["run_id"].isin(run_ids)]
    packed_runs = {run["run_id"]: packing.files_of(Path(run["folder"])) for _, run in evidence.iterrows()}

    def fill(place: Path) -> None:
        files.write_texts(place, texts)
        packed.write(place / packed.NAME, packed_runs)

    outputs.renew(folder, fill)
