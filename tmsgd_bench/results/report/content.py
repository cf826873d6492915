"""What the report says, gathered from the runs: sections, charts, evidence. No layout in here."""

from __future__ import annotations

import base64
import itertools
import math
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import yaml

from tmsgd_bench import files, privacy
from tmsgd_bench.results import selection, store, tables
from tmsgd_bench.results.paper import Experiment, experiments, layout, paper
from tmsgd_bench.results.report import figures
from tmsgd_bench.results.report.figures import Chart, Curve, Dots, Quantity
from tmsgd_bench.results.statistics import paired_difference
from tmsgd_bench.results.status import FINISHED, Status
from tmsgd_bench.version import PROTOCOLS

BASES = {"tmsgd": "sgd", "tmsgdm": "sgdm"}
"""What each optimizer is before its switch."""
OFFICIAL = ("real", "table2")
"""The data and protocol of the paper."""
IMAGE_BYTES = 300_000
"""A sample image above this size is linked and not shown: the page is one file."""


@dataclass(frozen=True)
class Image:
    """A picture from a run folder.

    Args:
        caption: of which run.
        source: a data URL, or a link for one that is too large.
        inlined: which of the two.
    """

    caption: str
    source: str
    inlined: bool


@dataclass(frozen=True)
class Part:
    """One experiment's share of a section."""

    experiment: Experiment
    charts: tuple[Chart, ...]
    images: tuple[Image, ...]
    settings: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Section:
    """A table under one data kind and protocol, with what belongs to it.

    Args:
        anchor: unique on the page.
        table: filled.
        official: real data and the paper's own settings; anything else is labelled.
        parts: one for each experiment that has runs.
    """

    anchor: str
    table: tables.Table
    official: bool
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Environment:
    """What some runs ran on.

    Args:
        name: E1, E2 …
        facts: label and value.
        commit: of the code; None if unknown.
        command: how the sweep was started.
    """

    name: str
    facts: tuple[tuple[str, str], ...]
    commit: str | None
    command: str


@dataclass(frozen=True)
class Evidence:
    """One run in the list at the end.

    Args:
        run: its row in the frame of runs, missing values as None.
        marks: what a reader must know about it.
        link: to its folder, relative to the page.
        environment: name of what it ran on; empty if unknown.
        command: that trains it again; empty if it follows no protocol.
    """

    run: Mapping[str, Any]
    marks: tuple[str, ...]
    link: str
    environment: str
    command: str


# ---------------------------------------------------------------- sections


def sections(runs: pd.DataFrame, folder: Path) -> list[Section]:
    """Every table of the paper, and once more for each other kind of data and protocol that has runs of its own.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        folder: of the page, for links.
    """
    found = []
    for number in paper()["tables"]:
        seen: list[set[str]] = []
        for data, protocol in _conditions(runs, number):
            table = tables.build(runs, number, data, protocol)
            if (data, protocol) == OFFICIAL or (table.run_ids and table.run_ids not in seen):
                seen.append(table.run_ids)
                found.append(_section(runs, table, data, protocol, folder))
    return found


def _conditions(runs: pd.DataFrame, number: str) -> Iterator[tuple[str, str]]:
    """Data and protocol: the paper's own, then others that the task has runs of."""
    yield OFFICIAL
    own = runs[runs["task"] == layout(number)["task"]]
    there = {(data, name) for data, names in zip(own["data"], own["protocols"], strict=True) for name in names}
    yield from (pair for pair in itertools.product(("real", "synthetic"), PROTOCOLS) if pair in there - {OFFICIAL})


def _section(runs: pd.DataFrame, table: tables.Table, data: str, protocol: str, folder: Path) -> Section:
    official = (data, protocol) == OFFICIAL
    anchor = f"table-{table.number}" + ("" if official else f"-{data}-{protocol}")
    parts = []
    for place, experiment in enumerate(experiments(table.number)):
        chosen = selection.select(runs, experiment, data, protocol)
        chosen = chosen[chosen["status"] != Status.DAMAGED]  # the table says so
        rows = [row for row in table.rows if row.experiment.key == experiment.key]
        if any(row.run_ids for row in rows):
            parts.append(_part(runs, chosen, experiment, rows, f"{anchor}-{place}", folder))
    return Section(anchor, table, official, tuple(parts))


def _part(
    runs: pd.DataFrame,
    chosen: pd.DataFrame,
    experiment: Experiment,
    rows: Sequence[tables.Row],
    name: str,
    folder: Path,
) -> Part:
    own = {row.optimizer: selection.counted(chosen, row.optimizer) for row in rows if row.optimizer and row.run_ids}
    used = pd.concat(list(own.values()))
    return Part(
        experiment=experiment,
        charts=tuple(_charts(runs, chosen, own, experiment, rows, name)),
        images=tuple(_images(used, folder)),
        settings=tuple(_settings(own)),
    )


