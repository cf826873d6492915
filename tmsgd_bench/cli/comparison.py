"""``compare``: optimizers side by side, with any settings."""

from __future__ import annotations

import argparse
from typing import Any

from tmsgd_bench.cli import forms, stores
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import comparison


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "compare",
        help="optimizers side by side, with any settings",
        description="Groups of finished runs that differ only in optimizer, its settings (such as the learning rate) "
        "and seed: mean ± standard deviation, and the difference to a reference, paired by seed. For your own "
        "optimizer, other settings, partial data.",
    )
    stores.add(parser)
    parser.add_argument("--task", help="only runs of this task")
    parser.add_argument(
        "--reference",
        metavar="NAME[,SETTING=VALUE]",
        help="the row to compare with: adam, or sgd,lr=0.1 if the optimizer has several rows (default: sgd, and no "
        "differences where no run has it; of several rows one that follows a protocol; then the one with most runs, "
        "on the validation split the best one, and last the smallest learning rate)",
    )
    parser.add_argument(
        "--group-by",
        nargs="+",
        default=[],
        metavar="SETTING",
        help="a table for each value of an optimizer's setting, such as lr (default: all values in one table)",
    )
    forms.add(parser, comparison.FORMATS)
    parser.set_defaults(action=print_comparison)


def print_comparison(options: argparse.Namespace) -> int:
    """Print every group of runs that can be compared."""
    runs = stores.filtered(stores.read(options.results), options, ["task"])
    stores.check_some(runs, options)
    groups = comparison.build(runs, options.reference, options.group_by)
    if not groups:
        raise StoreError(f"no run in {stores.listed(options.results)} has finished: there is nothing to compare yet.")
    forms.say(groups, comparison.FORMATS, options.format, comparison.LEAST)
    return 0
