"""Killed runs whose checkpoints, trunk states, heartbeats or settings are damaged: they must go on."""

from __future__ import annotations

import shutil
from pathlib import Path

from faults import stores
from faults.commands import Ended, bench, start, train
from faults.damage import damage, regular_files
from faults.trial import LOST, Attempt, Fault, Kind, Place, short
from faults.wounds import Wound
from tmsgd_bench.results.store import PREFIX

CHOSEN = (*stores.small("tc", "tmsgd"), "prefix=on")
LATE = 0.75
"""When the run is killed, as a share of its operations: late enough for checkpoints of its own and of its trunk."""
KINDS_OF_FILES = (".work/*/checkpoint-*.pt", ".trunks/*/checkpoint-*.pt", ".work/*/*.json", ".work/*/*.yaml", "**/*")


def attempt(trial: Attempt) -> None:
    """Damage one or two files of a killed run, look at it, and start it again."""
    folder = trial.place.copy(killed(trial.place), "torn-runs")
    expected = stores.undisturbed(trial.place, *CHOSEN)
    damaged = [_damage(trial, folder) for _ in range(trial.random.choice((1, 1, 2)))]
    bench("runs", "--results", str(folder)).checked()
    arguments = stores.settings(trial.place, folder, *CHOSEN)
    ended = train(arguments, folder.parent / "output").checked()
    if ended.code != 0:
        _follow_the_sentence(ended, damaged)
        stores.expect_success(train(arguments, folder.parent / "output"))
    stores.expect_facts(folder, expected.facts)
    stores.expect_tidy(folder, _without_lost_note(expected.names, damaged, folder))
    shutil.rmtree(folder.parent)


def _without_lost_note(names: dict[str, list[str]], damaged: list[Path], folder: Path) -> dict[str, list[str]]:
    """The files that the runs should have: a note of shared epochs that was damaged may be gone, or made anew."""
    if not any(path.name == PREFIX for path in damaged):
        return names
    return {
        run: [name for name in run_names if name != PREFIX or (folder / run / name).is_file()]
        for run, run_names in names.items()
    }


def _damage(trial: Attempt, folder: Path) -> Path:
    files = regular_files(folder, trial.random.choice(KINDS_OF_FILES)) or regular_files(folder)
    path = trial.random.choice(files)
    trial.fault += f"{path.relative_to(folder)}: {damage(path, trial.random)}; "
    return path


def _follow_the_sentence(ended: Ended, damaged: list[Path]) -> None:
    """Delete the file that an error names."""
    stores.expect_sentence(ended)
    named = [path for path in damaged if path.name in ended.output.rpartition("error: ")[2]]
    if not named:
        raise Fault(LOST, f"it does not go on, and names no damaged file: {short(ended.output)}")
    for path in named:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def killed(place: Place) -> Path:
    """The store of a run that was killed when it had checkpoints; made once."""
    return place.once("killed", lambda: _kill(place))


def _kill(place: Place) -> Path:
    expected = stores.undisturbed(place, *CHOSEN)
    store = place.fresh("killed") / "store"
    wound = Wound(store, int(LATE * expected.operations))
    start(stores.settings(place, store, *CHOSEN), store.parent / "output", wound).wait()
    if not (list(store.glob(KINDS_OF_FILES[0])) and list(store.glob(KINDS_OF_FILES[1]))):
        raise Fault(LOST, f"a run killed at operation {wound.at} of {expected.operations} has no states to go on from")
    return store


KIND = Kind("torn-runs", attempt)
