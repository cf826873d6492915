"""How the attempt to train a run ended, as logs and a sweep's summary tell it."""

from __future__ import annotations

import math
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
        score: see :func:`score`.
    """

    run_id: str
    status: Status
    note: str
    saved: int = 0
    score: float | None = None

    @classmethod
    def skipped(cls, run_id: str, result: Mapping[str, Any], remarks: str = "") -> Outcome:
        """The outcome of a run that has its result already.

        Args:
            result: the content of its result.json.
            remarks: what to add to the note.
        """
        note = f"already {result['status']}: {result['note']}{remarks}"
        return cls(run_id, Status.SKIPPED, note, score=score(result))


def score(result: Mapping[str, Any]) -> float:
    """The number that a sweeper such as Optuna's minimises: the smaller, the better the run.

    It is the primary metric after the last epoch, with its sign changed if larger is better. A run that diverged, or
    whose metric is not finite, is worse than any other: infinity. A run without a result has no score, which Optuna
    counts as a failed trial; NaN in its place would end the study.

    Args:
        result: the content of result.json.

    Example:
        >>> score({"status": "done", "direction": "max", "final": 90.5})
        -90.5
    """
    final = result["final"] if result["status"] == Status.DONE else None
    if final is None or not math.isfinite(final):
        return math.inf
    return -float(final) if result["direction"] == "max" else float(final)
