"""``claims``: the paper's claims, each with our evidence and a verdict."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tmsgd_bench import files, outputs
from tmsgd_bench.cli import forms, stores
from tmsgd_bench.results import claim_forms, claims, numerical, table_forms
from tmsgd_bench.version import LEVELS


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "claims",
        help="the paper's claims, each with our evidence and a verdict",
        description="Each testable claim of the paper with its verdict by a fixed rule: supported, contradicted, "
        "no such difference, undecided or not yet tested. Each level of evidence has a verdict of its own. Only runs "
        "on real data that follow the protocol exactly are used.",
    )
    stores.add(parser)
    stores.add_numerics(parser)
    parser.add_argument(
        "--protocol",
        choices=tuple(LEVELS),
        help="only one level: the settings as printed (table2), with misprints corrected (corrected), of short runs "
        "on real data (reduced), or with tuned learning rates (tuned) (default: every level that has runs)",
    )
    forms.add(parser, claim_forms.FORMATS, default="text")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="also write md, csv and tex there")
    parser.set_defaults(action=print_claims)


def print_claims(options: argparse.Namespace) -> int:
    """Print the verdicts and, with --out, write them in all file formats."""
    runs = stores.read(options.results)
    verdicts = claims.evaluate(runs, numerical.read_numerics(stores.numerics_folder(options)), options.protocol)
    if options.out is not None:
        stores.check_some(runs, options)
        texts = {f"claims.{name}": claim_forms.FORMATS[name](verdicts) for name in table_forms.FORMATS}
        outputs.renew(stores.target(options, ""), lambda place: files.write_texts(place, texts))
    forms.say(
        verdicts,
        claim_forms.FORMATS,
        options.format,
        claim_forms.LEAST,
        default="text",
        drawn=claim_forms.to_drawn,
    )
    return 0
