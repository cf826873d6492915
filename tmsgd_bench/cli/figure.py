"""``figure``: a figure of the paper, drawn from the runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tmsgd_bench import terminal
from tmsgd_bench.cli import stores
from tmsgd_bench.version import PROTOCOLS

FIGURES = {
    "1": "tmsgd_bench.results.figure_keypoints",
    "2": "tmsgd_bench.results.figure_samples",
    "switch": "tmsgd_bench.results.figure_switch",
}


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "figure",
        help="a figure of the paper, drawn from the runs",
        description="Figure 1: key points found on seven test faces (task fkpd). Figure 2: images by each optimizer's "
        "generator while it trains (task ig). A row for each optimizer, from runs alike in all else. 'switch', "
        "which the paper does not have: the final metric against the switch epoch, from experiment=switch.",
    )
    parser.add_argument("number", metavar="NAME", choices=tuple(FIGURES), help=" or ".join(FIGURES))
    stores.add_stores(parser, numerics=False)
    parser.add_argument("--data", choices=("real", "synthetic"), default="real", help="which runs (default: real)")
    parser.add_argument(
        "--protocol", choices=(*PROTOCOLS, "any"), default="table2", help="which settings (default: table2)"
    )
    parser.add_argument("--seed", type=int, help="of the runs (default: the one that most optimizers have)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where to write it (default, for the runs in results/runs alone: results/figures)",
    )
    parser.set_defaults(action=draw_figure)


def draw_figure(options: argparse.Namespace) -> int:
    """Draw a figure of the paper."""
    import importlib  # matplotlib, which most other commands do not need

    module = importlib.import_module(FIGURES[options.number])
    protocol = None if options.protocol == "any" else options.protocol
    runs = stores.read_all(options.results)
    written = module.write(runs, stores.target(options, "figures"), options.data, protocol, options.seed)
    terminal.say(f"Written: {', '.join(map(str, written))}.")
    return 0
