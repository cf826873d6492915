"""Try faults on runs, results and data: kills, damage, full disks, hostile files. Is anything lost, or damage believed?

python scripts/fault_campaign.py --seconds 600 --seed 0
python scripts/fault_campaign.py --only kills --seed 0 --trial 17      # one trial again
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from faults import (
    archives,
    corruptions,
    damaged_data,
    full_disk,
    hostile_stores,
    kills,
    processes,
    sweep_kills,
    torn_runs,
    wrong_values,
)
from faults.trial import OUTCOMES, SURVIVED, Kind, Place, Trial

from tmsgd_bench import terminal

MODULES = (
    kills,
    corruptions,
    torn_runs,
    damaged_data,
    full_disk,
    archives,
    hostile_stores,
    wrong_values,
    processes,
    sweep_kills,
)
"""The quickest kinds first, so that each kind has a turn in a short campaign."""
KINDS = {module.KIND.name: module.KIND for module in MODULES}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; returns the exit code: 0 if every fault was survived, 1 if not, 2 for bad input."""
    options = _parser().parse_args(arguments)
    place = Place(Path(tempfile.mkdtemp(prefix="faults-")))
    try:
        return campaign(place, options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        if options.keep:
            print(f"scratch folder: {place.root}")
        else:
            shutil.rmtree(place.root, ignore_errors=True)


def campaign(place: Place, options: argparse.Namespace) -> int:
    """Make trials until the time is over, and print a table of their outcomes."""
    kinds = [KINDS[name] for name in options.only or KINDS]
    hindered = {kind.name: reason for kind in kinds if (reason := kind.hindrance())}
    kinds = [kind for kind in kinds if kind.name not in hindered]
    trials = list(_trials(place, kinds, options))
    print(table(trials))
    for name, reason in hindered.items():
        print(f"skipped: {name}: {reason}")
    return 0 if trials and all(trial.outcome == SURVIVED for trial in trials) else 1


def _trials(place: Place, kinds: Sequence[Kind], options: argparse.Namespace) -> Iterator[Trial]:
    trials: Iterator[Trial]
    if options.trial is not None:
        trials = (kind.trial(place, options.seed, options.trial) for kind in kinds)
    else:
        trials = in_turn(place, kinds, options.seed, options.seconds)
    for trial in trials:
        if trial.outcome != SURVIVED:
            print(f"{trial.outcome}: {trial.kind}: {trial.fault}\n  {trial.detail}\n  again: {trial.command}")
        elif options.verbose:
            print(f"{trial.outcome}: {trial.kind} {trial.number}: {trial.fault}")
        sys.stdout.flush()
        yield trial


def in_turn(place: Place, kinds: Sequence[Kind], seed: int, seconds: float) -> Iterator[Trial]:
    """Trials of all kinds until the time is over; the next is of the kind that has used least of its share of it."""
    end = time.monotonic() + seconds
    waiting = {kind.name: (kind, kind.trials(place, seed)) for kind in kinds}
    spent = dict.fromkeys(waiting, 0.0)
    while waiting and time.monotonic() < end:
        name = min(waiting, key=lambda name: spent[name])
        kind, trials = waiting[name]
        begun = time.monotonic()
        trial = next(trials, None)
        spent[name] += (time.monotonic() - begun) / kind.share
        if trial is None:
            del waiting[name]
        else:
            yield trial


def table(trials: Sequence[Trial]) -> str:
    """A table of the outcomes of each kind's trials, as text."""
    lines: list[tuple[str, ...]] = [("kind", "tried", *OUTCOMES)]
    for kind in dict.fromkeys(trial.kind for trial in trials):
        ends = Counter(trial.outcome for trial in trials if trial.kind == kind)
        lines.append((kind, str(ends.total()), *(str(ends[outcome]) for outcome in OUTCOMES)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="start no new trial after them (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="decides all faults (default: 0)")
    parser.add_argument("--only", nargs="+", choices=tuple(KINDS), metavar="KIND", help=f"some of {', '.join(KINDS)}")
    parser.add_argument("--trial", type=int, metavar="N", help="only the trial with this number, of every chosen kind")
    parser.add_argument("--keep", action="store_true", help="keep the scratch folder, and say where it is")
    parser.add_argument("--verbose", action="store_true", help="print the trials that were survived, too")
    return parser


if __name__ == "__main__":
    sys.exit(terminal.piped(main))
