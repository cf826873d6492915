"""The screen of a sweep: what the workers write for it, and what it shows."""

from __future__ import annotations

import io
import logging
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from toy import STEPS, ToyTask, make_options, make_spec

from tmsgd_bench import files
from tmsgd_bench.engine import progress, sweep, sweep_screen
from tmsgd_bench.engine.progress import LiveReporter
from tmsgd_bench.engine.runner import run
from tmsgd_bench.engine.sweep_screen import SweepScreen
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results.status import Status
from tmsgd_bench.task import TaskSettings


def job(place: Path, number: int, status: str = Status.UNFINISHED, run_id: str = "", **more: Any) -> None:
    values = {"overrides": ["optimizer=sgd", f"seed={number}"], "status": status, "run_id": run_id, "note": ""}
    files.write_json(sweep.job_file(place, number), {**values, **more})


def live(place: Path, pid: int, run_id: str, share: float = 0.5, left: float | None = 30.0) -> None:
    values = {"run_id": run_id, "epoch": 4, "epochs": 8, "metric": "ACC 91.2%", "steps_per_second": 12.34}
    files.write_json(place / f"live-{pid}.json", {**values, "share": share, "seconds_left": left})


@pytest.fixture
def in_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process is taken for a worker of a sweep that has a screen."""
    monkeypatch.setenv(progress.SCREEN, f"{os.getpid() + 1}:{tmp_path}")
    return tmp_path


# --- what workers write --------------------------------------------------------------------------------------------


def test_a_worker_writes_where_its_run_is_until_it_ends(in_worker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LIVE_SECONDS", 0.0)
    spec, path, seen = make_spec("sgd", epochs=4), in_worker / f"live-{os.getpid()}.json", []

    def look(epoch: int, step: int) -> None:
        seen.append((epoch, step, files.read_json(path) or {}))

    def build(device: torch.device) -> ToyTask:
        settings = TaskSettings(Path(), None, spec.batch_size, spec.seed, device, {})
        return ToyTask(settings, look)

    run(spec, make_options(in_worker / "runs"), build)
    assert not path.exists()
    for epoch, step, values in seen:  # written after the step before
        shares = epoch + step / STEPS
        assert values["run_id"] == spec.run_id and values["epochs"] == 4
        assert values["share"] == pytest.approx(shares / 4)
        assert (values["seconds_left"] is None) is (shares == 0.0)
        assert values["metric"].startswith("error ") is ((epoch > 0 and step > 0) or epoch > 1)


def test_a_workers_log_lines_go_to_the_screen(in_worker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("run", logging.INFO, "", 0, "one: done", None, None)
    progress.ConsoleHandler().emit(record)
    screen = SweepScreen(in_worker, range(1), 1)
    assert capsys.readouterr().err == ""
    assert screen.new_lines() == ["one: done"] and screen.new_lines() == []
    with (in_worker / progress.LINES).open("a") as file:
        file.write("two: \x1b[2Jdone\nthr")  # the third is not written to its end
    (line,) = screen.new_lines()
    assert line.startswith("two: ") and "\x1b" not in line


def test_the_process_that_draws_is_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(progress.SCREEN, f"{os.getpid()}:{tmp_path}")
    assert progress.screen_folder() is None and not isinstance(progress.make_reporter("auto"), LiveReporter)
    monkeypatch.setenv(progress.SCREEN, f"{os.getpid() + 1}:{tmp_path}")
    assert isinstance(progress.make_reporter("log"), LiveReporter)
    monkeypatch.delenv(progress.SCREEN)
    assert progress.screen_folder() is None


# --- what is shown -------------------------------------------------------------------------------------------------


def test_each_run_that_trains_has_a_line_and_the_sweep_has_one(tmp_path: Path) -> None:
    job(tmp_path, 0, Status.DONE, "first")
    job(tmp_path, 1, pid=11)
    job(tmp_path, 2, pid=12)  # loads its data, or waits for another process
    job(tmp_path, 3)
    live(tmp_path, 11, "second")
    rows, total = SweepScreen(tmp_path, range(4), 2).rows()
    assert rows[0] == ("second", "epoch 4 of 8", "ACC 91.2%", "12.3 steps/s", "30 s left")
    assert rows[1][:2] == ("seed=2", "begins") and len(rows) == 2  # all have optimizer=sgd
    assert total.startswith("sweep: 1 of 4 runs, 2 at a time")


def test_jobs_of_earlier_batches_are_not_counted(tmp_path: Path) -> None:
    """A sweeper that learns from results starts the runs of one sweep in batches."""
    for number in range(3):
        job(tmp_path, number, Status.DONE, f"run {number}")
    assert SweepScreen(tmp_path, range(2, 4), 1).rows() == ([], "sweep: 1 of 2 runs, 1 at a time")


def test_a_run_keeps_its_line_until_its_result_is_there(tmp_path: Path) -> None:
    """The worker's next run has none yet."""
    screen = SweepScreen(tmp_path, range(2), 1)
    job(tmp_path, 0, pid=11)
    live(tmp_path, 11, "first")
    assert screen.rows()[0][0][0] == "first"
    (tmp_path / "live-11.json").unlink()
    assert screen.rows()[0][0][0] == "first"
    job(tmp_path, 0, Status.DONE, "first")
    job(tmp_path, 1, pid=11)
    assert screen.rows()[0][0][:2] == ("seed=1", "begins")


