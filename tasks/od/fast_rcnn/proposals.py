"""Proposals ahead of time, or from elsewhere: ``python -m tasks.od.fast_rcnn.proposals compute`` or ``import FILE...``.

A run computes what it lacks by itself. This does it on another machine, or before a sweep begins.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch

from tasks.od.fast_rcnn import imported, regions
from tasks.od.fast_rcnn.regions import Source
from tasks.od.fast_rcnn.selective_search import Search
from tasks.od.options import MODES, OWN
from tasks.voc import SPLITS, image_splits
from tmsgd_bench.checks import whole
from tmsgd_bench.engine.task_data import TaskData
from tmsgd_bench.errors import BenchError
from tmsgd_bench.task import TaskSettings

YEARS = ("2007", "2012", "2007+2012")
LIMIT = 2000


def compute(options: argparse.Namespace) -> None:
    """Selective search in every image that a run trains or tests on.

    Raises:
        DataError: the data are missing and cannot be downloaded, are not as published, or OpenCV's selective search is
            not installed.
    """
    if options.jobs is not None:
        whole(1, 4096)("--jobs", options.jobs)
    search = Search(**{field.name: getattr(options, field.name) for field in fields(Search)})
    source = Source(OWN, search, LIMIT, 0)
    settings = _settings(options)
    for split in image_splits(settings, "Main", options.splits):
        proposals = regions.proposals(split, source, options.jobs)
        folder = regions.folder(settings.data_folder)
        print(f"{len(proposals.boxes):,} proposals of {len(proposals):,} images are in {folder}")


def _settings(options: argparse.Namespace) -> TaskSettings:
    """What a run on the same data is told: with another fingerprint it would decode the images once more."""
    name = "+".join(f"voc{year}" for year in options.years.split("+"))
    needs_test = options.splits.endswith("/test") or not options.verify  # as the run has it
    data = TaskData(name, _kind(options), options.root, options.verify, needs_test)
    return data.settings(data.ready(), data.fingerprint(), torch.device("cpu"))


def _kind(options: argparse.Namespace) -> str:
    return "synthetic" if options.synthetic else "real"


def bring(options: argparse.Namespace) -> None:
    """Import files, and say how a run uses what was in them.

    Raises:
        DataError: a file cannot be used.
        StoreError: the data root cannot be written.
    """
    data_folder = TaskData("voc2007", _kind(options), options.root).folder  # the years lie side by side
    name = imported.keep(regions.folder(data_folder), options.files)
    print(f"imported: use it with model.proposals.kind={name}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tasks.od.fast_rcnn.proposals", description=__doc__)
    commands = parser.add_subparsers(required=True)
    ahead = commands.add_parser("compute", help="selective search in all images; what is there already is left")
    ahead.add_argument("--splits", choices=SPLITS, default=SPLITS[0], help="as task.splits; default %(default)s")
    ahead.add_argument("--jobs", type=int, help="processes; default: as many as there are cores")
    for field in fields(Search):
        flag = f"--{field.name.replace('_', '-')}"
        choices = MODES if field.name == "mode" else None
        ahead.add_argument(flag, type=type(field.default), default=field.default, choices=choices, help="%(default)s")
    ahead.set_defaults(action=compute)
    ahead.add_argument("--no-verify", dest="verify", action="store_false", help="as data.verify=false")
    ahead.add_argument("--years", choices=YEARS, default=YEARS[0], help="as data.years; default %(default)s")
    other = commands.add_parser("import", help="proposals that were computed elsewhere: .mat or .npz")
    other.add_argument("files", type=Path, nargs="+", metavar="FILE", help="those of all images of a run")
    other.set_defaults(action=bring)
    for command in (ahead, other):
        command.add_argument("--root", help="folder of the data sets (default: $TMSGD_DATA or the user's cache folder)")
        command.add_argument("--synthetic", action="store_true", help="the synthetic data, as data=synthetic")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and act; returns the exit code: 0 fine, 2 bad input, 130 interrupted."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        options.action(options)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what was found is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
