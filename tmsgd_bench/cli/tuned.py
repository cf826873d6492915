"""``tuned``: the optimizers with their best learning rates, side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tmsgd_bench.cli import forms, stores
from tmsgd_bench.cli.table import check_nothing_lost, write_with_runs
from tmsgd_bench.results import packed, tuned


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "tuned",
        help="does TM-SGD gain anything where each optimizer has its best learning rate?",
        description="For each task and model with a search, also for your own: the best learning rate of each "
        "optimizer, the metric on the validation split that chose it, the metric on the test split with fresh seeds, "
        "and TM-SGD compared with SGD and SGD-M.",
    )
    stores.add(parser)
    parser.add_argument("--data", choices=("real", "synthetic"), default="real", help="which runs (default: real)")
    forms.add(parser, tuned.FORMATS)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="also write there all formats, and the runs behind them in runs.parquet, in place of earlier ones",
    )
    parser.add_argument(
        "--force", action="store_true", help="with --out: delete there also runs that are in no other folder"
    )
    parser.set_defaults(action=print_tuned)


def print_tuned(options: argparse.Namespace) -> int:
    """Print the table and, with --out, write it in all formats beside copies of the runs behind it."""
    runs = stores.read(options.results)
    table = tuned.build(runs, options.data)
    if not table.rows:
        raise stores.no_search(runs, options)
    if options.out is not None:
        stores.check_apart(options.out, options)
        if not options.force:
            check_nothing_lost(table.run_ids, runs, options.out / packed.NAME)
        texts = {f"tuned.{suffix}": render(table) for suffix, render in tuned.FORMATS.items()}
        write_with_runs(options.out, texts, table.run_ids, runs)
    forms.say(table, tuned.FORMATS, options.format, tuned.LEAST)
    return 0