# ---------------------------------------------------------------- charts


def _charts(
    runs: pd.DataFrame,
    chosen: pd.DataFrame,
    own: Mapping[str, pd.DataFrame],
    experiment: Experiment,
    rows: Sequence[tables.Row],
    name: str,
) -> Iterator[Chart]:
    unit = f" ({experiment.unit})" if experiment.unit else ""
    note = _note(pd.concat(list(own.values())))
    quantity, switch = Quantity(f"test {experiment.metric_label}{unit}", note), _switch(own)
    by_metric = _curves(own, experiment.metric, experiment.labels)
    if by_metric:
        yield figures.learning(f"{name}-metric", by_metric, quantity, switch, logarithmic=False)
    if by_loss := _curves(own, "loss", experiment.labels):
        yield figures.learning(f"{name}-loss", by_loss, Quantity("training loss", note), switch, logarithmic=True)
    yield from _gaps(own, by_metric, quantity, switch, name)
    yield from _dot_plots(own, experiment, rows, quantity, name)
    yield from _switch_curves(runs, chosen, experiment, quantity, name)


def _note(used: pd.DataFrame) -> str:
    """What every chart of these runs must say of their data."""
    kinds = [f"{kind} data" for kind in sorted(set(used["data"])) if kind != "real"]
    return ", ".join([*kinds, *(["partial data"] if used["limit"].notna().any() else [])])


def _switch(own: Mapping[str, pd.DataFrame]) -> float | None:
    """The switch epoch that the runs share, if they reach it."""
    used = pd.concat(list(own.values()))
    reached = used[used["switch_epoch"].astype(float) < used["epochs"].astype(float)]
    epochs = sorted(set(reached["switch_epoch"].astype(float)))
    return epochs[0] if len(epochs) == 1 else None


def _curves(own: Mapping[str, pd.DataFrame], quantity: str, labels: Mapping[str, str]) -> list[Curve]:
    found = []
    for optimizer, selected in own.items():
        done, diverged = (
            figures.as_columns(_histories(selected[selected["status"] == status]), quantity) for status in FINISHED
        )
        if len(done) or len(diverged):
            found.append(Curve(optimizer, labels[optimizer], done, diverged))
    return found


def _histories(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Histories by seed; a run without one is not in it."""
    paths = {str(seed): Path(folder) / store.HISTORY for seed, folder in zip(runs["seed"], runs["folder"], strict=True)}
    return {seed: files.read_parquet(path) for seed, path in paths.items() if path.exists()}


def _gaps(
    own: Mapping[str, pd.DataFrame], curves: Sequence[Curve], quantity: Quantity, switch: float | None, name: str
) -> Iterator[Chart]:
    by_name = {curve.optimizer: curve for curve in curves}
    pairs = {}
    for optimizer, base in BASES.items():
        if optimizer in by_name and base in by_name:
            one, other = by_name[optimizer], by_name[base]
            differences = (one.done - other.done).dropna(axis="columns", how="all").dropna()
            if len(differences.columns):
                pairs[f"{one.label} − {other.label}"] = (one, differences)
    if pairs and switch is not None:
        yield figures.gap(f"{name}-gap", pairs, quantity, switch)


def _dot_plots(
    own: Mapping[str, pd.DataFrame], experiment: Experiment, rows: Sequence[tables.Row], quantity: Quantity, name: str
) -> Iterator[Chart]:
    reference = next(row for row in rows if row.comparison is None)
    base = _finals(own.get(reference.optimizer))
    found = [_dots(row, reference, own, base) for row in rows if row.difference is not None and row.difference.n]
    label = reference.label
    if found:
        title = f"Differences to {label}, paired by seed"
        yield figures.dots(f"{name}-dots", found, label, quantity, title)
    near = [row for row in found if row.optimizer == "tmsgd"]
    if near and len(found) > 1:
        yield figures.dots(f"{name}-near", near, label, quantity, f"{near[0].label} − {label}, enlarged")


def _dots(row: tables.Row, reference: tables.Row, own: Mapping[str, pd.DataFrame], base: pd.Series) -> Dots:
    finals = _finals(own[row.optimizer])
    both = row.printed is not None and reference.printed is not None
    printed = row.printed.value - reference.printed.value if row.printed and reference.printed and both else None
    seeds = list((finals - base).dropna())
    return Dots(row.optimizer, row.label, seeds, paired_difference(finals, base), printed)


def _finals(own: pd.DataFrame | None) -> pd.Series:
    if own is None:
        return pd.Series(dtype=float)
    done = own[own["status"] == Status.DONE]
    return done.set_index("seed")["final"].astype(float)


def _switch_curves(
    runs: pd.DataFrame, chosen: pd.DataFrame, experiment: Experiment, quantity: Quantity, name: str
) -> Iterator[Chart]:
    for optimizer, base in BASES.items():
        swept = selection.sweep(runs, chosen, optimizer)
        done = swept[swept["status"] == Status.DONE].astype({"switch_epoch": float, "final": float})
        finals = done.pivot_table(index="switch_epoch", columns="seed", values="final")
        finals = finals[finals.index < math.inf]
        if len(finals) > 1:
            reference = _finals(selection.counted(chosen, base))
            labels = {key: experiment.labels[key] for key in (optimizer, base)}
            yield figures.switch_curve(f"{name}-switch-{optimizer}", finals, reference, quantity, labels)


# ---------------------------------------------------------------- images, settings


def _images(used: pd.DataFrame, folder: Path) -> Iterator[Image]:
    """The pictures of each optimizer's run with the smallest seed."""
    first = used[used["status"] == Status.DONE].sort_values("seed").drop_duplicates("optimizer")
    for _, row in first.iterrows():
        for path in sorted(Path(row["folder"]).glob("*.png")):
            if not store.intact(path.parent, path.name):
                continue
            caption = f"{row['label']}, seed {row['seed']}: {path.stem.replace('_', ' ')}"
            if path.stat().st_size > IMAGE_BYTES:
                yield Image(caption, relative(path, folder), inlined=False)
            else:
                data = base64.b64encode(path.read_bytes()).decode("ascii")
                yield Image(caption, f"data:image/png;base64,{data}", inlined=True)


def _settings(own: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, str]]:
    """What all runs share, and each optimizer's own options."""
    for number, selected in enumerate(own.values()):
        config = yaml.safe_load((Path(selected["folder"].iloc[0]) / store.CONFIG).read_text(encoding="utf-8"))
        options = config.pop("optimizer")
        if number == 0:
            for key in ("seed", "protocols", "setting"):
                del config[key]
            yield from ((key, _plain(value, key)) for key, value in config.items())
        yield options.pop("label"), _plain(options)


