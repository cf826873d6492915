"""Runs that are killed, at random moments and at chosen operations on files, and started again."""

from __future__ import annotations

import signal
from pathlib import Path

from faults import stores
from faults.commands import start
from faults.trial import Attempt, Kind
from faults.wounds import WHEN, Wound

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TASKS = (
    "tc",
    "tc",
    "ctr",
    "tc",
    "tc",
    "seg",
    "tc",
    "tc",
    "ctr",
    "tc",
    "ig",
    "tc",
    "tc",
    "ic",
    "tc",
    "tc",
    "od",
    "fkpd",
)
OPTIMIZERS = ("tmsgd", "adam", "tmsgd")
WAYS = ((), (), ("prefix=on",), ("force=true",))
"""Further settings: alone, with a trunk, and with a result that is to be replaced."""
PUBLICATION = 12
"""The last operations of a run publish it; they are tried more often."""
DEADLY = {signal.SIGKILL: {-9}, signal.SIGTERM: {-15, 143, 130}, signal.SIGINT: {130, -2}}
"""Exit codes of a process that a signal has ended."""


def attempt(trial: Attempt) -> None:
    """Kill a run once to three times, and start it once more to its end."""
    chosen, forced = _choose(trial)
    expected = stores.undisturbed(trial.place, *chosen)
    folder = trial.place.fresh("kills")
    store = folder / "store"
    if forced:
        stores.expect_success(start(stores.settings(trial.place, store, *chosen), folder / "output").wait())
    arguments = stores.settings(trial.place, store, *chosen, *(["force=true"] if forced else []))
    trial.fault = " ".join(arguments[8:])
    for number in range(trial.random.choice((1, 1, 2, 3))):
        _kill(trial, arguments, folder / f"output-{number}", expected)
        stores.expect_readable(store)
    stores.expect_success(start(arguments, folder / "output-last").wait())
    stores.expect_facts(store, expected.facts)
    stores.expect_tidy(store, expected.names)
    stores.expect_readable(store)


def _choose(trial: Attempt) -> tuple[tuple[str, ...], bool]:
    task = TASKS[trial.number % len(TASKS)]
    way = trial.random.choice(WAYS)
    chosen = stores.small(task, trial.random.choice(OPTIMIZERS))
    return (chosen, True) if way == ("force=true",) else ((*chosen, *way), False)


def _kill(trial: Attempt, arguments: list[str], output: Path, expected: stores.Undisturbed) -> None:
    """Start a run and kill it."""
    random = trial.random
    number = random.choice(SIGNALS)
    if random.random() < 0.3:
        after = random.uniform(0.0, expected.seconds)
        started = start(arguments, output)
        started.send(number, after)
        trial.fault += f"; {number.name} after {after:.2f} s"
    else:
        first = random.choice((1, 1, max(1, expected.operations - PUBLICATION)))
        wound = Wound(output.parent / "store", random.randint(first, expected.operations), random.choice(WHEN), number)
        started = start(arguments, output, wound)
        trial.fault += f"; {number.name} {wound.when} operation {wound.at} of {expected.operations}"
    ended = started.wait().checked()
    if ended.code not in DEADLY[number]:  # it had ended before, or had fewer operations left
        stores.expect_success(ended)
        trial.fault += " (came too late)"


KIND = Kind("kills", attempt, share=3.0)
