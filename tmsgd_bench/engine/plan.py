"""The plan of a sweep: its runs, which of them are finished, and the epochs, time and disk that the others need."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import re
from collections import deque
from collections.abc import Iterable, Sequence
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
from tmsgd_bench.engine import command_line, compose, explanations, task_data
from tmsgd_bench.engine.spec import RunOptions, RunSpec
from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.results import packed, store
from tmsgd_bench.results.rows import in_words
from tmsgd_bench.results.status import FINISHED, Status
from tmsgd_bench.results.store import RunFolder
from tmsgd_bench.wording import number_of

NUMBER = re.compile(r"(seed|lr|lr_step|switch_epoch)=(-?(?:0|[1-9][0-9]*)(\.[0-9]+)?)")
"""An override that sets one number at the top level of a configuration, of those that sweeps vary."""
PUBLISHED = Path(__file__).resolve().parents[2] / "results"
log = logging.getLogger(__name__)


class PlanShown(BaseException):
    """Nothing is to start: the plan was printed, or could not be made. Hydra would swallow an Exception.

    Args:
        error: why there is no plan; None if it has been printed.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error


@dataclass(frozen=True)
class PlannedRun:
    """One run that a command would train, on which data; None: on some that a plan says nothing about."""

    spec: RunSpec
    options: RunOptions
    data: task_data.TaskData | None = None

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.options.results_root, self.spec.run_id)


def check_root(config: DictConfig) -> None:
    """Check that ``results.root`` is a path, before a sweep makes its folder there.

    Raises:
        PlanShown: it is not.
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


def is_known(config: DictConfig) -> bool:
    """Whether a sweep's runs are known before it starts: other sweepers than Hydra's own choose them one by one.

    Raises:
        ConfigError: they are not, and their plan is asked for.
    """
    known = str(config.hydra.sweeper.get("_target_")).endswith(".BasicSweeper")
    if not known and wanted(config):
        raise ConfigError(
            "plan=true needs runs that are known beforehand, and this hydra/sweeper chooses each by the results before "
            "it: leave plan=true away, or name the values with commas and without hydra/sweeper."
        )
    return known


def of_sweep(config: DictConfig) -> list[PlannedRun | Exception]:
    """The jobs of a sweep in its order: each the run that it trains, or the error with which it cannot start.

    Args:
        config: the argument of Hydra's ``on_multirun_start``.
    """
    parameters = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    folders = command_line.search_path(config.hydra)
    jobs: list[PlannedRun | Exception] = []
    known: dict[tuple[str, ...], DictConfig] = {}
    for overrides in expand([*parameters, *config.hydra.overrides.task]):
        try:
            composed = _compose(config.hydra.job.config_name, [*folders, *overrides], known)
            run = of_config(composed, in_sweep=True)
            command_line.check_names(composed, composed.hydra.runtime.choices, config.hydra.runtime.config_sources)
        except Exception as error:  # the job raises it again, and reports it
            jobs.append(error)
            continue
        jobs.append(run)
    return jobs


def runs_of(jobs: Iterable[PlannedRun | Exception]) -> list[PlannedRun]:
    """The different runs of a sweep's jobs, each in the place of its first job."""
    runs: dict[Path, PlannedRun] = {}
    for job in jobs:
        if isinstance(job, PlannedRun):
            runs.setdefault(job.folder.final, job)
    return list(runs.values())


def trunks_of(jobs: Iterable[PlannedRun | Exception]) -> list[str | None]:
    """For each job the folder of the trunk that it needs, or its own if it needs none; None if it trains nothing."""
    return [None if isinstance(job, Exception) else _trunk_or_own(job) for job in jobs]


def _trunk_or_own(run: PlannedRun) -> str | None:
    from tmsgd_bench.engine.prefix import trunk_of  # with torch, which takes seconds: not for other commands

    if not _trains(run):
        return None
    trunk = trunk_of(run.spec, run.options)
    return str(run.folder.final if trunk is None else trunk.folder)


