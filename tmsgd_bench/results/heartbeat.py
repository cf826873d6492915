"""Signs of life of a run in training: who trains it, since when, and how far it is.

A file lock keeps two processes of one machine from training the same run. On a shared file system, a lock may not be
seen by other machines. So the process that trains a run also writes a heartbeat (tmsgd_bench/engine/signs_of_life.py),
and a fresh one keeps other machines away.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tmsgd_bench.files import read_json
from tmsgd_bench.results.record import NONE, NUMBER, TEXT, WHOLE

log = logging.getLogger(__name__)
NAME = "heartbeat.json"
SECONDS = 5.0
"""Between two heartbeats."""
STALE_SECONDS = 60.0
"""A heartbeat older than this is of a dead process. The clocks of machines that share a store must agree this well."""


KINDS = {
    "host": TEXT | NONE,
    **dict.fromkeys(("started", "time"), NUMBER | NONE),
    **dict.fromkeys(("pid", "epoch", "epochs", "trained"), WHOLE | NONE),
}
"""The kind of each value; none must be there."""


def read(folder: Path) -> dict[str, Any]:
    """The last heartbeat in a work folder; empty if there is none, or it is damaged, which is said."""
    beat = read_json(folder / NAME) or {}
    wrong = [key for key, kind in KINDS.items() if not kind.holds(beat.get(key))]
    if wrong:
        log.warning("%s is passed over: %s is not of its kind", folder / NAME, ", ".join(wrong))
    return {} if wrong else beat


def elsewhere(folder: Path) -> dict[str, Any]:
    """The heartbeat of a living process on another machine; empty if there is none."""
    beat = read(folder)
    alive = beat.get("host") not in (None, socket.gethostname()) and age(beat) < STALE_SECONDS
    return beat if alive else {}


def age(beat: Mapping[str, Any]) -> float:
    """Seconds since a heartbeat; infinite if it does not say when it was."""
    seen = beat.get("time")
    return float("inf") if seen is None else abs(time.time() - seen)


def process(beat: Mapping[str, Any]) -> str:
    """Who trains the run, for a person to read."""
    known = beat.get("pid") is not None and beat.get("host") is not None
    return f"process {beat['pid']} on {beat['host']}" if known else "another process"


def progress(beat: Mapping[str, Any]) -> str:
    """Time left, who, and when it was last seen; as much of it as is known."""
    if not beat:
        return ""
    seen = process(beat) if beat.get("time") is None else f"{process(beat)}, seen {age(beat):.0f} s ago"
    return ", ".join(filter(None, [_time_left(beat), seen]))


def _time_left(beat: Mapping[str, Any]) -> str:
    trained = beat.get("trained") or 0
    if trained <= 0 or any(beat.get(key) is None for key in ("time", "started", "epochs", "epoch")):
        return ""
    left = (beat["time"] - beat["started"]) / trained * (beat["epochs"] - beat["epoch"])
    return f"about {left / 60:.0f} min left"
