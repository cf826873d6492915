"""What a sweep is going to do, before it does it: its runs, what is there already, epochs, time and disk."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from hydra import compose as compose_config
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tmsgd_bench.checks import flag, path
from tmsgd_bench.engine import command_line, compose, explanations
from tmsgd_bench.engine.spec import RunOptions, RunSpec
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.results import store
from tmsgd_bench.results.status import FINISHED, Status
from tmsgd_bench.results.store import RunFolder


class PlanShown(BaseException):
    """The plan was asked for: nothing is to start. Not an Exception, because Hydra would swallow one.

    Args:
        error: why there is no plan; None if it has been printed.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    spec: RunSpec
    options: RunOptions

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.options.results_root, self.spec.run_id)


def check_root(config: DictConfig) -> None:
    """Start no sweep whose results have no folder to go to.

    Raises:
        PlanShown: ``results.root`` is no path.
    """
    try:
        path()("results.root", OmegaConf.select(config, "results.root"))
    except (ConfigError, OmegaConfBaseException) as error:
        raise PlanShown(error) from error


def wanted(config: DictConfig) -> bool:
    """Whether a plan is asked for.

    Raises:
        ConfigError: ``plan`` is neither true nor false.
    """
    try:
        plan = OmegaConf.select(config, "plan")
    except OmegaConfBaseException as error:
        raise explanations.unusable(error, config) from error
    flag()("plan", plan)
    return bool(plan)


def of_sweep(config: DictConfig) -> tuple[list[Job], list[Exception]]:
    """The runs of a sweep, each once, in the order in which they start, and why others cannot.

    Args:
        config: what Hydra hands to ``on_multirun_start``.
    """
    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    folders = command_line.search_path(config.hydra)
    jobs: dict[tuple[Path, str], Job] = {}
    wrong: list[Exception] = []
    for overrides in expand([*parameters, *config.hydra.overrides.task]):
        try:
            composed = compose_config(config.hydra.job.config_name, overrides=[*folders, *overrides])
            job = of_config(composed, in_sweep=True)
        except Exception as error:  # told again, in full, when the job itself comes to it
            wrong.append(error)
            continue
        jobs.setdefault((job.options.results_root, job.spec.run_id), job)
    return list(jobs.values()), wrong


def of_config(config: DictConfig, in_sweep: bool) -> Job:
    """The run that one composed configuration describes."""
    return Job(compose.run_spec(config), compose.run_options(config, in_sweep))


def expand(overrides: Iterable[str]) -> list[list[str]]:
    """Every combination of the overrides' choices, as Hydra's own sweeper makes them: the last varies fastest."""
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None  # knows what glob(*) stands for
    choices: dict[str, list[str]] = {}  # a later override of the same key takes the place of the earlier one
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)):
        if override.is_sweep_override():
            values = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        else:
            values = [override.input_line or ""]
        choices[override.get_key_element()] = values
    return [list(combination) for combination in itertools.product(*choices.values())]


def register(jobs: Iterable[Job]) -> None:
    """Tell the trunks which states the unfinished runs of a sweep need, before the first of them passes by."""
    from tmsgd_bench.engine.prefix import shared_epochs, trunk_of

    for job in jobs:
        if not job.folder.finished() and (trunk := trunk_of(job.spec, job.options)):
            trunk.register(job.spec.run_id, shared_epochs(job.spec))


