"""Small runs of every task, and the stores that they leave when nothing disturbs them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.commands import Ended, bench, start
from faults.trial import BELIEVED, LOST, TRACEBACK, Fault, Place, read, short
from faults.wounds import Wound

SMALL = {
    "tc": ("data.limit=20", "epochs=4", "switch_epoch=2"),
    "ctr": ("data.limit=200", "epochs=2", "switch_epoch=1"),
    "seg": ("data.limit=8", "epochs=2", "switch_epoch=1"),
    "ig": ("data.limit=64", "epochs=2", "switch_epoch=1"),
    "ic": ("data.limit=64", "epochs=2", "switch_epoch=1"),
    "od": ("data.limit=8", "epochs=2", "switch_epoch=1"),
    "fkpd": ("data.limit=10", "epochs=1", "switch_epoch=1"),
}
FACTS = ("status", "final", "best", "best_epoch", "epochs_done", "weights_sha256")
"""Entries of a result that do not depend on when and how the run was trained."""
TEMPORARY = ("**/.*.tmp", "**/*.tmp", "**/*.part", "*/checkpoint-*.pt", "*/forced", "*/heartbeat.json")
PENDING = (".work/*", ".replaced/*", ".trunks/*")
"""Patterns of files that no store has when all its runs are finished."""


@dataclass(frozen=True)
class Undisturbed:
    """The result of a command that nothing disturbs.

    Args:
        facts: of every run, by run id.
        names: the files of every run.
        operations: how many operations on files of the store there were.
        seconds: how long it took.
    """

    facts: dict[str, dict[str, Any]]
    names: dict[str, list[str]]
    operations: int
    seconds: float


def settings(place: Place, store: Path, *chosen: str, data: Path | None = None) -> list[str]:
    """Arguments of run.py for a small run on synthetic data that writes a checkpoint after every epoch."""
    places = (f"data.root={data or place.data}", f"results.root={store}")
    fixed = ("data=synthetic", "protocol=smoke", "device=cpu", "workers=0", "progress=log", "checkpoint_seconds=0")
    return [*places, *fixed, *chosen]


def small(task: str, optimizer: str) -> tuple[str, ...]:
    """The settings of a small run."""
    return (f"task={task}", f"optimizer={optimizer}", *SMALL[task])


def undisturbed(place: Place, *chosen: str) -> Undisturbed:
    """The result of an undisturbed command, which is run once.

    Raises:
        Fault: it fails although nothing disturbs it.
    """
    return place.once(("undisturbed", chosen), lambda: _train_undisturbed(place, chosen))


def warm(place: Place) -> None:
    """Start the server from which processes are forked, because its imports take seconds."""
    place.once("server", lambda: start(["--version"], place.root / "output-first").wait())


def _train_undisturbed(place: Place, chosen: Sequence[str]) -> Undisturbed:
    warm(place)
    folder = place.fresh("undisturbed")
    begun = time.monotonic()
    started = start(settings(place, folder / "store", *chosen), folder / "output", Wound(folder / "store"))
    expect_success(started.wait())
    facts, names = facts_of(folder / "store"), names_of(folder / "store")
    return Undisturbed(facts, names, started.operations(), time.monotonic() - begun)


def facts_of(store: Path) -> dict[str, dict[str, Any]]:
    """The facts of every finished run of a store, by run id."""
    results = {path.parent.name: read(path) for path in sorted(store.glob("[!.]*/result.json"))}
    return {name: {fact: result.get(fact) for fact in FACTS} for name, result in results.items()}


def names_of(store: Path) -> dict[str, list[str]]:
    """The files of every finished run, by run id."""
    folders = [path.parent for path in store.glob("[!.]*/result.json")]
    return {folder.name: sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in folders}


def expect_success(ended: Ended) -> None:
    """Raise a Fault unless a command ended well."""
    if ended.checked().code != 0:
        raise Fault(LOST, f"exit code {ended.code}: {short(ended.output)}")


def expect_sentence(ended: Ended) -> None:
    """Raise a Fault unless a command ended with an error in one sentence."""
    errors = [line for line in ended.checked().output.splitlines() if line.startswith("error: ")]
    if ended.code == 0 or len(errors) != 1:
        raise Fault(TRACEBACK, f"no error in one sentence (exit code {ended.code}): {short(ended.output)}")


def expect_facts(store: Path, expected: dict[str, dict[str, Any]]) -> None:
    """Raise a Fault unless a store holds these runs with these results, and no others."""
    seen = facts_of(store)
    if missing := sorted(set(expected) - set(seen)):
        raise Fault(LOST, f"runs that are not there: {missing}")
    if changed := sorted(name for name in expected if seen[name] != expected[name]):
        raise Fault(BELIEVED, f"other results: {[(seen[name], expected[name]) for name in changed]}")
    if more := sorted(set(seen) - set(expected)):
        raise Fault(BELIEVED, f"runs that nobody asked for: {more}")


def expect_tidy(store: Path, names: dict[str, list[str]]) -> None:
    """Raise a Fault if a store has temporary files, or a run's folder has other files than it should."""
    left = [path for pattern in (*TEMPORARY, *PENDING) for path in store.glob(pattern) if ".sweeps" not in path.parts]
    if left:
        raise Fault(LOST, f"left over: {sorted(str(path.relative_to(store)) for path in left)}")
    if (seen := names_of(store)) != names:
        raise Fault(LOST, f"other files in the runs' folders: {seen} in place of {names}")


def expect_readable(store: Path) -> None:
    """Raise a Fault unless ``runs`` can read a store."""
    if store.exists():
        expect_success(bench("runs", "--results", str(store)))
