"""Runs that were killed, and whose checkpoints, trunk states, heartbeats and settings are damaged: they go on."""

from __future__ import annotations

import shutil
from pathlib import Path

from faults import stores
from faults.commands import bench, start, train
from faults.damage import damage, regular_files
from faults.trial import LOST, Attempt, Fault, Kind, Place, short
from faults.wounds import Wound

CHOSEN = (*stores.small("tc", "tmsgd"), "prefix=on")
LATE = 0.75
"""When the run is killed, as a share of its operations: with states of its own, and some of its trunk."""
KINDS_OF_FILES = (".work/*/checkpoint-*.pt", ".trunks/*/checkpoint-*.pt", ".work/*/*.json", ".work/*/*.yaml", "**/*")


def attempt(trial: Attempt) -> None:
    """Damage one or two files of a killed run, look at it, and start it again."""
    folder = trial.place.copy(_killed(trial.place), "torn-runs")
    expected = stores.undisturbed(trial.place, *CHOSEN)
    for _ in range(trial.random.choice((1, 1, 2))):
        files = regular_files(folder, trial.random.choice(KINDS_OF_FILES)) or regular_files(folder)
        path = trial.random.choice(files)
        trial.fault += f"{path.relative_to(folder)}: {damage(path, trial.random)}; "
    bench("runs", "--results", str(folder)).checked()
    ended = train(stores.settings(trial.place, folder, *CHOSEN), folder.parent / "said").checked()
    if ended.code != 0:
        raise Fault(LOST, f"it does not go on (exit code {ended.code}): {short(ended.said)}")
    stores.expect_facts(folder, expected.facts)
    stores.expect_tidy(folder, expected.names)
    shutil.rmtree(folder.parent)


def _killed(place: Place) -> Path:
    """The store of a run that was killed when it had left checkpoints; made once."""
    return place.once("killed", lambda: _kill(place))


def _kill(place: Place) -> Path:
    expected = stores.undisturbed(place, *CHOSEN)
    store = place.fresh("killed") / "store"
    wound = Wound(store, int(LATE * expected.operations))
    start(stores.settings(place, store, *CHOSEN), store.parent / "said", wound).wait()
    if not (list(store.glob(KINDS_OF_FILES[0])) and list(store.glob(KINDS_OF_FILES[1]))):
        raise Fault(LOST, f"a run killed at operation {wound.at} of {expected.operations} has no states to go on from")
    return store


KIND = Kind("torn-runs", attempt)
