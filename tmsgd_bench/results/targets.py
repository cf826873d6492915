"""Time to target: how many epochs and seconds of training it takes to reach a fixed value of the metric.

A target is what SGD reaches at 75 % of its run. It is fixed in ``targets.yaml``, so later runs do not move it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import selection, store
from tmsgd_bench.results.paper import Experiment, every_experiment, load
from tmsgd_bench.results.status import FINISHED, Status

REFERENCE = "sgd"
"""The optimizer that sets the target."""
LOSS = "loss"
"""The column of the training loss, for tasks that measure their metric too late for a target."""


@dataclass(frozen=True)
class Target:
    """A fixed value that runs are to reach.

    Args:
        experiment: what is trained.
        protocol: that the runs follow.
        metric: a column of the history: the task's primary metric, or the training loss.
        value: what SGD reached, in the metric's unit: the mean over ``seeds``.
        seeds: of the runs of SGD behind the value.
        source: the folder that they were in.
        frozen: the day when it was fixed, as year-month-day.
    """

    experiment: Experiment
    protocol: str
    metric: str
    value: float
    seeds: tuple[int, ...]
    source: str
    frozen: str

    @property
    def direction(self) -> Literal["min", "max"]:
        """Of the metric."""
        return self.experiment.direction if self.metric == self.experiment.metric else "min"

    def met(self, values: pd.Series) -> pd.Series:
        """Whether each of some values is at the target or beyond it; a missing one is not."""
        return values >= self.value if self.direction == "max" else values <= self.value


@dataclass(frozen=True)
class Reached:
    """When a run first reached the target.

    Args:
        epochs: trained by then.
        seconds: of training by then; NaN where they were not recorded.
    """

    epochs: int
    seconds: float


@dataclass(frozen=True)
class Row:
    """One optimizer.

    Args:
        label: its name.
        runs: how many runs have finished, diverged ones included.
        reached: when each of those that reached the target did, by seed.
        pairs: seeds with which both this optimizer and SGD reached it.
        epochs_ratio, seconds_ratio: medians over these pairs, divided by SGD's of the same seed; NaN without a pair.
        marks: what a reader must know.
        run_ids: the evidence.
    """

    label: str
    runs: int
    reached: Mapping[int, Reached]
    marks: tuple[str, ...]
    run_ids: tuple[str, ...]
    pairs: int = 0
    epochs_ratio: float = math.nan
    seconds_ratio: float = math.nan

    @property
    def epochs(self) -> float:
        """Median over the runs that reached it; NaN if there is none."""
        return _median([float(moment.epochs) for moment in self.reached.values()])

    @property
    def seconds(self) -> float:
        """Median seconds of training over them."""
        return _median([moment.seconds for moment in self.reached.values()])


@dataclass(frozen=True)
class TargetTable:
    """A target, and how fast each optimizer reaches it."""

    target: Target
    rows: tuple[Row, ...]


@cache
def rules() -> dict[str, Any]:
    """The contents of ``targets.yaml``."""
    return load("targets.yaml")


def shown_share() -> str:
    """The share of SGD's run at which it sets the target, in percent."""
    return f"{100 * rules()['share']:g} %"


def frozen(protocol: str) -> Iterator[Target]:
    """The targets of the runs of a protocol."""
    entries = rules()["targets"].get(protocol, {})
    for experiment in every_experiment(protocol):
        if entry := entries.get(experiment.key):
            yield Target(experiment, protocol, **{**entry, "seeds": tuple(entry["seeds"])})


def build(runs: pd.DataFrame, protocol: str | None = None) -> list[TargetTable]:
    """A table for each target that has finished runs on real data.

    A run reaches a target after the first epoch at which the metric is at the target or beyond it. Epochs without a
    measurement do not count. A run that diverges later has reached it.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        protocol: only of this one; None for all.

    Raises:
        StoreError: a history cannot be read, or a run reports another metric than the paper's table asks for.
    """
    protocols = list(rules()["targets"]) if protocol is None else [protocol]
    targets = [target for name in protocols for target in frozen(name)]
    tables = (_table(target, runs) for target in targets)
    return [table for table in tables if any(row.runs for row in table.rows)]


