"""A GPU that is lent for a quarter of an hour: every stage has its limit, and nothing finished is lost."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tmsgd_bench.results import store
from tmsgd_bench.results.status import FINISHED

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def quarter(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("gpu_quarter_hour")


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code)


WAITS = python("import time; time.sleep(60)")


def catching(action: str) -> tuple[str, ...]:
    """A command that does this on SIGTERM."""
    return python(
        f"import signal, sys, time\ndef end(*_): {action}\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(60)"
    )


class Clock:
    """Jumps over the limit of every stage once a command has written its first word."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def monotonic(self) -> float:
        ready = self.log.is_file() and self.log.read_text().startswith("ready\n")
        return time.monotonic() + (1000.0 if ready else 0.0)


def test_it_runs_the_tests_of_make_test_gpu(quarter: ModuleType) -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\ntest-gpu:")[2].splitlines()[1]
    assert tuple(word for word in recipe.split() if word.startswith("tests/")) == quarter.TESTS


def test_the_default_limits_leave_time_to_write_the_results(quarter: ModuleType) -> None:
    assert sum(quarter.LIMITS.values()) + len(quarter.LIMITS) * quarter.GRACE_SECONDS <= 600 - 20


def test_a_stage_is_done_when_all_its_commands_have_ended(quarter: ModuleType, tmp_path: Path) -> None:
    report = quarter.run(quarter.Stage("ic", 30.0, (python("print(1)"), python("print(2)"), python("")), 2), tmp_path)
    assert report.status == "done" and not report.notes
    assert [(tmp_path / f"ic-{place}.txt").read_text() for place in range(3)] == ["1\n", "2\n", ""]


def test_at_its_limit_a_stage_is_asked_to_stop_so_that_it_can_save(
    quarter: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarter, "time", Clock(tmp_path / "ic-0.txt"))
    report = quarter.run(quarter.Stage("ic", 500.0, (catching("print('saved'); sys.exit(143)"), WAITS)), tmp_path)
    assert report.status == "stopped" and not report.notes
    assert (tmp_path / "ic-0.txt").read_text() == "ready\nsaved\n"
    assert not (tmp_path / "ic-1.txt").exists()  # never started


def test_a_command_that_ends_well_while_it_is_stopped_is_done(
    quarter: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose last epoch is near finishes it."""
    monkeypatch.setattr(quarter, "time", Clock(tmp_path / "ic-0.txt"))
    assert quarter.run(quarter.Stage("ic", 500.0, (catching("sys.exit(0)"),)), tmp_path).status == "done"


def test_what_does_not_stop_is_killed_with_what_it_started(quarter: ModuleType, tmp_path: Path) -> None:
    stubborn = python(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.fork(), flush=True); time.sleep(60)"
    )
    process = quarter._start(stubborn, tmp_path / "log.txt")
    while len((tmp_path / "log.txt").read_text().split()) < 2:
        time.sleep(0.02)
    quarter.stop([process], grace=0.2)
    child = max(map(int, (tmp_path / "log.txt").read_text().split()))
    assert process.process.returncode == -signal.SIGKILL
    command_line, end = Path(f"/proc/{child}/cmdline"), time.monotonic() + 5.0
    while command_line.exists() and command_line.read_bytes():  # empty: it has ended, and nobody has waited for it yet
        assert time.monotonic() < end


def test_a_failed_command_is_named_and_the_others_go_on(quarter: ModuleType, tmp_path: Path) -> None:
    fails = python("import sys; print('busy'); sys.exit('error: no data')")
    report = quarter.run(quarter.Stage("ig", 30.0, (fails, python("print('went on')"))), tmp_path)
    assert report.status == "failed" and report.notes == ["ig-0: error: no data"]
    assert (tmp_path / "ig-1.txt").read_text() == "went on\n"


def test_finished_runs_come_back_packed_with_their_level(
    quarter: ModuleType, tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    root, out = tmp_path / "store", tmp_path / "out"
    for name, status in [("sgd", "done"), ("tmsgd", "diverged"), ("adam", "abandoned")]:
        write_run(root, name, 0, status)
    stage = quarter.Stage("fkpd", 9.0, (WAITS,) * 4, store=root)
    (tmp_path / "fkpd-0.txt").write_text("\x1b[31mepoch 1\n")
    text = quarter.keep([quarter.Report(stage, "stopped", 8.7)], tmp_path, out)
    assert text.splitlines()[2] == "| fkpd | stopped | 9 | 2 of 4 | full | 0 of 3 | – |"
    assert (out / "summary.md").read_text() == text and "epoch 1" in (out / "log.txt").read_text()
    assert set(store.read_runs(out / "fkpd.parquet")["status"]) <= set(FINISHED)
    assert quarter.keep([quarter.Report(stage, "stopped", 8.7)], tmp_path, out) == text  # again, into the same folder


def test_every_run_has_the_papers_settings_and_its_own_store(quarter: ModuleType, tmp_path: Path) -> None:
    options = quarter.parse(["--out", "o", "--data", str(tmp_path), "--set", "ic:data.verify=false", "--limit", "ic=9"])
    by_name = {stage.name: stage for stage in quarter.stages(options)}
    assert list(by_name) == ["tests", "fkpd", "ic", "ig", "od"] and by_name["ic"].seconds == 9.0
    six = by_name["fkpd"].commands[:6]
    assert [command[2] for command in six] == [f"optimizer={name}" for name in quarter.OPTIMIZERS]
    assert all({"task=fkpd", "protocol=table2", "device=cuda", "seed=0"} <= set(command) for command in six)
    assert "data.verify=false" in by_name["ic"].commands[0] and "data.verify=false" not in six[0]
    assert "task.precision=bfloat16" in by_name["od"].commands[0]
    assert len({stage.store for stage in by_name.values()}) == 5


def test_an_interrupt_keeps_what_is_finished(
    quarter: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupts = python("import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)")
    stages = [quarter.Stage("ic", 60.0, (interrupts,)), quarter.Stage("ig", 60.0, (WAITS,))]
    monkeypatch.setattr(quarter, "stages", lambda options: stages)
    before = signal.getsignal(signal.SIGTERM)
    try:
        arguments = ["--smoke", "--out", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
        assert quarter.main(arguments) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr().out
    assert "| ic | stopped |" in said and "| ig |" not in said
    assert (tmp_path / "out" / "summary.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [([], "--data"), (["--data", "DATA"], "--vgg16"), (["--data", "DATA", "--only", "fkpd"], "--smoke")],
)
def test_what_is_missing_is_said_before_the_time_begins(
    quarter: ModuleType,
    tmp_path: Path,
    arguments: list[str],
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    arguments = [str(tmp_path) if word == "DATA" else word for word in arguments]
    assert quarter.main(["--out", str(tmp_path / "out"), "--store", str(tmp_path / "store"), *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and len(said.splitlines()) == 1 and remedy in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [["--limit", "ic=0"], ["--limit", "tc=9"], ["--set", "ic"], ["--seeds", "0"]])
def test_wrong_options_are_refused(quarter: ModuleType, wrong: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit, match="2"):
        quarter.parse(["--out", "o", *wrong])
    assert "error: " in capsys.readouterr().err
