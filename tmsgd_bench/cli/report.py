"""``report``: everything as HTML pages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tmsgd_bench import terminal
from tmsgd_bench.cli import stores


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "report",
        help="everything as HTML pages, and their tables as Markdown, CSV and LaTeX",
        description="Write an HTML page with verdicts, tables, curves and settings, another with the runs behind every "
        "number, and beside them the tables as Markdown, CSV and LaTeX.",
    )
    stores.add(parser)
    stores.add_numerics(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="the folder to write into (default, only for the runs in results/runs: results/runs-out/report)",
    )
    parser.set_defaults(action=write_report)


def write_report(options: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    from tmsgd_bench.results import report  # imports matplotlib and jinja2

    runs = stores.read(options.results)
    stores.check_some(runs, options)
    path = report.write(runs, stores.numerics_folder(options), stores.target(options, "report"))
    terminal.say(f"The report is in {path}.")
    return 0
