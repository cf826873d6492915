"""The results store: one writer for each run, publishing by rename, and a frame of whatever is there."""

from __future__ import annotations

import errno
import math
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tmsgd_bench import cli, manifest
from tmsgd_bench.errors import RunIsBusy, StoreError
from tmsgd_bench.files import write_json
from tmsgd_bench.results import heartbeat, record, selection, store
from tmsgd_bench.results.store import COLUMNS, RunFolder, read_runs, write_history
from tmsgd_bench.version import BENCHMARK_VERSION

WriteRun = Callable[..., Path]
Begin = Callable[[str], RunFolder]

TRAINING = """
import os, socket, sys, time
from pathlib import Path
from tmsgd_bench.files import write_json
from tmsgd_bench.results import heartbeat
from tmsgd_bench.results.store import RunFolder

folder = RunFolder(Path(sys.argv[1]), sys.argv[2])
with folder.locked():
    folder.work.mkdir(exist_ok=True)
    who = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time(), "time": time.time()}
    write_json(folder.work / heartbeat.NAME, {**who, "epoch": 30, "epochs": 120, "trained": 20})
    print("training", flush=True)
    sys.stdin.read()
"""


class Crash(BaseException):
    """The process dies here."""


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory, write_run: WriteRun) -> Iterator[tuple[RunFolder, Any]]:
    """A run that another process trains, and that process."""
    root = tmp_path_factory.mktemp("store")
    work = write_run(root, status="abandoned")
    folder = RunFolder(root, work.name)
    command = [sys.executable, "-c", TRAINING, str(root), work.name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "training\n"
        yield folder, process
        process.kill()


@pytest.fixture
def begin(tmp_path: Path, write_run: WriteRun) -> Callable[[str], RunFolder]:
    """Makes a run ready to be published, always the same one, with a note."""

    def begun(note: str) -> RunFolder:
        made = write_run(tmp_path / "made" / note, outcome={"note": note})
        folder = RunFolder(tmp_path / "store", made.name)
        with folder.locked():
            made.rename(folder.work)
        write_json(folder.work / heartbeat.NAME, {"pid": 1})
        return folder

    return begun


def note_of(folder: RunFolder) -> str | None:
    """The note of the published run; None if there is none, or it is damaged."""
    found = folder.finished()
    return None if found is None else found["note"]


def by_id(root: Path) -> dict[str, pd.Series]:
    """The rows of a store's frame, which has one for each run."""
    runs = read_runs(root)
    rows = {str(row["run_id"]): row for _, row in runs.iterrows()}
    assert len(rows) == len(runs)
    return rows


def the_run(root: Path) -> pd.Series:
    (row,) = by_id(root).values()
    return row


def records(runs: pd.DataFrame) -> list[dict[Any, Any]]:
    """A frame's rows without their places, with None for every missing value."""
    plain = runs.drop(columns="folder").astype(object)
    return [dict(row) for _, row in plain.where(plain.notna(), None).iterrows()]


# --- locking -------------------------------------------------------------------------------------------------------


def test_a_run_that_another_process_trains_is_busy(training: tuple[RunFolder, Any]) -> None:
    """The message names the run and the process."""
    folder, process = training
    with pytest.raises(RunIsBusy) as raised, folder.locked():
        pass
    assert str(raised.value).startswith(f"{folder.run_id} is being trained by process {process.pid} on ")


def test_a_run_that_another_process_trains_is_running_with_its_progress(training: tuple[RunFolder, Any]) -> None:
    folder, _ = training
    row = the_run(folder.root)
    assert (row["status"], row["epochs_done"]) == ("running", 30)
    assert re.fullmatch(r"about 0 min left, process \d+ on \S+, seen \d s ago", row["note"])


def test_another_run_of_the_same_store_is_free(training: tuple[RunFolder, Any]) -> None:
    folder, _ = training
    other = RunFolder(folder.root, "another")
    with other.locked():
        assert store._is_locked(other.lock_path)
    assert not store._is_locked(other.lock_path)


def test_a_killed_process_frees_its_run_which_is_then_abandoned(training: tuple[RunFolder, Any]) -> None:
    """The last test with this process."""
    folder, process = training
    process.kill()
    process.wait()
    assert the_run(folder.root)["status"] == "abandoned"
    with folder.locked():
        assert the_run(folder.root)["status"] == "running"


def test_a_busy_run_without_a_heartbeat_is_still_refused(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path, "a"), RunFolder(tmp_path, "a")
    with first.locked(), pytest.raises(RunIsBusy, match=r"^a is being trained by another process"), second.locked():
        pass


def test_the_lock_is_freed_when_the_training_raises(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path, "a").locked():
        raise ZeroDivisionError
    assert not store._is_locked(RunFolder(tmp_path, "a").lock_path)


def test_looking_at_the_runs_does_not_make_one_busy(
    tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """'runs' may be asked at any time, also at the very moment at which a process starts to train."""
    folder = RunFolder(tmp_path, write_run(tmp_path, status="abandoned").name)
    with folder.locked():
        pass
    looking = threading.Event()
    reader = threading.Thread(target=read_runs, args=(tmp_path,))

    class SlowToRelease(store.FileLock):
        def release(self, force: bool = False) -> None:
            if threading.current_thread() is reader:
                looking.set()
                time.sleep(0.1)
            super().release(force)

    monkeypatch.setattr(store, "FileLock", SlowToRelease)
    reader.start()
    looking.wait(timeout=0.5)
    try:
        with folder.locked():
            pass
    finally:
        reader.join()


def test_a_store_that_cannot_be_made_is_told_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"results\.root=") as raised, RunFolder(tmp_path / "file", "a").locked():
        pass
    assert str(tmp_path / "file") in str(raised.value)


# --- heartbeat -----------------------------------------------------------------------------------------------------


def test_the_time_left_is_that_of_the_epochs_done_by_this_process() -> None:
    """20 epochs in 600 s, 90 to go: 2,700 s. Before the first epoch is done there is nothing to tell."""
    beat = {"started": 1000.0, "time": 1600.0, "epoch": 30, "trained": 20, "epochs": 120}
    assert heartbeat.progress({**beat, "pid": 7, "host": "h"}).startswith("about 45 min left, process 7 on h, seen ")
    assert "left" not in heartbeat.progress({**beat, "trained": 0})
    assert heartbeat.progress({}) == ""


@pytest.fixture
def other_machine(tmp_path: Path, write_run: WriteRun) -> Callable[[float], RunFolder]:
    """A run whose last heartbeat came from another machine, so many seconds ago."""

    def begun(seconds_ago: float) -> RunFolder:
        work = write_run(tmp_path, status="abandoned")
        write_json(work / heartbeat.NAME, {"pid": 7, "host": "elsewhere", "time": time.time() - seconds_ago})
        return RunFolder(tmp_path, work.name)

    return begun


def test_a_run_alive_on_another_machine_is_left_alone_where_locks_do_not_reach(other_machine: Any) -> None:
    folder = other_machine(10.0)
    with pytest.raises(RunIsBusy, match="process 7 on elsewhere"), folder.locked():
        pass
    assert not store._is_locked(folder.lock_path)
    assert the_run(folder.root)["status"] == "running"


def test_a_run_that_fell_silent_on_another_machine_is_taken_over(other_machine: Any) -> None:
    folder = other_machine(2 * heartbeat.STALE_SECONDS)
    assert the_run(folder.root)["status"] == "abandoned"
    with folder.locked():
        assert the_run(folder.root)["status"] == "running"


def test_a_job_of_a_sweep_waits_until_the_other_machine_is_through(
    other_machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = other_machine(10.0)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            (folder.work / heartbeat.NAME).unlink()

    monkeypatch.setattr(store.time, "sleep", sleep)
    with folder.locked(wait=True):
        assert len(slept) == 3


# --- publishing ----------------------------------------------------------------------------------------------------


def test_publishing_moves_the_work_and_drops_the_heartbeat(begin: Begin) -> None:
    folder = begin("first")
    folder.publish()
    assert note_of(folder) == "first"
    assert {path.name for path in folder.final.iterdir()} == {*record.REQUIRED, manifest.NAME}
    assert not folder.work.exists()


def test_publishing_replaces_an_older_result_and_keeps_nothing_of_it(begin: Begin) -> None:
    folder = begin("first")
    folder.publish()
    (folder.final / "old figure.png").write_bytes(b"x")
    begin("second").publish()
    assert note_of(folder) == "second"
    assert {path.name for path in folder.final.iterdir()} == {*record.REQUIRED, manifest.NAME}
    assert not folder.replaced.exists()


def test_a_run_that_never_was_has_no_result(tmp_path: Path, begin: Begin) -> None:
    assert RunFolder(tmp_path, "a").finished() is None
    assert begin("not published").finished() is None


@pytest.mark.parametrize("renames", [0, 1])
def test_a_crash_while_replacing_loses_neither_result(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """Killed before the first rename or between the two: the old result is back, the new one waits in its work
    folder, and publishing it again works."""
    begin("old").publish()
    folder = begin("new")
    real, done = Path.rename, 0

    def rename(self: Path, target: Path) -> Path:
        nonlocal done
        if done == renames:
            raise Crash
        done += 1
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(Crash):
            folder.publish()
    fresh = RunFolder(folder.root, folder.run_id)
    with fresh.locked():  # whoever takes the run up next mends it
        assert note_of(fresh) == "old"
    assert fresh.complete()
    fresh.publish()
    assert note_of(fresh) == "new"


def test_a_crash_before_the_old_result_is_deleted_keeps_the_new_one(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin("old").publish()
    folder = begin("new")
    real = shutil.rmtree

    def rmtree(path: Path, **options: Any) -> None:
        if Path(path).exists():
            raise Crash
        real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", rmtree)
        with pytest.raises(Crash):
            folder.publish()
    assert note_of(folder) == "new"
    begin("newest").publish()
    assert note_of(folder) == "newest"
    assert not folder.replaced.exists()


def test_a_result_that_cannot_be_published_is_told_with_the_fix(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begin("new")

    def rename(self: Path, target: Path) -> Path:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(StoreError, match=r"Permission denied.*results\.root="):
        folder.publish()


# --- history -------------------------------------------------------------------------------------------------------


def test_the_history_comes_back_with_whole_epochs(tmp_path: Path) -> None:
    rows = [{"epoch": 0.0, "loss": 1.25}, {"epoch": 1.0, "loss": 0.1 + 0.2}]
    write_history(tmp_path / "h.parquet", rows)
    read = pd.read_parquet(tmp_path / "h.parquet")
    assert read.to_dict("records") == [{"epoch": 0, "loss": 1.25}, {"epoch": 1, "loss": 0.1 + 0.2}]
    assert read["epoch"].dtype == "int64"


def test_a_run_that_diverged_in_its_first_epoch_has_an_empty_history(tmp_path: Path) -> None:
    write_history(tmp_path / "h.parquet", [])
    assert len(pd.read_parquet(tmp_path / "h.parquet")) == 0


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
def test_a_store_without_runs_is_an_empty_frame(tmp_path: Path, there: bool) -> None:
    root = tmp_path if there else tmp_path / "none"
    runs = read_runs(root)
    assert list(runs.columns) == list(COLUMNS)
    assert len(runs) == 0


def test_every_status_is_told(tmp_path: Path, write_run: WriteRun) -> None:
    written = {}
    for seed, status in enumerate(("done", "diverged", "failed", "abandoned")):
        written[write_run(tmp_path, seed=seed, status=status).name] = status
    running = RunFolder(tmp_path, write_run(tmp_path, seed=9, status="abandoned").name)
    with running.locked():
        found = {name: row["status"] for name, row in by_id(tmp_path).items()}
    assert found == written | {running.run_id: "running"}
    assert list(found) == sorted(found)


@pytest.mark.parametrize("is_packed", [False, True])
def test_runs_can_be_asked_for_by_what_their_names_begin_with(
    tmp_path: Path, write_run: WriteRun, is_packed: bool
) -> None:
    for optimizer in ("sgd", "sgdm", "adam"):
        write_run(tmp_path / "store", optimizer)
    root = tmp_path / "store"
    if is_packed:
        assert cli.main(["pack", str(root), "--out", str(tmp_path / "runs.parquet")]) == 0
        root = tmp_path / "runs.parquet"
    every = read_runs(root)
    assert list(read_runs(root, "tc-lstm-sgd-")["run_id"]) == [name for name in every["run_id"] if "-sgd-" in name]
    assert read_runs(root, "od-").empty and list(read_runs(root, "od-").columns) == list(every.columns)


def test_a_row_holds_settings_outcome_and_place(tmp_path: Path, write_run: WriteRun) -> None:
    folder = write_run(tmp_path, "tmsgd", 3, final=90.25, started="2026-02-03T04:05:06+00:00")
    expected = {
        "run_id": folder.name,
        "status": "done",
        "task": "tc",
        "model": "lstm",
        "optimizer": "tmsgd",
        "label": "TM-SGD",
        "switch_epoch": 2,
        "seed": 3,
        "data": "real",
        "limit": None,
        "fingerprint": "f",
        "lr": 0.01,
        "batch_size": 5,
        "epochs": 3,
        "protocols": ("table2",),
        "benchmark_version": BENCHMARK_VERSION,
        "metric": "accuracy",
        "unit": "%",
        "direction": "max",
        "final": 90.25,
        "best": 91.25,
        "best_epoch": 1,
        "epochs_done": 3,
        "note": "done it is",
        "started": "2026-02-03T04:05:06+00:00",
        "commit": "0123abc",
        "folder": str(folder),
    }
    row = the_run(tmp_path)
    assert {key: row[key] for key in expected} == expected


def test_runs_that_differ_in_their_switch_epoch_alone_share_group_and_other_options(
    tmp_path: Path, write_run: WriteRun
) -> None:
    changes: list[tuple[str, Any]] = [("switch_epoch", 0), ("label", "another"), ("momentum", 0.9), ("lr", 0.5)]
    for number, (key, value) in enumerate([("label", "TM-SGD"), *changes]):
        write_run(tmp_path, "tmsgd", seed=number, options={key: value})
    rows = read_runs(tmp_path).sort_values("seed")
    shared = list(zip(rows["group"], selection.without_switch(rows), strict=True))
    assert [of_run == shared[0] for of_run in shared] == [True, True, True, False, False]


def test_a_diverged_run_has_no_number(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path, status="diverged")
    row = the_run(tmp_path)
    assert pd.isna(row["final"]) and pd.isna(row["best"])
    assert row["note"] == "diverged it is"


def test_a_failed_run_tells_its_error_and_an_abandoned_one_how_it_goes_on(tmp_path: Path, write_run: WriteRun) -> None:
    failed, abandoned = write_run(tmp_path, seed=0, status="failed"), write_run(tmp_path, seed=1, status="abandoned")
    rows = by_id(tmp_path)
    assert rows[failed.name]["note"] == "ValueError: went wrong"
    assert rows[abandoned.name]["note"] == "resumes when the same command is started again"


def test_an_abandoned_run_shows_how_far_it_was_known_to_be(tmp_path: Path, write_run: WriteRun) -> None:
    write_json(write_run(tmp_path, status="abandoned") / heartbeat.NAME, {"epoch": 2, "pid": 1})
    assert the_run(tmp_path)["epochs_done"] == 2


def test_a_finished_run_that_is_trained_again_is_still_finished(tmp_path: Path, write_run: WriteRun) -> None:
    """With force=true the old result stands until the new one is complete."""
    final = write_run(tmp_path)
    shutil.copytree(final, tmp_path / ".work" / final.name)
    row = the_run(tmp_path)
    assert (row["status"], row["folder"]) == ("done", str(final))


@pytest.mark.parametrize("when", ["_is_there", "_is_run", "_finished_row", "_unfinished"])
def test_a_run_that_is_published_while_the_store_is_read_is_there_once_and_whole(
    when: str, tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever moment: after a listing, while other runs are read, or while its own folder is."""
    other, run = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    work = tmp_path / ".work" / run.name
    work.parent.mkdir()
    run.rename(work)
    original = getattr(store, when)

    def publish_then(*arguments: Any, **named: Any) -> Any:
        answer = original(*arguments, **named)
        if work.exists():
            work.rename(run)
        return answer

    monkeypatch.setattr(store, when, publish_then)
    rows = by_id(tmp_path)
    assert {name: (row["status"], row["note"]) for name, row in rows.items()} == {
        other.name: ("done", "done it is"),
        run.name: ("done", "done it is"),
    }


def test_a_run_that_is_deleted_while_the_store_is_read_is_not_there(
    tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = write_run(tmp_path, status="abandoned")
    monkeypatch.setattr(store, "environment", lambda folder: shutil.rmtree(folder) or {})
    assert by_id(tmp_path) == {}
    assert not work.exists()


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda text: text.replace("limit: null", "limiu: null"), "start its command again"),
        (lambda text: text.replace("seed: 0", "seed: 1"), "start its command again"),
        (
            lambda text: text.replace(f"benchmark_version: {BENCHMARK_VERSION}", "benchmark_version: 1"),
            "delete the folder",
        ),
    ],
)
def test_an_unfinished_run_with_the_settings_of_another_is_damaged(
    change: Callable[[str], str], remedy: str, tmp_path: Path, write_run: WriteRun
) -> None:
    config = write_run(tmp_path, status="abandoned") / store.CONFIG
    config.write_text(change(config.read_text()))
    row = the_run(tmp_path)
    assert row["status"] == "damaged" and pd.isna(row["task"])
    assert remedy in row["note"]


def test_foreign_files_and_folders_are_passed_over(tmp_path: Path, write_run: WriteRun) -> None:
    mine = write_run(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "figures").mkdir()
    (tmp_path / ".sweeps" / "day").mkdir(parents=True)
    (tmp_path / "other tool").mkdir()
    (tmp_path / "other tool" / "result.json").write_text("{}")
    (tmp_path / "another tool").mkdir()
    (tmp_path / "another tool" / "result.json").write_text("{}")
    (tmp_path / "another tool" / "config.yaml").write_text("name: theirs\n")
    (tmp_path / ".work" / "empty").mkdir(parents=True)
    assert list(by_id(tmp_path)) == [mine.name]


@pytest.mark.parametrize(
    "text", ['{"pid": 1, "ti', '{"host": "x", "time": "noon"}', '{"trained": 1, "time": 5}', '{"time": 1e999}', "[]"]
)
def test_a_heartbeat_that_is_damaged_does_not_hide_a_running_run(
    tmp_path: Path, write_run: WriteRun, text: str
) -> None:
    work = write_run(tmp_path, status="abandoned")
    (work / heartbeat.NAME).write_text(text)
    with RunFolder(tmp_path, work.name).locked():
        assert the_run(tmp_path)["status"] == "running"


def test_two_stores_are_merged_by_copying_their_folders(tmp_path: Path, write_run: WriteRun) -> None:
    """Finished, failed and abandoned runs come along; a run that both have stays one."""
    one, other = tmp_path / "one", tmp_path / "other"
    write_run(one, seed=0)
    write_run(one, seed=1)
    write_run(other, seed=1)
    write_run(other, "tmsgd", seed=0, final=91.0)
    write_run(other, "adam", seed=0, status="failed")
    write_run(other, "adam", seed=1, status="abandoned")
    separate = pd.concat([read_runs(one), read_runs(other)]).drop_duplicates("run_id").sort_values("run_id")
    shutil.copytree(other, one, dirs_exist_ok=True)
    assert records(read_runs(one)) == records(separate)


def test_a_run_is_deleted_by_deleting_its_folder(tmp_path: Path, write_run: WriteRun) -> None:
    kept, dropped = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    shutil.rmtree(dropped)
    assert list(by_id(tmp_path)) == [kept.name]


def test_a_store_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match=r"cannot read the results in .*file .*results\.root"):
        read_runs(tmp_path / "file")


def test_a_metric_measured_afterwards_takes_the_place_of_the_one_recorded(tmp_path: Path, write_run: WriteRun) -> None:
    """Its best epoch is not known; a diverged run stays one."""
    folder, diverged = write_run(tmp_path), write_run(tmp_path, seed=1, status="diverged")
    primary = {"name": "distance", "label": "Distance", "unit": "px", "direction": "min"}
    measured = {"metrics": {"distance": 41.5, "other": math.nan}, "primary": primary, "measured_with": {}}
    for one in (folder, diverged):
        store.add_measured(one, measured)
    found = by_id(tmp_path)
    row = found[folder.name]
    assert (row["metric"], row["unit"], row["direction"], row["final"]) == ("distance", "px", "min", 41.5)
    assert pd.isna(row["best"]) and row["note"].startswith("Distance 41.5, measured afterwards")
    assert found[diverged.name]["metric"] == "accuracy"