def left(screen: SweepScreen) -> str:
    return screen.rows()[1].rpartition(", ")[2]


def test_the_time_left_is_first_that_of_recorded_runs(tmp_path: Path) -> None:
    job(tmp_path, 0)
    assert left(SweepScreen(tmp_path, range(4), 2, lambda: {"a": 100.0, "b": 300.0})) == "3 min 20 s left"
    assert left(SweepScreen(tmp_path, range(4), 2, lambda: {"a": 100.0, "b": math.nan})) == "1 min 40 s left"
    assert "left" not in left(SweepScreen(tmp_path, range(4), 2, lambda: {"a": math.nan}))
    assert "left" not in left(SweepScreen(tmp_path, range(4), 2))


def test_the_time_left_is_then_that_of_the_sweeps_own_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it is ten times slower than recorded; but never shorter than what its slowest run says."""
    screen = SweepScreen(tmp_path, range(2), 1, lambda: {"a": 100.0, "b": 100.0})
    job(tmp_path, 0, Status.DONE, "a")
    job(tmp_path, 1)
    now = time.monotonic
    monkeypatch.setattr(sweep_screen.time, "monotonic", lambda: now() + 1000.0)
    assert left(screen) == "16 min 40 s left"
    job(tmp_path, 1, pid=11)
    live(tmp_path, 11, "b", share=0.5, left=7200.0)
    assert left(screen) == "2 h 00 min left"
    live(tmp_path, 11, "b", share=0.5, left=1.0)
    assert left(screen) == "5 min 33 s left"


@pytest.mark.parametrize("width", [20, 80, 200])
def test_it_is_drawn_at_any_width_and_is_gone_at_the_end(tmp_path: Path, width: int) -> None:
    job(tmp_path, 0, pid=11, overrides=["\x1b[31mred", "[bold]"])
    job(tmp_path, 1, pid=12)
    live(tmp_path, 12, "tc-lstm-tmsgd-switch100-seed0-7e7b76b08c")
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=width)
    with sweep_screen.shown(SweepScreen(tmp_path, range(2), 2), console):
        assert progress.screen_folder() is None and os.environ[progress.SCREEN].endswith(str(tmp_path))
        (tmp_path / progress.LINES).write_text("a line of a worker\n")
    assert progress.SCREEN not in os.environ
    text = written.getvalue()
    assert "a line of a worker" in text.replace("\n", " ") and "sweep: 0 of 2" in text and "\x1b[31m" not in text


def test_there_is_none_without_a_terminal_or_if_lines_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep.SweepCallback, "folder", tmp_path)
    for progress_setting, terminal in (("auto", False), ("log", True), ("bar", True)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
        with sweep_screen.if_wanted(progress_setting, range(1), 1):
            assert progress.SCREEN not in os.environ


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_the_time_left_is_seen_at_every_width(tmp_path: Path, width: int) -> None:
    """Names are shortened before anything is left out."""
    job(tmp_path, 0, pid=12)
    live(tmp_path, 12, "tc-lstm-tmsgd-switch100-seed0-7e7b76b08c")
    written = io.StringIO()
    console = Console(file=written, width=width)
    console.print(SweepScreen(tmp_path, range(1), 1).drawn(width))
    (line, *_) = written.getvalue().splitlines()
    assert "30 s left" in line and line.startswith("tc-lstm-tms") and len(line) <= width
    assert ("epoch 4 of 8  ACC 91.2%  12.3 steps/s" in line) is (width >= 80)


def test_a_failed_run_takes_no_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its job's file does not name it."""
    screen = SweepScreen(tmp_path, range(2), 1, lambda: {"a": 100.0, "b": 100.0})
    job(tmp_path, 0, pid=11)
    job(tmp_path, 1)
    live(tmp_path, 11, "a")
    screen.rows()
    (tmp_path / "live-11.json").unlink()
    job(tmp_path, 0, Status.FAILED)
    now = time.monotonic
    monkeypatch.setattr(sweep_screen.time, "monotonic", lambda: now() + 100.0)
    assert left(screen) == "1 min 40 s left"


def test_an_error_of_the_screen_is_said_once_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> dict[str, float]:
        raise StoreError("the store is gone.")

    job(tmp_path, 0)
    with sweep_screen.shown(SweepScreen(tmp_path, range(1), 1, broken), Console(file=io.StringIO())):
        pass
    assert [record.message for record in caplog.records] == [
        "the sweep's screen stopped (the store is gone.); the runs were not affected"
    ]
