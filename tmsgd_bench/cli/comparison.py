"""``compare``: optimizers side by side, with any settings."""

from __future__ import annotations

import argparse
from typing import Any

from tmsgd_bench import terminal
from tmsgd_bench.cli import stores
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import comparison


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "compare",
        help="optimizers side by side, with any settings",
        description="Groups of finished runs that differ only in optimizer and seed: mean ± standard deviation, and "
        "the difference to a reference, paired by seed. For your own optimizer, other settings, partial data.",
    )
    stores.add(parser)
    parser.add_argument("--task", help="only runs of this task")
    parser.add_argument("--reference", default="sgd", help="the optimizer to compare with (default: sgd)")
    parser.add_argument("--format", choices=tuple(comparison.FORMATS), default="md", help="default: md")
    parser.set_defaults(action=print_comparison)


def print_comparison(options: argparse.Namespace) -> int:
    """Print every group of runs that can be compared."""
    groups = comparison.build(stores.filtered(stores.read(options.results), options, ["task"]), options.reference)
    if not groups:
        raise StoreError(f"no run in {stores.listed(options.results)} has finished: there is nothing to compare yet.")
    terminal.say(comparison.FORMATS[options.format](groups), end="")
    return 0
