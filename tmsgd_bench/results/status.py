"""What has become of a run, and of a sweep's job: one word each, the same in files, frames and messages."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """A word for a run in the store, or for the attempt of a job to bring a run to its result."""

    DONE = "done"
    """All epochs are trained."""
    DIVERGED = "diverged"
    """The loss stopped being finite: a result, not a crash."""
    FAILED = "failed"
    """An error ended it; the same command tries again."""
    RUNNING = "running"
    """A process trains it now."""
    ABANDONED = "abandoned"
    """It was interrupted; the same command goes on with it."""
    DAMAGED = "damaged"
    """Its folder is not what was published there."""
    SKIPPED = "skipped"
    """The job found its run's result."""
    BUSY = "busy"
    """The job found another process that trains its run."""
    UNFINISHED = "unfinished"
    """The job was not started, or ended without an outcome."""
    INTERRUPTED = "interrupted"
    """A signal ended the attempt; trackers are told so."""


FINISHED = (Status.DONE, Status.DIVERGED)
"""A run's that has a result."""
OF_RUNS = (*FINISHED, Status.FAILED, Status.RUNNING, Status.ABANDONED, Status.DAMAGED)
"""Those that a run in the store may have."""
OF_JOBS = (Status.DONE, Status.SKIPPED, Status.DIVERGED, Status.BUSY, Status.FAILED, Status.UNFINISHED)
"""Those that a job of a sweep may have, in the order of its summary."""
