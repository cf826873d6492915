"""What a sweep leaves behind: a line for each job, and a summary at its end.

Jobs may run in other processes, so each writes its outcome to a file of its own, which the main process reads.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from tmsgd_bench import files
from tmsgd_bench.engine import plan
from tmsgd_bench.errors import BenchError

ORDER = ("done", "skipped", "diverged", "busy", "failed", "unfinished")


OmegaConf.register_new_resolver("expanduser", os.path.expanduser, replace=True)


class SweepCallback(Callback):
    """Remembers in the main process where the sweep that it starts keeps its jobs' outcomes."""

    folder: Path | None = None

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir).absolute()
        type(self).folder = folder
        # Every job is handed it, on whatever machine it runs: its own sweep.dir would have another time, and another
        # place if results.root is one of the things that are swept.
        with open_dict(config.hydra.overrides):
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{folder}'")
        try:
            planned = plan.wanted(config)
            jobs, wrong = plan.of_sweep(config)
        except Exception as error:  # Hydra would make a warning of it
            raise plan.PlanShown(error) from error
        if planned and wrong:
            raise plan.PlanShown(wrong[0])
        if planned:
            print(plan.describe(jobs))
            raise plan.PlanShown
        try:
            plan.register(jobs)
        except BenchError as error:  # the store cannot be written: no job could leave a result
            raise plan.PlanShown(error) from error


def in_sweep() -> bool:
    """Whether this process runs a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def record_start() -> None:
    """Write that this job began; a job that is killed leaves this behind."""
    _write({"status": "unfinished", "note": "its process ended without an outcome; the same command goes on with it"})


def record(status: str, run_id: str, note: str, saved: int = 0) -> None:
    """Write the outcome of this job into its sweep's folder; ``saved`` counts epochs that other runs trained for it."""
    _write({"status": status, "run_id": run_id, "note": note, "saved_epochs": saved})


def _write(values: dict[str, Any]) -> None:
    config = HydraConfig.get()
    folder = Path(config.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"job-{config.job.num:05d}.json"
    files.write_json(folder / name, {"overrides": list(config.overrides.task), **values})


def summarise(folder: Path) -> tuple[str, bool]:
    """The summary of a sweep, and whether every job that ran has its result."""
    jobs = [job for path in sorted(folder.glob("job-*.json")) if (job := files.read_json(path))]
    counts = Counter(job["status"] for job in jobs)
    total = ", ".join(f"{counts[status]} {status}" for status in ORDER if counts[status])
    lines = [f"sweep: {total or 'no job left an outcome'}"]
    if saved := sum(job.get("saved_epochs", 0) for job in jobs):
        lines.append(f"  {saved} epochs saved: runs that are the same until they switch shared them")
    for job in jobs:
        if job["status"] not in ("done", "skipped"):
            name = job.get("run_id") or " ".join(job["overrides"])
            lines.append(f"  {job['status']}: {name}: {job['note']}")
    complete = bool(jobs) and not (counts["failed"] or counts["unfinished"] or counts["busy"])
    return "\n".join(lines), complete
