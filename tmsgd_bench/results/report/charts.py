"""Which charts an experiment has, and the numbers in them; :mod:`tmsgd_bench.results.report.figures` draws them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from tmsgd_bench.results import selection, store
from tmsgd_bench.results.paper import Experiment
from tmsgd_bench.results.report import figures
from tmsgd_bench.results.report.figures import Chart, Curve, Dots, Look, Quantity
from tmsgd_bench.results.selection import BASES
from tmsgd_bench.results.statistics import paired_difference
from tmsgd_bench.results.status import FINISHED, Status
from tmsgd_bench.results.tables import Row


@dataclass(frozen=True)
class ExperimentRuns:
    """An experiment with the runs and the numbers that its share of a section is made of.

    Args:
        experiment: task, model, data set and metric.
        rows: of the table; at least one has runs.
        runs: every run of the store, from :func:`tmsgd_bench.results.store.read_runs`.
        selected: those of the experiment, from :func:`tmsgd_bench.results.selection.select`, none of them damaged.
    """

    experiment: Experiment
    rows: tuple[Row, ...]
    runs: pd.DataFrame
    selected: pd.DataFrame

    @cached_property
    def of_optimizer(self) -> Mapping[str, pd.DataFrame]:
        """The runs behind each row, by the optimizer's name."""
        names = [row.optimizer for row in self.rows if row.optimizer and row.run_ids]
        return {name: selection.counted(self.selected, name) for name in names}

    @cached_property
    def looks(self) -> Mapping[str, Look]:
        """How each optimizer is drawn."""
        return figures.looks(list(self.of_optimizer))

    @cached_property
    def used(self) -> pd.DataFrame:
        """The runs behind all rows."""
        return pd.concat(list(self.of_optimizer.values()))

    @cached_property
    def note(self) -> str:
        """What every chart of these runs must say of their data."""
        kinds = [f"{kind} data" for kind in sorted(set(self.used["data"])) if kind != "real"]
        return ", ".join([*kinds, *(["partial data"] if self.used["limit"].notna().any() else [])])

    @cached_property
    def metric(self) -> Quantity:
        """The primary metric, on the split that the runs were evaluated on."""
        unit = f" ({self.experiment.unit})" if self.experiment.unit else ""
        split = " or ".join(sorted(set(self.used["split"].dropna()))) or "test"
        return Quantity(f"{split} {self.experiment.metric_label}{unit}", self.note)

    @cached_property
    def switch(self) -> float | None:
        """The switch epoch that the runs share, if they reach it."""
        reached = self.used[self.used["switch_epoch"].astype(float) < self.used["epochs"].astype(float)]
        epochs = sorted(set(reached["switch_epoch"].astype(float)))
        return epochs[0] if len(epochs) == 1 else None


def of_experiment(source: ExperimentRuns, name: str) -> Iterator[Chart]:
    """The charts of an experiment.

    Args:
        name: what the names of its charts begin with.
    """
    by_metric = _curves(source, source.experiment.metric)
    if by_metric:
        yield figures.learning(f"{name}-metric", by_metric, source.metric, source.switch, logarithmic=False)
    if by_loss := _curves(source, "loss"):
        loss = Quantity("training loss", source.note)
        yield figures.learning(f"{name}-loss", by_loss, loss, source.switch, logarithmic=True)
    yield from _gaps(source, by_metric, name)
    yield from _dot_plots(source, name)
    yield from _switch_curves(source, name)


def _curves(source: ExperimentRuns, quantity: str) -> list[Curve]:
    curves = []
    for optimizer, runs in source.of_optimizer.items():
        done, diverged = (
            figures.as_columns(_histories(runs[runs["status"] == status]), quantity) for status in FINISHED
        )
        if len(done) or len(diverged):
            label, look = source.experiment.labels[optimizer], source.looks[optimizer]
            curves.append(Curve(optimizer, label, done, diverged, look))
    return curves


def _histories(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Histories by seed; a run without one is not in it."""
    read = {str(run["seed"]): store.history(Path(run["folder"])) for _, run in runs.iterrows()}
    return {seed: history for seed, history in read.items() if history is not None}


def _gaps(source: ExperimentRuns, curves: Sequence[Curve], name: str) -> Iterator[Chart]:
    by_name = {curve.optimizer: curve for curve in curves}
    pairs = {}
    for optimizer, base in BASES.items():
        if optimizer in by_name and base in by_name:
            curve, base_curve = by_name[optimizer], by_name[base]
            differences = (curve.done - base_curve.done).dropna(axis="columns", how="all").dropna()
            if len(differences.columns):
                pairs[f"{curve.label} − {base_curve.label}"] = (curve, differences)
    if pairs and source.switch is not None:
        yield figures.gap(f"{name}-gap", pairs, source.metric, source.switch)


def _dot_plots(source: ExperimentRuns, name: str) -> Iterator[Chart]:
    reference = next(row for row in source.rows if row.comparison is None)
    compared = [row for row in source.rows if row.difference is not None and row.difference.n]
    dots = [_dots(source, row, reference) for row in compared]
    label = reference.label
    if dots:
        title = f"Differences to {label}, paired by seed"
        yield figures.dots(f"{name}-dots", dots, label, source.metric, title)
    near = [row for row in dots if row.optimizer == "tmsgd"]
    if near and len(dots) > 1:
        yield figures.dots(f"{name}-near", near, label, source.metric, f"{near[0].label} − {label}, enlarged")


def _dots(source: ExperimentRuns, row: Row, reference: Row) -> Dots:
    finals, base = (_finals(source.of_optimizer.get(entry.optimizer)) for entry in (row, reference))
    printed = row.printed.value - reference.printed.value if row.printed and reference.printed else None
    seeds = list((finals - base).dropna())
    difference = paired_difference(finals, base)
    return Dots(row.optimizer, row.label, seeds, difference, printed, source.looks[row.optimizer])


def _finals(runs: pd.DataFrame | None) -> pd.Series:
    """The final metric of runs by seed."""
    if runs is None:
        return pd.Series(dtype=float)
    done = runs[runs["status"] == Status.DONE]
    return done.set_index("seed")["final"].astype(float)


def _switch_curves(source: ExperimentRuns, name: str) -> Iterator[Chart]:
    for optimizer, base in BASES.items():
        swept = selection.sweep(source.runs, source.selected, optimizer)
        switched = selection.by_switch(swept[swept["status"].isin(FINISHED)])
        if len(switched.finals) > 1:
            of_base = selection.counted(source.selected, base)
            finished = of_base[of_base["status"].isin(FINISHED)].set_index("seed")
            level = finished["final"].astype(float).where(finished["status"] == Status.DONE)
            labels = {key: _label(runs, key) for key, runs in ((optimizer, swept), (base, of_base))}
            yield figures.switch_curve(f"{name}-switch-{optimizer}", switched, level, source.metric, labels)


def _label(runs: pd.DataFrame, optimizer: str) -> str:
    """An optimizer's name for people, without the settings that tell a row from others."""
    return str(next(iter(runs["label"].dropna()), optimizer))
