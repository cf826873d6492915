"""``targets``: how many epochs and seconds it takes to reach a fixed target."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd

from tmsgd_bench import files, outputs, terminal
from tmsgd_bench.cli import forms, stores
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import target_forms, targets
from tmsgd_bench.results.paper import every_experiment
from tmsgd_bench.version import LEVELS, PROTOCOLS


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "targets",
        help="epochs and seconds until a fixed target is reached",
        description="For each task: how many runs of each optimizer reach a fixed target, after how many epochs and "
        "seconds of training, and how that compares with SGD. A target is what SGD reaches at 75 % of its run; all are "
        "fixed in tmsgd_bench/results/targets.yaml. Only runs on real data that follow the protocol exactly are used.",
    )
    stores.add(parser)
    parser.add_argument("--task", help="only this task")
    parser.add_argument("--protocol", choices=PROTOCOLS, help="only this protocol (default: every one with targets)")
    forms.add(parser, target_forms.FORMATS)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="also write md, csv and tex there")
    parser.add_argument(
        "--freeze", action="store_true", help="print, for targets.yaml, the targets that it lacks and these runs give"
    )
    parser.set_defaults(action=print_targets)


def print_targets(options: argparse.Namespace) -> int:
    """Print the times to target and, with --out, write them in all formats."""
    runs = stores.filtered(stores.read(options.results), options, ["task"])
    if options.freeze:
        return _print_new(runs, options)
    tables = targets.build(runs, options.protocol)
    if not tables:
        raise StoreError(
            f"no finished run in {stores.listed(options.results)} has a target: see which runs there are with "
            "'python -m tmsgd_bench runs', and add their targets with --freeze."
        )
    if options.out is not None:
        texts = {f"targets.{suffix}": render(tables) for suffix, render in target_forms.FORMATS.items()}
        outputs.renew(stores.target(options, ""), lambda place: files.write_texts(place, texts))
    forms.say(tables, target_forms.FORMATS, options.format, target_forms.LEAST)
    return 0


def _print_new(runs: pd.DataFrame, options: argparse.Namespace) -> int:
    """Print the targets that are not fixed yet.

    Raises:
        StoreError: there is none.
    """
    protocols = [name for name in PROTOCOLS if name in LEVELS and options.protocol in (None, name)]
    entries = {protocol: dict(_new(runs, protocol, options)) for protocol in protocols}
    entries = {protocol: of_protocol for protocol, of_protocol in entries.items() if of_protocol}
    if not entries:
        raise StoreError(
            f"no finished run of SGD in {stores.listed(options.results)} gives a new target: those that they give are "
            "in targets.yaml already."
        )
    terminal.say(files.yaml_text(entries), end="")
    return 0


def _new(runs: pd.DataFrame, protocol: str, options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """The targets of a protocol that are not fixed; runs that follow several belong to the first of them."""
    known = targets.rules()["targets"].get(protocol, {})
    runs = runs[runs["protocols"].map(lambda names: names[:1] == (protocol,)).astype(bool)]
    for experiment in every_experiment(protocol):
        entry = None if experiment.key in known else targets.from_reference(runs, experiment, protocol)
        if entry is not None:
            source = stores.listed(options.results)
            yield experiment.key, {**entry, "source": source, "frozen": f"{date.today()}"}
