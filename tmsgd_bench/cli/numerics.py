"""``numerics``: numerical experiments with the multistep methods."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tmsgd_bench import terminal
from tmsgd_bench.cli import stores
from tmsgd_bench.numerics import NAMES


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "numerics",
        help="numerical experiments with the multistep methods: order, stability, early phase, noise",
        description="Numerical experiments in the spirit of the paper's section III-B: the optimizer as an integrator "
        "of gradient flows. The paper announces such experiments and omits their details; these problems and settings "
        "are this project's own. Prints tables, and writes figures (PNG, PDF) and the numbers behind them (CSV). Needs "
        "no data and less than a minute.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=stores.place_of("numerics"),
        metavar="FOLDER",
        help=f"for figures and numbers (default: {stores.place_of('numerics')})",
    )
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=f"some of {', '.join(NAMES)}"
    )
    parser.set_defaults(action=run_numerics)


def run_numerics(options: argparse.Namespace) -> int:
    """Run the numerical experiments and write their figures and numbers."""
    from tmsgd_bench.numerics import report  # imports torch and matplotlib

    report.run(options.out, options.only, terminal.say)
    terminal.say(f"Figures and numbers are in {options.out}.")
    return 0
