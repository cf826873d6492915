"""What a sweep leaves behind: a line for each job, and a summary at its end.

Jobs may run in other processes, so each writes its outcome to a file of its own, which the main process reads.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from tmsgd_bench import files, interrupt
from tmsgd_bench.engine import command_line, plan, progress, workers
from tmsgd_bench.errors import BenchError, ConfigError, StoreError
from tmsgd_bench.results.status import OF_JOBS, Status

START = "start.json"
STOP = "stop"
SWEEPS = ".sweeps"  # in the results' root, by conf/config.yaml
ABANDONED_SECONDS = 60.0
"""A temporary file older than this is not being written any more."""


OmegaConf.register_new_resolver("expanduser", os.path.expanduser, replace=True)
SHARES = (0, 1 / 24, 5 / 24, 10 / 24, 15 / 24, 20 / 24)
"""Switch epochs of experiment=switch as shares of a run: 0, 5, 25, 50, 75 and 100 of 120 epochs."""


def switch_study(epochs: int) -> str:
    """The switch epochs of a study, as a sweep takes them.

    Example:
        >>> switch_study(120), switch_study(20)
        ('0,5,25,50,75,100', '0,1,4,8,12,17')
    """
    return ",".join(map(str, sorted({round(share * epochs) for share in SHARES})))


OmegaConf.register_new_resolver("switch_study", switch_study, replace=True)


class SweepCallback(Callback):
    """Remembers in the main process where the sweep that it starts keeps its jobs' outcomes."""

    folder: Path | None = None

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        try:
            plan.check_root(config)
            folder = _folder(config)
            planned = plan.wanted(config)
            jobs, wrong = plan.of_sweep(config)
        except Exception as error:  # Hydra would make a warning of it
            raise plan.PlanShown(error) from error
        type(self).folder = folder
        # Every job is handed it, on whatever machine it runs: its own sweep.dir would have another time, and another
        # place if results.root is one of the things that are swept.
        with open_dict(config.hydra.overrides):
            config.hydra.overrides.hydra.append(command_line.override("hydra.sweep.dir", str(folder)))
        if planned and wrong:
            raise plan.PlanShown(wrong[0])
        if planned:
            print(plan.describe(jobs))
            raise plan.PlanShown
        try:
            workers.prepare(config)
            plan.register(jobs)
            _begin(folder, config)
        except (BenchError, OSError) as error:  # the store cannot be written: no job could leave a result
            raise plan.PlanShown(error) from error


def _folder(config: Any) -> Path:
    """Where the sweep keeps its jobs' outcomes.

    Raises:
        ConfigError: a setting cannot hold the name.
    """
    folder = Path(config.hydra.sweep.dir).absolute()
    if "${" in str(folder):
        raise ConfigError(
            f"the sweep's folder {folder} has '${{' in its name, which stands for another setting: start the sweep in "
            "a folder without it, or choose one with results.root=PATH."
        )
    return folder


def in_sweep() -> bool:
    """Whether this process runs a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _begin(folder: Path, config: Any) -> None:
    """Prepare the sweep's folder for its jobs."""
    folder.mkdir(parents=True, exist_ok=True)
    start: dict[str, Any] = {"cwd": str(Path.cwd())}
    if workers.are_local(config):
        start["parent"] = os.getpid()
        interrupt.before_end(partial(_stop_workers, folder))
    files.write_json(folder / START, start)
    _tidy(folder)


def _stop_workers(folder: Path) -> None:
    """Ask the workers to stop, and wait until each has left a checkpoint or is gone."""
    try:
        (folder / STOP).touch()
    except OSError:  # a full disk: they will notice that this process has ended
        return
    running = [path for path in folder.glob("job-*.json") if _runs(path)]
    end = time.monotonic() + workers.END_SECONDS
    while running and time.monotonic() < end:
        time.sleep(workers.POLL_SECONDS / 2)
        running = [path for path in running if _runs(path)]


def _runs(path: Path) -> bool:
    pid = (files.read_json(path) or {}).get("pid")
    return pid is not None and workers.is_alive(pid)