def _trains(run: PlannedRun) -> bool:
    """Whether a run is still to be trained."""
    return run.options.force or not run.folder.finished()


def start_order(trunks: Sequence[str | None], at_once: int) -> list[int]:
    """The order in which to start jobs, by their places in the sweep.

    Runs of one trunk that start together would wait for each other, and leave cores idle. So the others start
    ``at_once`` jobs after the first, by when it has ended if all jobs take equally long. Jobs that train nothing take
    no time, and do not count.

    Args:
        trunks: for each job the name of its trunk, or None if it trains nothing.
        at_once: how many jobs run at a time.
    """
    order: list[int] = []
    first: dict[str, int] = {}
    waiting: deque[int] = deque()
    training = 0  # jobs in the order that train
    for job, trunk in enumerate(trunks):
        while waiting and training - first[str(trunks[waiting[0]])] >= at_once:
            order.append(waiting.popleft())
            training += 1
        if trunk is None:
            order.append(job)
        elif training - first.setdefault(trunk, training) in range(1, at_once):
            waiting.append(job)
        else:
            order.append(job)
            training += 1
    return [*order, *waiting]


def _compose(name: str, overrides: list[str], known: dict[tuple[str, ...], DictConfig]) -> DictConfig:
    """Compose a configuration, or change numbers of a known one: to compose one takes a tenth of a second.

    Args:
        known: the configurations composed before, by their overrides without those numbers, and the numbers' names.
    """
    keys = [text.lstrip("+~").partition("=")[0] for text in overrides]
    matches = [match for match in map(NUMBER.fullmatch, overrides) if match and keys.count(match[1]) == 1]
    numbers = {match[1]: float(match[2]) if match[3] else int(match[2]) for match in matches}
    key = (*(text for text in overrides if text.partition("=")[0] not in numbers), *sorted(numbers))
    if key not in known:
        known[key] = compose_config(name, overrides=overrides, return_hydra_config=True)
    for setting, number in numbers.items():
        known[key][setting] = number
    return known[key]


def of_config(config: DictConfig, in_sweep: bool) -> PlannedRun:
    """The run that one composed configuration describes."""
    return PlannedRun(*compose.planned(config, in_sweep))


def expand(overrides: Iterable[str]) -> list[list[str]]:
    """Every combination of the overrides' choices, in the order of Hydra's sweeper: the last one varies fastest.

    Raises:
        ConfigError: one is an interval, which has no list of values, or a list without any.
    """
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None  # resolves glob(*)
    choices: dict[str, list[str]] = {}  # a later override replaces an earlier one of the same key
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)):
        if override.is_interval_sweep():
            raise ConfigError(
                f"{override.input_line}: an interval needs a sweeper that draws from it: add hydra/sweeper=optuna, or "
                "name the values with commas."
            )
        if override.is_sweep_override():
            values = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
            if not values:
                raise ConfigError(f"{override.input_line} has no value, so the sweep has no run: name one, as seed=0.")
        else:
            values = [override.input_line or ""]
        choices[override.get_key_element()] = values
    return [list(combination) for combination in itertools.product(*choices.values())]


def register(runs: Iterable[PlannedRun]) -> None:
    """Register the unfinished runs of a sweep with their trunks, before any of them starts.

    So the first run of a trunk leaves the states that the others need.
    """
    from tmsgd_bench.engine.prefix import shared_epochs, trunk_of

    for run in runs:
        if _trains(run) and (trunk := trunk_of(run.spec, run.options)):
            trunk.register(run.spec.run_id, shared_epochs(run.spec))


