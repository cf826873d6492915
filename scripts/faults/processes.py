"""Many processes at once train the same runs in one store: each run must be trained once."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from faults import stores
from faults.commands import Ended, Started, start
from faults.trial import BELIEVED, LOST, Attempt, Fault, Kind, read, short

PROCESSES = 16
BUSY = re.compile(r"error: (\S+) is being trained by ")


def attempt(trial: Attempt) -> None:
    """Start 16 commands for a few runs that share a trunk, and then each of them once more."""
    chosen = [(*stores.small("tc", name), "prefix=on") for name in ("sgd", "tmsgd", "adam")]
    folder, expected = trial.place.fresh("processes"), dict[str, dict[str, object]]()
    for run in chosen:
        expected |= stores.undisturbed(trial.place, *run).facts
    picked = [trial.random.choice(chosen) for _ in range(PROCESSES)]
    trial.fault = f"at once: {', '.join(run[1] for run in picked)}"

    def begin(run: tuple[str, ...], number: int) -> Started:
        return start(stores.settings(trial.place, folder / "store", *run), folder / f"output-{number}")

    at_once = [begin(run, number) for number, run in enumerate(picked)]
    ended = [process.wait().checked() for process in at_once]
    ended += [begin(run, number).wait().checked() for number, run in enumerate(chosen, PROCESSES)]
    _expect_once(ended, expected)
    stores.expect_facts(folder / "store", expected)
    _expect_shared(folder / "store")
    shutil.rmtree(folder)


def _expect_once(ended: list[Ended], expected: dict[str, dict[str, object]]) -> None:
    for command in ended:
        if command.code != 0 and not BUSY.search(command.output):
            raise Fault(LOST, f"exit code {command.code}: {short(command.output)}")
    for run_id in expected:
        trained = sum(f"{run_id}: done:" in command.output for command in ended)
        if trained != 1:
            raise Fault(BELIEVED, f"{run_id} was trained {trained} times")


def _expect_shared(store: Path) -> None:
    """Raise a Fault if the runs of one trunk disagree on which run trained how many of its epochs."""
    notes = [read(path).get("prefix") or {} for path in store.glob("tc-*/result.json")]
    trained = [sum(note["trained_by"].values()) for note in notes if note]
    epochs = [note["epochs"] for note in notes if note]
    if trained != epochs:
        raise Fault(BELIEVED, f"the runs note {trained} trained epochs of a trunk with {epochs}")


KIND = Kind("processes", attempt, share=0.7)
