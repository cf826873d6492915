"""Write manifests for finished runs that have none: ``python scripts/seal_runs.py FOLDER...``.

First it is checked that the settings match the run's name, and that the result agrees with the history.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tmsgd_bench.errors import BenchError
from tmsgd_bench.results import evidence, store


def runs_below(folder: Path) -> list[Path]:
    """The folders of finished runs at or below a folder, without unpublished work folders."""
    runs = {path.parent.resolve() for path in folder.rglob(store.RESULT)}
    return sorted(run for run in runs if not any(name.startswith(".") for name in run.parts[-2:]))


def seal(run: Path) -> str:
    """Write a run's manifest, unless it has one or is damaged; returns the outcome as a word or a phrase."""
    problem = evidence.examine(run).problem
    if problem is None:
        return "has its manifest"
    if problem.fault != "unsealed":
        return f"not sealed: {problem}"
    store.seal(run)
    return "sealed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Seal runs; returns the exit code: 0 fine, 1 one is damaged, 2 bad input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="a run's, or one with runs below it")
    outcomes = {}
    for folder in parser.parse_args(arguments).folders:
        runs = runs_below(folder)
        if not runs:
            print(f"error: there is no finished run in {folder}: name a run's folder or a store.", file=sys.stderr)
            return 2
        try:
            outcomes |= {run: seal(run) for run in runs}
        except BenchError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    for run, outcome in outcomes.items():
        print(f"{run}: {outcome}")
    return int(any(outcome.startswith("not") for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
