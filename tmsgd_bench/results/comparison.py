"""Any runs side by side: those that differ only in optimizer and seed are compared, paired by seed.

The paper's tables take only runs at the paper's settings. This is for all others: your own optimizer, other settings,
partial data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tmsgd_bench import escaping, files
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.results import families, selection, store
from tmsgd_bench.results.cells import HEADS, comparison_record, footnote, interval_name, markdown_row, row
from tmsgd_bench.results.families import Tested
from tmsgd_bench.results.paper import layout, paper
from tmsgd_bench.results.statistics import Comparison, Summary, compare, summarise
from tmsgd_bench.results.status import FINISHED, Status

SAME = ["task", "model", "dataset", "group", "metric"]
Behind = frozenset[frozenset[str]]
"""The names of the runs behind a comparison, from :func:`tmsgd_bench.results.families.runs_behind`."""
SHOWN = 4
"""Settings at most by which groups are told apart in words."""


@dataclass(frozen=True)
class Entry:
    """One optimizer with one set of options.

    Args:
        label: its name, and its switch epoch if it has one.
        final, best: the primary metric after the last epoch, and at its best epoch, over seeds.
        comparison: final, paired by seed, with the reference; None for the reference, or where there is none.
        direction: of the metric.
        marks: what a reader must know.
        run_ids: the evidence.
    """

    label: str
    final: Summary
    best: Summary
    comparison: Comparison | None
    direction: str
    marks: tuple[str, ...]
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Runs that may be compared.

    Args:
        heading: task, model, data, settings and metric.
        digits: decimals of a printed number.
        reference: label of what differences are taken to; empty if no run has it.
        entries: one for each optimizer and its options.
    """

    heading: str
    digits: int
    reference: str
    entries: tuple[Entry, ...]


def build(runs: pd.DataFrame, reference: str = "sgd") -> list[Group]:
    """Every group of runs that differ only in optimizer and seed.

    A comparison that is a claim of the paper is corrected with the other claims of its table
    (:mod:`tmsgd_bench.results.families`); the others of a group are a family of their own.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        reference: the optimizer that others are compared with.

    Raises:
        ConfigError: no run has that optimizer.
        StoreError: a run that follows a protocol reports another metric than the paper's table asks for.
    """
    known = runs[runs["status"].isin((*FINISHED, Status.DAMAGED)) & runs["group"].notna()]
    finished = known[known["status"].isin(FINISHED)]
    if len(finished) and reference not in set(finished["optimizer"]):
        names = ", ".join(sorted(set(finished["optimizer"])))
        raise ConfigError(f"no finished run has the optimizer {reference!r}: choose --reference from {names}.")
    metrics = known.groupby("group")["metric"].transform("first")  # a diverged run's is its task's as well
    groups = [
        of_group for _, of_group in known.assign(metric=known["metric"].fillna(metrics)).groupby(SAME, dropna=False)
    ]
    groups = [of_group for of_group in groups if of_group["status"].isin(FINISHED).any()]
    claimed = _claimed(runs)
    told = _told_apart([(_group(of_group, reference, claimed), _finished(of_group).iloc[0]) for of_group in groups])
    lost = [selection.left_out(runs, [of_group]) for of_group in groups]
    return [
        replace(group, heading="; ".join(filter(None, [group.heading, left_out])))
        for group, left_out in zip(told, lost, strict=True)
    ]


def _claimed(runs: pd.DataFrame) -> dict[Behind, Tested]:
    """The claims of the paper that the runs test, by the runs behind them."""
    kinds = {(data, name) for data, names in zip(runs["data"], runs["protocols"], strict=True) for name in names or ()}
    tasks = set(runs["task"])
    return {
        families.runs_behind(*one.sides.values()): one
        for number in paper()["tables"]
        if layout(number)["task"] in tasks
        for data, protocol in sorted(kinds)
        for one in families.of_conditions(runs, number, data, protocol).values()
        if one.comparison.pairs
    }


def _finished(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["status"].isin(FINISHED)]


def _told_apart(groups: Sequence[tuple[Group, pd.Series]]) -> list[Group]:
    """Groups whose headings are the same differ in settings that no heading shows: they are added.

    Args:
        groups: each with one of its runs.
    """
    alike: dict[str, list[pd.Series]] = {}
    for group, run in groups:
        alike.setdefault(group.heading, []).append(run)
    differences = {heading: _differences(runs) for heading, runs in alike.items() if len(runs) > 1}
    return [
        replace(group, heading=f"{group.heading}; {differences[group.heading][run['group']]}")
        if group.heading in differences
        else group
        for group, run in groups
    ]


def _differences(runs: Sequence[pd.Series]) -> dict[str, str]:
    """The settings that tell each group from the others; a digest if they are many, or cannot be read."""
    settings = {str(run["group"]): store.shared_settings(Path(str(run["folder"]))) for run in runs}
    keys = sorted(set().union(*settings.values()))
    differing = [
        key
        for key in keys
        if any(of_group.get(key) != settings[runs[0]["group"]].get(key) for of_group in settings.values())
    ]
    if not 0 < len(differing) <= SHOWN or not all(settings.values()):
        return {group: f"#{group[:4]}" for group in settings}
    return {
        group: ", ".join(f"{key}={of_group[key]}" if key in of_group else f"without {key}" for key in differing)
        for group, of_group in settings.items()
    }


