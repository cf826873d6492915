"""What the report says, gathered from the runs: sections, images, settings, evidence. No layout in here."""

from __future__ import annotations

import base64
import itertools
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from tmsgd_bench import privacy
from tmsgd_bench.results import packed, selection, store, table_forms, tables
from tmsgd_bench.results.commands import own_folders
from tmsgd_bench.results.paper import Experiment, experiments, layout, paper
from tmsgd_bench.results.report import charts
from tmsgd_bench.results.report.charts import ExperimentRuns
from tmsgd_bench.results.report.figures import Chart
from tmsgd_bench.results.rows import choices
from tmsgd_bench.results.status import Status
from tmsgd_bench.tuning import PROTOCOL as TUNED
from tmsgd_bench.version import LEVELS, PROTOCOLS

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
        level: of the verdicts that its runs lead to; empty if they lead to none.
        parts: one for each experiment that has runs.
    """

    anchor: str
    table: tables.Table
    official: bool
    level: str
    parts: tuple[Part, ...]

    @property
    def heading(self) -> str:
        """Of the table."""
        return self.table.heading

    @property
    def conditions(self) -> str:
        """Which runs are in the table, as a sentence."""
        return self.table.conditions.capitalize()

    @property
    def note(self) -> str:
        """A footnote of this table alone; empty for most."""
        return self.table.note

    @property
    def columns(self) -> tuple[str, ...]:
        """The heads of the table's columns."""
        return table_forms.columns(self.table)

    @property
    def least(self) -> list[bool]:
        """Whether a phone lacks each column, so that what decides has room."""
        return needed_least(self.columns, table_forms.LEAST)

    @property
    def rows(self) -> list[tuple[tables.Row, tuple[str, ...]]]:
        """The rows of the table, each with its printed cells."""
        return [(row, table_forms.cells(row, self.table)) for row in self.table.rows]

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the table's files."""
        return tuple(table_forms.FORMATS)

    def in_form(self, suffix: str) -> str:
        """The text of the table's file with that suffix."""
        return table_forms.FORMATS[suffix](self.table)


def needed_least(heads: Iterable[str], patterns: Sequence[str]) -> list[bool]:
    """Whether each column of a table is one of those that are needed least.

    Args:
        heads: of the columns.
        patterns: shell patterns of heads.
    """
    return [any(fnmatchcase(head, pattern) for pattern in patterns) for head in heads]


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
        link: to its folder or to the packed file that it is in, relative to the page.
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
    """Every table of the paper. A table appears again for each other kind of data and protocol that has other runs.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        folder: of the page, for links.
    """
    sections = []
    for number in paper()["tables"]:
        seen: list[set[str]] = []
        for data, protocol in _conditions(runs, number):
            table = tables.build(runs, number, data, protocol)
            if (data, protocol) == OFFICIAL or (table.run_ids and table.run_ids not in seen):
                seen.append(table.run_ids)
                sections.append(_section(runs, table, data, protocol, folder))
    return sections


def _conditions(runs: pd.DataFrame, number: str) -> Iterator[tuple[str, str]]:
    """Data and protocol: the paper's own, then others that the task has runs of."""
    yield OFFICIAL
    of_task = runs[runs["task"] == layout(number)["task"]]
    available = {
        (data, name) for data, names in zip(of_task["data"], of_task["protocols"], strict=True) for name in names
    }
    yield from (pair for pair in itertools.product(("real", "synthetic"), PROTOCOLS) if pair in available - {OFFICIAL})


def _section(runs: pd.DataFrame, table: tables.Table, data: str, protocol: str, folder: Path) -> Section:
    official = (data, protocol) == OFFICIAL
    anchor = f"table-{table.number}" + ("" if official else f"-{data}-{protocol}")
    parts = []
    for place, experiment in enumerate(experiments(table.number, protocol)):
        selected = selection.select(runs, experiment, data, protocol)
        selected = selected[selected["status"] != Status.DAMAGED]  # the table says so
        rows = tuple(row for row in table.rows if row.experiment.key == experiment.key)
        if any(row.run_ids for row in rows):
            source = ExperimentRuns(rows[0].experiment, rows, runs, selected)  # with the labels of own optimizers
            parts.append(part(source, f"{anchor}-{place}", folder))
    level = LEVELS.get(protocol, "") if data == "real" else ""
    return Section(anchor, table, official, level, tuple(parts))


def part(source: ExperimentRuns, name: str, folder: Path) -> Part:
    """Charts, pictures and settings of an experiment.

    Args:
        name: what the names of its charts begin with.
        folder: of the page, for links.
    """
    return Part(
        experiment=source.experiment,
        charts=tuple(charts.of_experiment(source, name)),
        images=tuple(_images(source.used, folder)),
        settings=tuple(_settings(source.of_optimizer)),
    )


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


def _settings(of_optimizer: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, str]]:
    """What all runs share, and each optimizer's own options."""
    for number, selected in enumerate(of_optimizer.values()):
        config = store.settings(Path(selected["folder"].iloc[0]))
        options = config.pop("optimizer")
        if number == 0:
            for key in ("seed", "protocols"):
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
    listed = []
    for (_, run), plain in zip(runs.iterrows(), _records(runs), strict=True):
        recorded = {} if run["status"] == Status.DAMAGED else store.environment(Path(run["folder"]))
        name = _environment(recorded, environments) if recorded else ""
        marks = _run_marks(run)
        listed.append(
            Evidence(plain, marks, relative(packed.on_disk(Path(run["folder"])), folder), name, _command(run))
        )
    return list(environments.values()), listed


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
    settings |= {} if run["protocols"][0] != TUNED else {"lr": f"{run['lr']:.10g}", "task.evaluate_on": run["split"]}
    settings |= choices(run)
    words = shlex.join([f"protocol={run['protocols'][0]}", *(f"{key}={value}" for key, value in settings.items())])
    return " ".join(["python run.py", *own_folders([Path(run["folder"])]), words])


def relative(path: Path, folder: Path) -> str:
    """A link from a page in a folder to a path."""
    return quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix())