def _plain(value: Any, key: str = "") -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(entry, str(name))}" for name, entry in value.items())
    return "none" if value is None else privacy.setting(str(value), key)


# ---------------------------------------------------------------- evidence


def evidence(runs: pd.DataFrame, folder: Path) -> tuple[list[Environment], list[Evidence]]:
    """What the runs ran on, and every run of the store, whatever its status, data and protocol.

    Args:
        folder: of the page, for links.
    """
    environments: dict[str, Environment] = {}
    found = []
    for (_, run), plain in zip(runs.iterrows(), _records(runs), strict=True):
        recorded = {} if run["status"] == Status.DAMAGED else store.environment(Path(run["folder"]))
        name = _environment(recorded, environments) if recorded else ""
        marks = _run_marks(run)
        found.append(Evidence(plain, marks, relative(Path(run["folder"]), folder), name, _command(run)))
    return list(environments.values()), found


def _records(runs: pd.DataFrame) -> Iterable[Mapping[str, Any]]:
    plain = runs.astype(object)
    return [{str(k): v for k, v in row.items()} for row in plain.where(plain.notna(), None).to_dict("records")]


def _run_marks(run: pd.Series) -> tuple[str, ...]:
    known = (f"1 {run['status']}", *selection.few_seeds(1))  # which its row says anyway
    marks = [mark for mark in selection.marks(run.to_frame().T) if mark not in known]
    return (*marks, *(["follows no protocol"] if not run["protocols"] else []))


def _environment(recorded: Mapping[str, Any], known: dict[str, Environment]) -> str:
    """The name of an environment; a new one is added."""
    facts = {
        key: recorded.get(key) for key in ("processor", "accelerator", "device", "threads", "deterministic", "tf32")
    }
    facts |= {key: recorded.get(key) for key in ("system", "python")} | (recorded.get("packages") or {})
    command = "python run.py " + shlex.join(privacy.arguments(recorded.get("arguments") or []))
    values = tuple((key, str(value)) for key, value in facts.items() if value is not None)
    key = repr((values, recorded.get("commit"), command))
    if key not in known:
        known[key] = Environment(f"E{len(known) + 1}", values, recorded.get("commit"), command.strip())
    return known[key].name


def _command(run: pd.Series) -> str:
    """One run of a protocol; its YAMLs are named as its parts are."""
    if not run["protocols"]:
        return ""
    settings = {key: run[key] for key in ("task", "model", "optimizer", "data", "seed")}
    return shlex.join(
        ["python", "run.py", f"protocol={run['protocols'][0]}", *(f"{key}={value}" for key, value in settings.items())]
    )


def relative(path: Path, folder: Path) -> str:
    """A link from a page in a folder to a path."""
    return quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix())