def _group(runs: pd.DataFrame, reference: str, claimed: Mapping[Behind, Tested]) -> Group:
    settings = [of_options for _, of_options in runs.groupby("options", sort=False)]
    settings.sort(key=lambda of_options: (of_options["optimizer"].iloc[0] != reference, *_order(of_options, reference)))
    base = settings[0] if settings[0]["optimizer"].iloc[0] == reference else None
    direction = runs["direction"].dropna().iloc[0]
    entries = _labelled(
        [_entry(of_options, None if of_options is base else base, direction) for of_options in settings], settings
    )
    entries = _corrected(entries, settings, base, claimed)
    runs = _finished(runs)
    digits = 2 if runs["final"].abs().max() >= 10 else 4
    return Group(_heading(runs), digits, "" if base is None else entries[0].label, tuple(entries))


def _labelled(entries: Sequence[Entry], settings: Sequence[pd.DataFrame]) -> list[Entry]:
    """Options other than the switch epoch that differ are told apart by a digest of them."""
    names = [entry.label for entry in entries]
    return [
        entry
        if names.count(entry.label) == 1
        else replace(entry, label=f"{entry.label} #{_digest(of_options['options'].iloc[0])}")
        for entry, of_options in zip(entries, settings, strict=True)
    ]


def _corrected(
    entries: Sequence[Entry],
    settings: Sequence[pd.DataFrame],
    base: pd.DataFrame | None,
    claimed: Mapping[Behind, Tested],
) -> list[Entry]:
    """The entries with their comparisons corrected."""
    if base is None:
        return list(entries)
    compared = [
        (entry.comparison, claimed.get(families.runs_behind(of_options, base)))
        for entry, of_options in zip(entries, settings, strict=True)
        if entry.comparison is not None
    ]
    corrected = iter(families.complete([pair[0] for pair in compared], [pair[1] for pair in compared]))
    return [entry if entry.comparison is None else replace(entry, comparison=next(corrected)) for entry in entries]


def _digest(options: str) -> str:
    return files.digest(json.loads(options))[:4]


def _order(runs: pd.DataFrame, reference: str) -> tuple[str, bool, int, float, str]:
    """The place of runs of one optimizer with the same options: by name, then by switch epoch.

    Of several that have the reference's name, those that follow a protocol come first, then those with the most runs.
    """
    first = runs.iloc[0]
    switch = -1.0 if pd.isna(first["switch_epoch"]) else float(first["switch_epoch"])
    is_reference = first["optimizer"] == reference
    free = is_reference and not any(runs["protocols"].map(len))
    return str(first["optimizer"]), free, -len(runs) if is_reference else 0, switch, str(first["options"])


def _entry(runs: pd.DataFrame, base: pd.DataFrame | None, direction: str) -> Entry:
    done = runs[runs["status"] == Status.DONE]
    ours = selection.outcomes(runs, direction)
    return Entry(
        label=label(runs.iloc[0]),
        final=summarise(done["final"]),
        best=summarise(done["best"]),
        comparison=None if base is None else compare(ours, selection.outcomes(base, direction)),
        direction=direction,
        marks=tuple(selection.marks(runs)),
        run_ids=selection.evidence(runs),
    )


def label(run: pd.Series) -> str:
    """An optimizer's name, and its switch epoch if it has one."""
    if pd.isna(run["switch_epoch"]):
        return str(run["label"])
    return f"{run['label']}, switch {float(run['switch_epoch']):g}"


def _heading(runs: pd.DataFrame) -> str:
    run = runs.iloc[0]
    unit = f"{run['unit']}, " if run["unit"] else ""
    better = "larger" if run["direction"] == "max" else "smaller"
    return f"{about(run)}: {run['metric']} ({unit}{better} is better)"


def about(run: pd.Series) -> str:
    """Task, model, data and settings of a finished run, as a heading."""
    examples = run["training_examples"] if pd.isna(run["limit"]) else run["limit"]  # the former is not always recorded
    size = "" if pd.isna(examples) else f" ({examples:,.0f} training examples)"
    settings = f"{run['epochs']:.0f} epochs, batch {run['batch_size']:.0f}, lr {run['lr']:g}"
    return f"{run['task']}, {run['model']}, {run['data']} {run['dataset']}{size}; {settings}"


def to_markdown(groups: Sequence[Group]) -> str:
    """All groups in GitHub's Markdown, with the rules they were made by."""
    return "\n".join([*(line for group in groups for line in _lines(group)), footnote()]) + "\n"


def _lines(group: Group) -> Iterator[str]:
    reference = escaping.markdown(group.reference)
    yield f"**{escaping.markdown(group.heading)}**" + (f"; differences to {reference}" if reference else "")
    yield ""
    rows = (row(entry, group.digits).in_markdown() for entry in group.entries)
    interval = interval_name(entry.comparison for entry in group.entries)
    head = HEADS._replace(difference=f"{HEADS.difference} [{interval}]")
    yield from map(markdown_row, (head, ["---"] * len(head), *rows))
    yield ""


def to_csv(groups: Sequence[Group]) -> str:
    """A row for each entry, with full digits; runs are separated by spaces."""
    return escaping.csv(pd.DataFrame([_record(group, entry) for group in groups for entry in group.entries]))


def _record(group: Group, entry: Entry) -> dict[str, Any]:
    return {
        "group": group.heading,
        "optimizer": entry.label,
        "mean": entry.final.mean,
        "std": entry.final.std,
        "n": entry.final.n,
        "reference": group.reference,
        **comparison_record(entry.comparison),
        "best_mean": entry.best.mean,
        "best_std": entry.best.std,
        "marks": "; ".join(entry.marks),
        "runs": " ".join(entry.run_ids),
    }


FORMATS = {"md": to_markdown, "csv": to_csv}
