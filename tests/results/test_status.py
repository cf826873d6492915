"""The words for what has become of a run."""

from __future__ import annotations

from tmsgd_bench.results.status import FINISHED, OF_JOBS, OF_RUNS, Status


def test_the_words_are_those_that_published_files_hold() -> None:
    assert list(map(str, OF_RUNS)) == ["done", "diverged", "failed", "running", "abandoned", "damaged"]
    assert list(map(str, OF_JOBS)) == ["done", "skipped", "diverged", "busy", "failed", "unfinished"]
    assert list(map(str, FINISHED)) == ["done", "diverged"]


def test_every_status_is_of_runs_or_of_jobs_or_told_to_trackers_alone() -> None:
    assert set(Status) - {*OF_RUNS, *OF_JOBS} == {Status.INTERRUPTED}
