"""The outcome of each run of a sweep, and the summary at the sweep's end.

Hydra starts each run as a job, maybe in another process or on another machine. Every job writes its outcome to its own
file in the sweep's folder, and the main process reads these files.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from tmsgd_bench import files, interrupt, tuning
from tmsgd_bench.engine import command_line, plan, progress, trackers, workers
from tmsgd_bench.engine.outcome import Outcome
from tmsgd_bench.engine.schema import N_SEEDS, VARIABLES
from tmsgd_bench.errors import BenchError, ConfigError, StoreError
from tmsgd_bench.results.status import OF_JOBS, Status
from tmsgd_bench.wording import number_of

START = "start.json"
STOP = "stop"
SWEEPS = ".sweeps"
"""The folder of all sweeps in ``results.root``, as conf/config.yaml names it."""
ABANDONED_SECONDS = 60.0
"""No process still writes a temporary file that is older than this."""


OmegaConf.register_new_resolver("expanduser", os.path.expanduser, replace=True)
SWITCH_SHARES = (0, 1 / 24, 5 / 24, 10 / 24, 15 / 24, 20 / 24)
"""Switch epochs of experiment=switch as shares of a run: 0, 5, 25, 50, 75 and 100 of 120 epochs."""


def switch_study(epochs: int) -> str:
    """The switch epochs of experiment=switch, separated by commas as in a sweep.

    Example:
        >>> switch_study(120), switch_study(20)
        ('0,5,25,50,75,100', '0,1,4,8,12,17')
    """
    return _listed(sorted({round(share * epochs) for share in SWITCH_SHARES}))


def first_seeds(count: Any) -> str:
    """The seeds of an experiment in a sweep's notation, from 0 on.

    Args:
        count: the setting ``n_seeds``.

    Raises:
        ConfigError: it is no number of seeds.
    """
    N_SEEDS("n_seeds", count)
    return _listed(range(count))


def _listed(values: Iterable[int]) -> str:
    """Values of a setting, as a sweep has them."""
    return ",".join(map(str, values))


OmegaConf.register_new_resolver("switch_study", switch_study, replace=True)
OmegaConf.register_new_resolver("grid_rate", tuning.rate_of_step, replace=True)
OmegaConf.register_new_resolver("first_seeds", first_seeds, replace=True)
OmegaConf.register_new_resolver("half_decades", lambda: _listed(tuning.half_decades()), replace=True)
OmegaConf.register_new_resolver("search_seeds", lambda: _listed(tuning.search_seeds()), replace=True)
OmegaConf.register_new_resolver("fresh_seeds", lambda count: _listed(tuning.first_fresh_seeds(count)), replace=True)


class SweepCallback(Callback):
    """Starts a sweep in the main process: prints its plan if asked for, and makes its folder."""

    folder: Path | None = None
    jobs: Sequence[plan.PlannedRun | Exception] = ()

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        try:
            _check_variables(config)
            plan.check_root(config)
            folder = _folder(config)
            plan_only = plan.wanted(config)
            jobs = plan.of_sweep(config) if plan.is_known(config) else []
        except Exception as error:  # Hydra would make a warning of it
            raise plan.PlanShown(error) from error
        runs, errors = plan.runs_of(jobs), [job for job in jobs if isinstance(job, Exception)]
        type(self).folder, type(self).jobs = folder, jobs
        # Every job is told the folder. Its own sweep.dir would contain another time, and another place if results.root
        # is swept.
        with open_dict(config.hydra.overrides):
            config.hydra.overrides.hydra.append(command_line.override("hydra.sweep.dir", str(folder)))
        if plan_only and errors:
            raise plan.PlanShown(errors[0])
        if plan_only:
            print(plan.describe(runs))
            raise plan.PlanShown
        try:
            _check_tracker(config)
            _check_some_can_start(runs, errors)
            workers.prepare(config)
            plan.register(runs)
            _begin(folder, config)
        except (BenchError, OSError) as error:  # the store cannot be written: no run could leave a result
            raise plan.PlanShown(error) from error


def start_order(numbers: range, at_once: int) -> list[int]:
    """The order in which to start jobs of this sweep, as places in ``numbers``; their own order if it is not planned.

    Args:
        numbers: the jobs' numbers in the sweep.
        at_once: how many jobs run at a time.
    """
    jobs = SweepCallback.jobs[numbers.start : numbers.stop]
    return plan.start_order(plan.trunks_of(jobs), at_once) if len(jobs) == len(numbers) else list(range(len(numbers)))


def _check_variables(config: Any) -> None:
    """Check that an experiment's sweep varies what its protocol has, before a job's error names what no user wrote.

    Raises:
        ConfigError: it does not.
    """
    lacking = [key for key in config.hydra.sweeper.get("params") or () if key in VARIABLES and key not in config]
    if lacking:
        choices = config.hydra.runtime.choices
        raise ConfigError(
            f"experiment={choices.experiment} varies {lacking[0]}, which protocol={choices.protocol} does not have: "
            "leave protocol= away."
        )


def _check_some_can_start(runs: Sequence[plan.PlannedRun], errors: Sequence[Exception]) -> None:
    """Raise the first error if no run can start for its settings: every job would only say the same again.

    Missing data are no such error, because a job may fetch them.
    """
    if errors and not runs and all(isinstance(error, ConfigError) for error in errors):
        raise errors[0]


def _check_tracker(config: Any) -> None:
    """Make the sweep's tracker once, so that one that is not installed is said before any run starts.

    Raises:
        ConfigError: it cannot be made.
    """
    if OmegaConf.is_dict(settings := config.get("tracker")):
        trackers.build({str(key): value for key, value in settings.items()})


def _folder(config: Any) -> Path:
    """The sweep's folder.

    Raises:
        ConfigError: its name contains ``${``, which a setting cannot hold.
    """
    folder = Path(config.hydra.sweep.dir).absolute()
    if "${" in str(folder):
        raise ConfigError(
            f"the sweep's folder {folder} has '${{' in its name, which stands for another setting: start the sweep in "
            "a folder without it, or choose one with results.root=PATH."
        )
    return folder


def in_sweep() -> bool:
    """Whether this process trains a run of a sweep."""
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
    except OSError:  # a full disk: the workers will notice that this process has ended
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
    if root.name != SWEEPS:  # hydra.sweep.dir was chosen by the user
        return
    now = (folder / START).stat().st_mtime  # by the clock of the file system
    for path in root.glob("*/*/.*.json.*.*.tmp"):
        pid = path.name.split(".")[-3]
        with suppress(OSError):
            if now - path.stat().st_mtime > ABANDONED_SECONDS and not (pid.isdigit() and workers.is_alive(int(pid))):
                path.unlink()


def record_waiting(number: int, overrides: Sequence[str]) -> None:
    """Write that a job has not started, before a launcher starts it: the main process calls this.

    A job that starts overwrites the file.
    """
    assert SweepCallback.folder is not None
    note = "it was not started; the same command starts it"
    _write(SweepCallback.folder, number, overrides, Outcome("", Status.UNFINISHED, note))


def skip_finished(number: int, config: DictConfig) -> Outcome | None:
    """The outcome of a job that has nothing to do because its run has its result, which is written; None for others."""
    try:
        run = plan.of_config(config, in_sweep=True)
    except Exception:  # the job will say what is wrong
        return None
    result = run.folder.finished()
    if result is None or run.options.force or run.options.sharpness:
        return None
    from tmsgd_bench.engine import prefix  # imports torch

    prefix.release(run.spec, run.options)
    outcome = Outcome.skipped(run.spec.run_id, result)
    _write(Path(config.hydra.sweep.dir), number, config.hydra.overrides.task, outcome)
    return outcome


def record_start() -> None:
    """Write that this job has started, and change to the folder in which its sweep was started.

    A job that is killed leaves this behind.

    Raises:
        StoreError: that folder cannot be entered on this machine.
        Interrupted: the sweep is to stop.
    """
    progress.protect_streams()
    folder = Path(HydraConfig.get().sweep.dir)
    start = files.read_json(folder / START) or {}
    if "parent" in start:
        workers.belong_to(start["parent"], folder / STOP)
    interrupt.stop_if_asked()
    note = "its process ended without an outcome; the same command goes on with it"
    record(Outcome("", Status.UNFINISHED, note), pid=os.getpid())
    if start:
        workers.enter(start["cwd"])


def record_interruption() -> None:
    """Write that this job was interrupted; in a worker process this does not return."""
    with suppress(StoreError):  # on a full disk, the file of record_start() stays
        record(Outcome("", Status.UNFINISHED, "it was interrupted; the same command goes on with it"))
    start = files.read_json(Path(HydraConfig.get().sweep.dir) / START) or {}
    if start.get("parent", os.getpid()) != os.getpid():
        workers.await_end()


def record(outcome: Outcome, **more: Any) -> None:
    """Write the outcome of this job, and more plain values, into its sweep's folder."""
    config = HydraConfig.get()
    _write(Path(config.sweep.dir), config.job.num, config.overrides.task, outcome, **more)


def _write(folder: Path, number: int, overrides: Sequence[str], outcome: Outcome, **more: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(job_file(folder, number), {"overrides": list(overrides), **asdict(outcome), **more})


def job_file(folder: Path, number: int) -> Path:
    """What a job of a sweep has left of its outcome."""
    return folder / f"job-{number:05d}.json"


def line(number: int) -> str:
    """The outcome of a job in one line, for the log of the main process."""
    outcome = files.read_json(job_file(SweepCallback.folder, number)) if SweepCallback.folder else None
    return _line(outcome) if outcome else f"run {number} of the sweep left no outcome"


def returned(number: int) -> JobReturn:
    """What a job gives to the sweeper by the outcome that it left, for a launcher that got no answer from it."""
    folder = SweepCallback.folder
    outcome = (files.read_json(job_file(folder, number)) if folder else None) or {}
    has_result = outcome.get("status") in (Status.DONE, Status.SKIPPED, Status.DIVERGED)
    score = outcome.get("score")
    if has_result and score is None:
        score = math.inf  # which files.write_json() writes as null
    return job_return(outcome.get("overrides", []), score)


def job_return(overrides: Sequence[str], score: float | None) -> JobReturn:
    """A job's answer to the sweeper.

    Args:
        overrides: of the job.
        score: see :func:`tmsgd_bench.engine.outcome.score`; None if its run has no result.
    """
    answer = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
    answer.return_value = score
    return answer


def _line(outcome: dict[str, Any]) -> str:
    name = outcome.get("run_id") or " ".join(outcome["overrides"]) or "the run"
    return f"{outcome['status']}: {name}: {outcome['note']}"


def summarise(folder: Path) -> tuple[str, bool]:
    """The summary of a sweep, and whether every run has its result."""
    outcomes = [outcome for path in sorted(folder.glob("job-*.json")) if (outcome := files.read_json(path))]
    counts = Counter(outcome["status"] for outcome in outcomes)
    total = ", ".join(f"{counts[status]} {status}" for status in OF_JOBS if counts[status])
    lines = [f"sweep: {total or 'no run left an outcome'}"]
    if saved := sum(outcome.get("saved", 0) for outcome in outcomes):
        lines.append(f"  {number_of(saved, 'epoch')} saved: runs share the epochs before their switches")
    for outcome in outcomes:
        if outcome["status"] not in (Status.DONE, Status.SKIPPED):
            lines.append(f"  {_line(outcome)}")
    complete = bool(outcomes) and not (counts[Status.FAILED] or counts[Status.UNFINISHED] or counts[Status.BUSY])
    return "\n".join(lines), complete
