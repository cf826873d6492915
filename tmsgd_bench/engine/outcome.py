"""How the attempt to train a run ended, as logs and a sweep's summary tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tmsgd_bench.results.status import Status


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        run_id: its folder's name; empty if the settings were refused before it was known.
        status: done or diverged; skipped if the result was there already; in a sweep also busy, failed or unfinished.
        note: the metric, or what went wrong, for a person to read.
        saved: epochs that other runs had trained for it (see tmsgd_bench/engine/prefix.py).
    """

    run_id: str
    status: Status
    note: str
    saved: int = 0

    @classmethod
    def skipped(cls, run_id: str, result: Mapping[str, Any], remarks: str = "") -> Outcome:
        """The outcome of a run that has its result already.

        Args:
            result: the content of its result.json.
            remarks: what to add to the note.
        """
        return cls(run_id, Status.SKIPPED, f"already {result['status']}: {result['note']}{remarks}")
