"""Trials of faults: their outcomes, their kinds, and the folder in which they take place."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

SURVIVED, LOST, BELIEVED, TRACEBACK = "survived", "lost", "believed", "traceback"
OUTCOMES = (SURVIVED, LOST, BELIEVED, TRACEBACK)


class Fault(Exception):
    """A fault that was not survived.

    Args:
        outcome: lost: a result or a file is gone, or the run cannot go on; believed: damaged values were used;
            traceback: a traceback was printed.
        detail: what was observed.
    """

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome, self.detail = outcome, detail


@dataclass(frozen=True)
class Trial:
    """One fault and its outcome.

    Args:
        kind: the kind's name.
        seed, number: with these and the kind, the trial can be repeated.
        outcome: one of OUTCOMES.
        fault: what was done.
        detail: what was observed, if it was not survived.
    """

    kind: str
    seed: int
    number: int
    outcome: str
    fault: str
    detail: str = ""

    @property
    def command(self) -> str:
        """The command that repeats the trial."""
        return f"python scripts/fault_campaign.py --only {self.kind} --seed {self.seed} --trial {self.number}"


@dataclass
class Attempt:
    """A trial while it is made.

    Args:
        place: the folder of the campaign.
        random: decides everything about the trial.
        number: of the trial within its kind, from 0.
        fault: what is done; set before it is done.
    """

    place: Place
    random: Random
    number: int
    fault: str = ""


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        name: as ``--only`` takes it.
        attempt: makes one trial; raises Fault if it was not survived.
        count: how many different trials there are; None if they have no end.
        hindrance: why it cannot be tried here; empty if it can.
        share: its part of the campaign's time, relative to the other kinds.
    """

    name: str
    attempt: Callable[[Attempt], None]
    count: int | None = None
    hindrance: Callable[[], str] = str
    share: float = 1.0

    def trials(self, place: Place, seed: int, first: int = 0) -> Iterator[Trial]:
        """Its trials one after the other, from the one numbered ``first``; each is made when it is asked for."""
        for number in itertools.count(first) if self.count is None else range(first, self.count):
            yield self.trial(place, seed, number)

    def trial(self, place: Place, seed: int, number: int) -> Trial:
        """One trial."""
        attempt = Attempt(place, Random(f"{self.name} {seed} {number}"), number)
        try:
            self.attempt(attempt)
        except Fault as fault:
            return Trial(self.name, seed, number, fault.outcome, attempt.fault, fault.detail)
        return Trial(self.name, seed, number, SURVIVED, attempt.fault)


@dataclass
class Place:
    """A scratch folder.

    Args:
        root: the folder.
        made: objects that are made once for many trials, by their keys.
    """

    root: Path
    made: dict[Any, Any] = field(default_factory=dict)
    folders: Iterator[int] = field(default_factory=itertools.count)

    @property
    def data(self) -> Path:
        """The folder of the synthetic data sets, whole."""
        return self.root / "data"

    def fresh(self, name: str) -> Path:
        """A new, empty folder."""
        folder = self.root / f"{next(self.folders):05d}-{name}"
        folder.mkdir(parents=True)
        return folder

    def copy(self, source: Path, name: str) -> Path:
        """A copy of a folder."""
        folder = self.fresh(name) / source.name
        shutil.copytree(source, folder, symlinks=True)
        return folder

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` returned the first time."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]


def read(path: Path) -> dict[str, Any]:
    """A JSON file's mapping; empty if there is none or it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def short(text: str, length: int = 600) -> str:
    """The end of a command's output."""
    return text.strip()[-length:]