def _table(target: Target, runs: pd.DataFrame) -> TargetTable:
    chosen = selection.select(runs, target.experiment, "real", target.protocol)
    of_optimizer = {name: selection.counted(chosen, name) for name in target.experiment.labels}
    reached = {name: _reached(_finished(of_one), target) for name, of_one in of_optimizer.items()}
    rows = (_row(name, runs, reached, target) for name, runs in of_optimizer.items())
    return TargetTable(target, tuple(rows))


def _finished(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["status"].isin(FINISHED)]


def _row(name: str, runs: pd.DataFrame, reached: Mapping[str, Mapping[int, Reached]], target: Target) -> Row:
    pairs = [(moment, reached[REFERENCE][seed]) for seed, moment in reached[name].items() if seed in reached[REFERENCE]]
    return Row(
        label=target.experiment.labels[name],
        runs=len(_finished(runs)),
        reached=reached[name],
        marks=(*(selection.marks(runs) if len(runs) else ()), *_before_switch(_finished(runs), reached[name])),
        run_ids=selection.evidence(runs),
        pairs=len(pairs),
        epochs_ratio=_median([moment.epochs / base.epochs for moment, base in pairs]),
        seconds_ratio=_median([moment.seconds / base.seconds for moment, base in pairs]),
    )


def _before_switch(runs: pd.DataFrame, reached: Mapping[int, Reached]) -> list[str]:
    """A mark for the runs that reached the target while they were still what they are before their switch."""
    switches = {int(run["seed"]): float(run["switch_epoch"]) for _, run in runs.iterrows()}
    count = sum(moment.epochs <= switches[seed] for seed, moment in reached.items())
    return [f"{count} of {len(reached)} reached it before the switch"] if count else []


def _reached(runs: pd.DataFrame, target: Target) -> dict[int, Reached]:
    """When each run reached the target, by seed; those that never did are not in it."""
    times = {int(run["seed"]): reaching(_history(run), target) for _, run in runs.iterrows()}
    return {seed: moment for seed, moment in times.items() if moment is not None}


def _history(run: pd.Series) -> pd.DataFrame:
    history = store.history(Path(run["folder"]))
    return pd.DataFrame() if history is None else history


def reaching(history: pd.DataFrame, target: Target) -> Reached | None:
    """When a run first reached a target; None if it never did.

    Args:
        history: a row for each epoch.
        target: its metric is a column of the history, if the run has measured it.
    """
    if target.metric not in history:
        return None
    met = target.met(history[target.metric].astype(float))
    if not met.any():
        return None
    epochs = int(met.to_numpy().argmax()) + 1
    seconds = history["training_seconds"].iloc[:epochs].sum() if "training_seconds" in history else math.nan
    return Reached(epochs, float(seconds))


def _median(values: list[float]) -> float:
    return statistics.median(values) if values and not any(map(math.isnan, values)) else math.nan


# ---------------------------------------------------------------- fixing a target


def from_reference(runs: pd.DataFrame, experiment: Experiment, protocol: str) -> dict[str, Any] | None:
    """What SGD reaches at 75 % of its run: the metric, its mean over seeds, and the seeds; None without its runs.

    A task that has not measured its metric by then takes the training loss.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        experiment, protocol: which of them.

    Raises:
        StoreError: a history cannot be read, or has neither the metric nor a training loss.
    """
    chosen = selection.counted(selection.select(runs, experiment, "real", protocol), REFERENCE)
    done = chosen[chosen["status"] == Status.DONE].sort_values("seed")
    histories = {
        int(run["seed"]): _history(run).iloc[: int(rules()["share"] * float(run["epochs"]))]
        for _, run in done.iterrows()
    }
    if not histories:
        return None
    metric = experiment.metric if all(map(_has(experiment.metric), histories.values())) else LOSS
    if not all(map(_has(metric), histories.values())):
        raise StoreError(
            f"the runs of {experiment.key} measure neither {experiment.metric} nor {LOSS} by {shown_share()} of "
            "their epochs: measure it more often with task.evaluate_every."
        )
    values = [float(history[metric].dropna().iloc[-1]) for history in histories.values()]
    return {"metric": metric, "value": statistics.fmean(values), "seeds": list(histories)}


def _has(metric: str) -> Callable[[pd.DataFrame], bool]:
    return lambda history: metric in history and bool(history[metric].notna().any())