def describe(jobs: list[Job]) -> str:
    """The plan as text: a line for each run, then the sums.

    Epochs are those that are still to be trained, as far as checkpoints tell. With shared prefixes, an epoch of a trunk
    is counted at the first run that needs it. Times come from finished runs of the same store with the same task,
    model, data and optimizer.
    """
    frames = {root: store.read_runs(root) for root in {job.options.results_root for job in jobs}}
    rows = _rows(jobs, frames)
    lines = [f"plan: {len(jobs)} runs, {sum(row['state'] == Status.DONE for row in rows)} of them done"]
    lines += [
        f"  {row['state']:<9} {row['epochs']:>6} epochs  {_time(row['seconds']):>9}  {row['run']}{row['note']}"
        for row in rows
    ]
    epochs, alone = sum(row["epochs"] for row in rows), sum(row["alone"] for row in rows)
    lines.append(f"{epochs} epochs to train" + (f"; sharing saves {alone - epochs}" if alone > epochs else ""))
    seconds = [row["seconds"] for row in rows if row["state"] != Status.DONE]
    known = [value for value in seconds if not math.isnan(value)]
    unknown = len(seconds) - len(known)
    total = _time(sum(known)) + (f", and {unknown} runs of unknown time" if unknown else "")
    lines.append(f"time, one run after the other: {total if known or not seconds else 'unknown'}")
    return "\n".join([*lines, f"disk: {_disk(rows, frames)}"])


def _rows(jobs: list[Job], frames: dict[Path, pd.DataFrame]) -> list[dict[str, Any]]:
    reached: dict[tuple[Path, str], int] = {}  # how far each trunk is trained by the runs before
    rows = []
    for job in jobs:
        frame = frames[job.options.results_root]
        found = frame[frame["run_id"] == job.spec.run_id]
        state = str(found["status"].iloc[0]) if len(found) else "to do"
        if job.options.force:
            state = "again"
        done = state in FINISHED
        alone = 0 if done else job.spec.epochs - _own_epochs(job)
        epochs = 0 if done else job.spec.epochs - max(_own_epochs(job), _shared(job, reached))
        rows.append(
            {
                "run": job.spec.run_id,
                "note": "  (never switches: eq. (8) is not used)"
                if job.spec.switch_epoch is not None and job.spec.switches is False
                else "",
                "state": Status.DONE if done else state,
                "epochs": epochs,
                "alone": alone,
                "seconds": epochs * _seconds_per_epoch(job.spec, frame),
            }
        )
    return rows


def _own_epochs(job: Job) -> int:
    """What an interrupted run goes on from."""
    from tmsgd_bench.engine import checkpoint

    kept = [] if job.options.force else checkpoint.epochs(job.folder.work)
    return kept[0][0] if kept else 0


def _shared(job: Job, reached: dict[tuple[Path, str], int]) -> int:
    """Epochs that the run will find in its trunk: on disk, or trained by the runs before it in this plan."""
    from tmsgd_bench.engine import checkpoint
    from tmsgd_bench.engine.prefix import shared_epochs, trunk_of

    trunk = trunk_of(job.spec, job.options)
    if trunk is None:
        return 0
    own, key = shared_epochs(job.spec), (job.options.results_root, trunk.key)
    there = [epoch for epoch, _ in checkpoint.epochs(trunk.folder) if epoch <= own]
    found = max(min(reached.get(key, 0), own), *there, 0)
    reached[key] = max(reached.get(key, 0), own)
    return found


def _seconds_per_epoch(spec: RunSpec, runs: pd.DataFrame) -> float:
    """Median over like runs of all their seconds by their epochs; NaN if there is none."""
    alike = runs[
        (runs["status"] == Status.DONE)
        & (runs["task"] == spec.task["name"])
        & (runs["model"] == spec.model["name"])
        & (runs["data"] == spec.data["kind"])
        & (runs["optimizer"] == spec.optimizer["name"])
    ]
    alike = alike[alike["limit"].isna() if spec.data["limit"] is None else alike["limit"] == spec.data["limit"]]
    return float((alike["training_seconds"] / alike["epochs_done"]).median()) if len(alike) else float("nan")


def _disk(rows: list[dict[str, Any]], frames: dict[Path, pd.DataFrame]) -> str:
    sizes = [
        sum(file.stat().st_size for file in (root / run_id).rglob("*") if file.is_file())
        for root, frame in frames.items()
        for run_id in frame.loc[frame["status"].isin(FINISHED), "run_id"]
    ]
    count = sum(row["state"] != Status.DONE for row in rows)
    if not sizes:
        return "unknown: the store has no finished run to measure"
    total = count * sorted(sizes)[len(sizes) // 2] / 1e6
    return f"about {total:.1f} MB for {count} runs, and checkpoints while they train"


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