def describe(runs: list[PlannedRun]) -> str:
    """The plan as text: a line for each run, then the sums.

    The epochs are those that are still to be trained; checkpoints tell which are done. Shared epochs are counted once,
    at the first run that needs them. The time is estimated from finished runs of the same store with the same task,
    model, data and optimizer, or else from published runs of another machine.
    """
    rows, frames = _rows(runs)
    differing = _differing(runs)
    lines = [f"plan: {number_of(len(runs), 'run')}, {sum(row['state'] == Status.DONE for row in rows)} of them done"]
    lines += [
        f"  {row['state']:<9} {number_of(row['epochs'], 'epoch'):>13}  {_time(row['seconds']):>9}  {row['run']}"
        f"{differing[row['run']]}{row['note']}"
        for row in rows
    ]
    epochs, unshared = sum(row["epochs"] for row in rows), sum(row["unshared_epochs"] for row in rows)
    saved = f"; sharing saves {unshared - epochs}" if unshared > epochs else ""
    lines.append(f"{number_of(epochs, 'epoch')} to train{saved}")
    seconds = [row["seconds"] for row in rows if row["state"] != Status.DONE]
    known = [value for value in seconds if not math.isnan(value)]
    unknown = len(seconds) - len(known)
    total = _time(sum(known)) + (f", and {number_of(unknown, 'run')} of unknown time" if unknown else "")
    total += " (by published runs, of another machine)" if any(row["published"] for row in rows) else ""
    lines.append(f"training alone, one run after the other: {total if known or not seconds else 'unknown'}")
    return "\n".join([*lines, f"disk: {_disk(rows, frames)}", *_lacking(runs)])


def _differing(runs: Sequence[PlannedRun]) -> dict[str, str]:
    """By the names of the runs: the settings in which runs of one optimizer differ and that no name shows."""
    by_optimizer: dict[str, list[RunSpec]] = {}
    for run in runs:
        by_optimizer.setdefault(run.spec.optimizer["name"], []).append(run.spec)
    differing: dict[str, str] = {}
    for specs in by_optimizer.values():
        words = in_words([_not_in_the_name(spec) for spec in specs], "=") or [""] * len(specs)
        differing |= {spec.run_id: f"  {text}" if text else "" for spec, text in zip(specs, words, strict=True)}
    return differing


def _not_in_the_name(spec: RunSpec) -> dict[str, Any]:
    of_optimizer = {key: value for key, value in spec.optimizer.items() if key not in ("_target_", "switch_epoch")}
    return {**of_optimizer, "epochs": spec.epochs, "batch_size": spec.batch_size}


def _lacking(runs: Iterable[PlannedRun]) -> list[str]:
    """A line for each data set that is not there; a long sweep would stop at it, or download it at night."""
    data_sets = dict.fromkeys(run.data for run in runs if run.data)
    absent = {name: phrase for data in data_sets for name, phrase in data.lacking().items()}
    return [f"data: {name} is not there; {phrase}" for name, phrase in absent.items()]


def seconds_left(runs: Sequence[PlannedRun]) -> dict[str, float]:
    """How long each unfinished run will train, by its name, estimated as in :func:`describe`; NaN where unknown."""
    rows, _ = _rows(runs)
    return {row["run"]: row["seconds"] for row in rows if row["state"] != Status.DONE}


def _rows(runs: Sequence[PlannedRun]) -> tuple[list[dict[str, Any]], dict[Path, pd.DataFrame]]:
    """What a plan says of each run, and the runs of each store."""
    frames = {root: store.read_runs(root) for root in {run.options.results_root for run in runs}}
    reached: dict[tuple[Path, str], int] = {}  # how far the earlier runs of the plan have trained each trunk
    return [_row(run, frames[run.options.results_root], reached) for run in runs], frames


