"""``figure``: a figure of the paper, drawn from the runs."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tmsgd_bench
from tmsgd_bench import terminal
from tmsgd_bench.checks import shown
from tmsgd_bench.cli import stores
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.results.paper import OWN_PROTOCOL
from tmsgd_bench.version import PROTOCOLS

FIGURES = {
    "switch": (
        "tmsgd_bench.results.figure_switch",
        "the final metric against the switch epoch (not in the paper; of runs by experiment=switch)",
    ),
    "gains": (
        "tmsgd_bench.results.figure_gains",
        "what TM-SGD gains over SGD in every experiment, measured and printed (not in the paper)",
    ),
    "lr": (
        "tmsgd_bench.results.figure_lr",
        "the metric against the learning rate of each optimizer (not in the paper; of runs by experiment=search)",
    ),
}
"""Figures that do not belong to a task: the module that draws each, and what it shows."""


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "figure",
        help="a figure of the paper, drawn from the runs",
        description="".join(f"Figure {name}: {about}. " for name, (_, about) in figures().items())
        + "The runs in a figure differ in nothing else.",
    )
    parser.add_argument("number", metavar="NAME", help=" or ".join(figures()))
    stores.add(parser)
    parser.add_argument("--data", choices=("real", "synthetic"), default="real", help="which runs (default: real)")
    parser.add_argument(
        "--protocol",
        choices=(*PROTOCOLS, "any"),
        help="which settings (default: table2; of figure lr: tuned, which alone has it; of figure gains: any)",
    )
    parser.add_argument("--task", help="only runs of this task")
    parser.add_argument("--seed", type=int, help="of the runs (default: the one that most optimizers have)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="the folder to write into (default, only for the runs in results/runs: results/runs-out/figures)",
    )
    parser.set_defaults(action=draw_figure)


def draw_figure(options: argparse.Namespace) -> int:
    """Draw a figure of the paper."""
    import importlib  # the module imports matplotlib, which most other commands do not need

    module = importlib.import_module(_drawn_by(options.number))
    asked = options.protocol or getattr(module, "PROTOCOL", OWN_PROTOCOL)
    protocol = None if asked == "any" else asked
    runs = stores.filtered(stores.read(options.results), options, ["task"])
    written = module.write(runs, stores.target(options, "figures"), options.data, protocol, options.seed)
    terminal.say(f"Written: {', '.join(map(str, written))}.")
    return 0


def figures() -> dict[str, tuple[str, str]]:
    """Every figure by its name: the module that draws it, and what is on it."""
    beside = Path(tmsgd_bench.__file__).resolve().parents[1] / "tasks" / "__init__.py"
    spec = find_spec("tasks")  # other packages have that name too
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != beside:
        return FIGURES
    import tasks

    return {**tasks.FIGURES, **FIGURES}


def _drawn_by(name: str) -> str:
    """The module that draws a figure."""
    known = figures()
    if name in known:
        return known[name][0]
    sentence = f"there is no figure {shown(name)} here: name one of {', '.join(known)}"
    if len(known) > len(FIGURES):
        raise ConfigError(f"{sentence}.")
    raise ConfigError(
        f"{sentence}, or start 'python -m tmsgd_bench figure' in the checkout's folder, whose tasks draw the paper's."
    )