def _tidy(folder: Path) -> None:
    """Delete what killed processes of earlier sweeps did not finish writing."""
    root = folder.parent.parent
    if root.name != SWEEPS:  # the user's own hydra.sweep.dir
        return
    now = (folder / START).stat().st_mtime  # by the clock of the file system
    for path in root.glob("*/*/.*.json.*.*.tmp"):
        pid = path.name.split(".")[-3]
        with suppress(OSError):
            if now - path.stat().st_mtime > ABANDONED_SECONDS and not (pid.isdigit() and workers.is_alive(int(pid))):
                path.unlink()


def record_waiting(number: int, overrides: Sequence[str]) -> None:
    """Write, in the main process, that a job is about to be handed to a launcher; one that never starts leaves this."""
    assert SweepCallback.folder is not None
    note = "it was not started; the same command starts it"
    _put(SweepCallback.folder, number, overrides, {"status": Status.UNFINISHED, "note": note})


def skip_finished(number: int, config: DictConfig) -> bool:
    """Whether a job has its result already and nothing else to do; then its outcome is recorded."""
    try:
        job = plan.of_config(config, in_sweep=True)
    except Exception:  # the job itself will say what is wrong
        return False
    result = job.folder.finished()
    if result is None or job.options.force or job.options.sharpness:
        return False
    note = f"already {result['status']}: {result['note']}"
    values = {"status": Status.SKIPPED, "run_id": job.spec.run_id, "note": note}
    _put(Path(config.hydra.sweep.dir), number, config.hydra.overrides.task, values)
    return True


def record_start() -> None:
    """Write that this job began, which is what a killed job leaves behind, and go where its sweep was started.

    Raises:
        StoreError: that folder cannot be entered here.
        Interrupted: the sweep is to stop.
    """
    progress.protect_streams()
    folder = Path(HydraConfig.get().sweep.dir)
    start = files.read_json(folder / START) or {}
    if "parent" in start:
        workers.belong_to(start["parent"], folder / STOP)
    interrupt.stop_if_asked()
    note = "its process ended without an outcome; the same command goes on with it"
    _write({"status": Status.UNFINISHED, "note": note, "pid": os.getpid()})
    if start:
        workers.enter(start["cwd"])


def end_job() -> None:
    """Write that this job was interrupted; a worker does not return."""
    with suppress(StoreError):  # on a full disk it stays with what a killed job leaves
        record(Status.UNFINISHED, "", "it was interrupted; the same command goes on with it")
    start = files.read_json(Path(HydraConfig.get().sweep.dir) / START) or {}
    if start.get("parent", os.getpid()) != os.getpid():
        workers.await_end()


def record(status: Status, run_id: str, note: str, saved: int = 0) -> None:
    """Write the outcome of this job into its sweep's folder; ``saved`` counts epochs that other runs trained for it."""
    _write({"status": status, "run_id": run_id, "note": note, "saved_epochs": saved})


def _write(values: dict[str, Any]) -> None:
    config = HydraConfig.get()
    _put(Path(config.sweep.dir), config.job.num, config.overrides.task, values)


def _put(folder: Path, number: int, overrides: Sequence[str], values: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(_path(folder, number), {"overrides": list(overrides), **values})


def _path(folder: Path, number: int) -> Path:
    return folder / f"job-{number:05d}.json"


def line(number: int) -> str:
    """What the main process says of a job whose own output is elsewhere."""
    job = files.read_json(_path(SweepCallback.folder, number)) if SweepCallback.folder else None
    return _line(job) if job else f"job {number} left no outcome"


def _line(job: dict[str, Any]) -> str:
    name = job.get("run_id") or " ".join(job["overrides"]) or "the run"
    return f"{job['status']}: {name}: {job['note']}"


def summarise(folder: Path) -> tuple[str, bool]:
    """The summary of a sweep, and whether every job that ran has its result."""
    jobs = [job for path in sorted(folder.glob("job-*.json")) if (job := files.read_json(path))]
    counts = Counter(job["status"] for job in jobs)
    total = ", ".join(f"{counts[status]} {status}" for status in OF_JOBS if counts[status])
    lines = [f"sweep: {total or 'no job left an outcome'}"]
    if saved := sum(job.get("saved_epochs", 0) for job in jobs):
        lines.append(f"  {saved} epochs saved: runs that are the same until they switch shared them")
    for job in jobs:
        if job["status"] not in (Status.DONE, Status.SKIPPED):
            lines.append(f"  {_line(job)}")
    complete = bool(jobs) and not (counts[Status.FAILED] or counts[Status.UNFINISHED] or counts[Status.BUSY])
    return "\n".join(lines), complete
