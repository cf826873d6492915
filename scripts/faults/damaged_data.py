"""Damaged data files, prepared files and proposals: no run may end with other weights under the same name."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from faults import stores
from faults.commands import Ended, train
from faults.damage import damage, regular_files
from faults.trial import BELIEVED, Attempt, Fault, Kind, Place

PROPOSALS = ("task=od", "model=fast_rcnn", "optimizer=sgd", *stores.SMALL["od"])
SHORT_KEY_POINTS = ("task=fkpd", "optimizer=sgd", "data.limit=4", "epochs=1", "switch_epoch=1")
RUNS = (
    stores.small("ctr", "sgd"),
    stores.small("tc", "sgd"),
    stores.small("seg", "sgd"),
    stores.small("ctr", "tmsgd"),
    stores.small("seg", "tmsgd"),
    stores.small("ig", "sgd"),
    PROPOSALS,
    stores.small("ic", "sgd"),
    SHORT_KEY_POINTS,
)
PATTERNS = ("**/.cache/**/*", "**/.cache/**/*", "synthetic/*/**/*")


def attempt(trial: Attempt) -> None:
    """Damage a file that a run reads, and train the run in a new store."""
    chosen = RUNS[trial.number % len(RUNS)]
    whole, expected = _prepared(trial.place, chosen)
    data = trial.place.copy(whole, "damaged-data")
    pattern = trial.random.choice(PATTERNS)
    path = trial.random.choice(regular_files(data, pattern) or regular_files(data))
    trial.fault = f"{' '.join(chosen)}; {path.relative_to(data)}: {damage(path, trial.random)}"
    ended = _train(trial.place, data, chosen).checked()
    if ended.code != 0:
        stores.expect_sentence(ended)
    seen = stores.facts_of(data.parent / "store")
    for run_id in expected.keys() & seen.keys():
        if seen[run_id] != expected[run_id]:
            raise Fault(BELIEVED, f"{run_id}: {seen[run_id]} in place of {expected[run_id]}")
    shutil.rmtree(data.parent)


def _prepared(place: Place, chosen: Sequence[str]) -> tuple[Path, dict[str, dict[str, object]]]:
    """A data folder with what a run has prepared in it, and the run's result; made once."""
    return place.once(("prepared", chosen), lambda: _prepare(place, chosen))


def _prepare(place: Place, chosen: Sequence[str]) -> tuple[Path, dict[str, dict[str, object]]]:
    data = place.fresh("prepared") / "data"
    stores.expect_success(_train(place, data, chosen))
    return data, stores.facts_of(data.parent / "store")


def _train(place: Place, data: Path, chosen: Sequence[str]) -> Ended:
    arguments = stores.settings(place, data.parent / "store", *chosen, data=data)
    return train(arguments, data.parent / "output")


KIND = Kind("damaged-data", attempt, share=1.5)