def _row(run: PlannedRun, frame: pd.DataFrame, reached: dict[tuple[Path, str], int]) -> dict[str, Any]:
    spec = run.spec
    stored = frame[frame["run_id"] == spec.run_id]
    state = str(stored["status"].iloc[0]) if len(stored) else "to do"
    if run.options.force:
        state = "again"
    done = state in FINISHED
    resumed = _resumed_epochs(run)
    epochs = 0 if done else spec.epochs - max(resumed, _trunk_epochs(run, reached))
    pace, published = _seconds_per_epoch(spec, frame)
    never_switches = spec.switch_epoch is not None and spec.switches is False
    return {
        "run": spec.run_id,
        "note": "  (never switches: eq. (8) is not used)" if never_switches else "",
        "state": Status.DONE if done else state,
        "epochs": epochs,
        "unshared_epochs": 0 if done else spec.epochs - resumed,
        "seconds": epochs * pace if epochs else 0.0,  # also where the pace is unknown
        "published": published and epochs > 0 and not math.isnan(pace),
    }


def _resumed_epochs(run: PlannedRun) -> int:
    """Epochs that an interrupted run has finished, by its newest checkpoint."""
    from tmsgd_bench.engine import checkpoint

    checkpoints = [] if run.options.force else checkpoint.epochs(run.folder.work)
    return checkpoints[0][0] if checkpoints else 0


def _trunk_epochs(run: PlannedRun, reached: dict[tuple[Path, str], int]) -> int:
    """Epochs that the run takes from its trunk: saved on disk, or trained by an earlier run of this plan."""
    from tmsgd_bench.engine import checkpoint
    from tmsgd_bench.engine.prefix import shared_epochs, trunk_of

    trunk = trunk_of(run.spec, run.options)
    if trunk is None:
        return 0
    shared, key = shared_epochs(run.spec), (run.options.results_root, trunk.key)
    saved = [epoch for epoch, _ in checkpoint.epochs(trunk.folder) if epoch <= shared]
    epochs = max(min(reached.get(key, 0), shared), *saved, 0)
    reached[key] = max(reached.get(key, 0), shared)
    return epochs


def _seconds_per_epoch(spec: RunSpec, runs: pd.DataFrame) -> tuple[float, bool]:
    """Median seconds of an epoch over finished runs of the same kind, and whether those are published ones.

    The runs of the store count. If there are none of the kind, published runs of the same length and batch size do,
    with the optimizer or, without such, with any; NaN if there are none either.
    """
    trained = _alike(spec, runs)
    trained = trained[trained["optimizer"] == spec.optimizer["name"]]
    if len(trained):
        return _median_pace(trained), False
    published = _alike(spec, _published(f"{spec.task['name']}-{spec.model['name']}-"))
    published = published[(published["epochs"] == spec.epochs) & (published["batch_size"] == spec.batch_size)]
    same = published[published["optimizer"] == spec.optimizer["name"]]
    return _median_pace(same if len(same) else published), True


def _alike(spec: RunSpec, runs: pd.DataFrame) -> pd.DataFrame:
    """Finished runs of the same task, model and amount of data."""
    alike = runs[
        (runs["status"] == Status.DONE)
        & (runs["task"] == spec.task["name"])
        & (runs["model"] == spec.model["name"])
        & (runs["data"] == spec.data["kind"])
    ]
    return alike[alike["limit"].isna() if spec.data["limit"] is None else alike["limit"] == spec.data["limit"]]


def _median_pace(runs: pd.DataFrame) -> float:
    return float((runs["training_seconds"] / runs["epochs_done"]).median()) if len(runs) else math.nan


@functools.cache
def _published(begin: str) -> pd.DataFrame:
    """The runs that are published with this checkout and whose names begin so; none in an installed package."""
    frames = []
    for place in sorted(PUBLISHED.glob(f"*/{packed.NAME}")) + sorted(PUBLISHED.glob(f"*/*/{packed.NAME}")):
        try:
            frames.append(store.read_runs(place, begin))
        except StoreError as error:  # a damaged file is no reason to have no plan
            log.warning("the times of published runs are estimated without %s: %s", place, error)
    return store.merge(frames) if frames else pd.DataFrame(columns=pd.Index(store.COLUMNS))


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
    return f"about {total:.1f} MB for {number_of(count, 'run')}, and checkpoints while they train"


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "unknown"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
