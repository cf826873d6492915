"""Any runs side by side: those that differ only in optimizer and seed are compared, paired by seed.

All of an optimizer's settings belong to it, its learning rate as well. So two learning rates are two rows of one table,
and each optimizer may stand there with the rate that suits it. The paper's tables take only runs at the paper's
settings. This is for all others: your own optimizer, other settings, partial data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from tmsgd_bench import escaping, files
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.results import families, rows, selection, store
from tmsgd_bench.results.cells import (
    HEADS,
    LEAST_OF_ROWS,
    Cells,
    comparison_record,
    decimals,
    footnote,
    interval_name,
    markdown_row,
    row,
)
from tmsgd_bench.results.families import Tested
from tmsgd_bench.results.paper import layout, paper
from tmsgd_bench.results.statistics import Comparison, Summary, compare, summarise
from tmsgd_bench.results.status import FINISHED, Status
from tmsgd_bench.wording import number_of

USUAL = "sgd"
"""The reference that nobody needs to name."""
MEASURE = ["metric", "unit", "direction"]
SAME = ["task", "model", "dataset", "table", *MEASURE]
Behind = frozenset[frozenset[str]]
"""The names of the runs behind a comparison, from :func:`tmsgd_bench.results.families.runs_behind`."""


@dataclass(frozen=True)
class Entry:
    """One optimizer with one set of options.

    Args:
        label: its name; its learning rate, if the group has several; its switch epoch, if it has one; and what else
            tells it from the other rows of its name.
        lr: its learning rate; None if it has none.
        final, best: the primary metric after the last epoch, and at its best epoch, over seeds.
        comparison: final, paired by seed, with the reference; None for the reference, or where there is none.
        direction: of the metric.
        marks: what a reader must know.
        run_ids: the evidence.
    """

    label: str
    lr: float | None
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
        heading: task, model, data, the settings that all its runs share, and metric.
        digits: decimals of a printed number.
        reference: label of what differences are taken to; empty if no run has it.
        entries: one for each optimizer and its options.
        note: of how many rows the reference is one, and how to choose another; empty if there was no choice.
    """

    heading: str
    digits: int
    reference: str
    entries: tuple[Entry, ...]
    note: str = ""


def build(runs: pd.DataFrame, reference: str | None = None, group_by: Collection[str] = ()) -> list[Group]:
    """Every group of runs that differ only in optimizer, its settings and seed.

    Runs without a result, failed ones for example, give no number: they are counted in the marks of their row.
    A comparison that is a claim of the paper is corrected with the other claims of its table
    (:mod:`tmsgd_bench.results.families`); the others of a group are a family of their own.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        reference: the optimizer that others are compared with: its name or, to choose one of several rows of that
            name, with settings (``sgd,lr=0.1``). Otherwise the row of runs that follow a protocol is chosen, then the
            one with the most runs, then on the validation split the best one, then the one with the smallest learning
            rate. None: SGD, and no differences where no run has it.
        group_by: settings of optimizers that the runs of a group must have in common, too: ``lr`` makes a group for
            each learning rate.

    Raises:
        ConfigError: no run has that optimizer, or that setting.
        StoreError: a run that follows a protocol reports another metric than the paper's table asks for.
    """
    chosen = rows.Reference.parse(USUAL if reference is None else reference)
    if reference is not None:
        _check_reference(runs[runs["status"].isin(FINISHED) & runs["conditions"].notna()], chosen)
    return of_any(runs, chosen, group_by)


def of_any(runs: pd.DataFrame, reference: rows.Reference, group_by: Collection[str] = ()) -> list[Group]:
    """As :func:`build`, also where no run is the reference: then there are no differences."""
    known = runs[runs["conditions"].notna()]
    if known.empty:
        return []
    known = known.assign(table=_tables(known, group_by))
    measures = known.groupby("table")[MEASURE].transform("first")  # a diverged run's is its task's as well
    known = known.assign(**{name: known[name].fillna(measures[name]) for name in MEASURE})
    groups = [of_group for _, of_group in known.groupby(SAME, dropna=False)]
    groups = [of_group for of_group in groups if of_group["status"].isin(FINISHED).any()]
    claimed = _claimed(runs)
    made = [(_group(of_group, reference, claimed), _finished(of_group).iloc[0]) for of_group in groups]
    lost = [selection.left_out(runs, [of_group]) for of_group in groups]
    return [
        replace(group, heading="; ".join(filter(None, [group.heading, left_out])))
        for group, left_out in zip(_told_apart(made, group_by), lost, strict=True)
    ]


def _check_reference(finished: pd.DataFrame, reference: rows.Reference) -> None:
    """Refuse a reference that no finished run is."""
    named = finished[finished["optimizer"] == reference.name]
    if len(finished) and named.empty:
        names = ", ".join(sorted(set(finished["optimizer"])))
        raise ConfigError(f"no finished run has the optimizer {reference.name!r}: choose --reference from {names}.")
    if len(finished) and not any(reference.fits(run) for _, run in named.iterrows()):
        _check_settings(named, reference)
        raise ConfigError(f"no finished run is --reference {reference}: there are {_choices(named, reference)}.")


def _check_settings(runs: pd.DataFrame, reference: rows.Reference) -> None:
    """Refuse a reference with a setting that its optimizer does not have."""
    known = sorted(set().union(*(rows.settings_of(run) for _, run in runs.iterrows())))
    for key in reference.settings:
        if key not in known:
            raise ConfigError(f"{reference.name} has no setting {key!r}: choose --reference from {', '.join(known)}.")


def _choices(runs: pd.DataFrame, reference: rows.Reference) -> str:
    """The references that differ from one in its own settings alone."""
    every = [rows.settings_of(run) for _, run in runs.iterrows()]
    settings = {tuple(f"{key}={rows.shown(choice.get(key))}" for key in reference.settings) for choice in every}
    return ", ".join(",".join((reference.name, *choice)) for choice in sorted(settings))


def _tables(runs: pd.DataFrame, group_by: Collection[str]) -> pd.Series:
    """What the runs of one table have in common, as text.

    Raises:
        ConfigError: no run has a setting of ``group_by``.
    """
    if not group_by:
        return runs["conditions"].astype(str)
    every = [rows.settings_of(run) for _, run in runs.iterrows()]
    known = sorted(set().union(*every))
    for key in group_by:
        if every and key not in known:
            raise ConfigError(f"--group-by {key}: no optimizer has such a setting: choose from {', '.join(known)}.")
    shared = [files.canonical({key: settings.get(key) for key in group_by}) for settings in every]
    return runs["conditions"].astype(str) + pd.Series(shared, index=runs.index, dtype=str)


def _claimed(runs: pd.DataFrame) -> dict[Behind, Tested]:
    """The claims of the paper that the runs test, by the runs behind them."""
    kinds = {(data, name) for data, names in zip(runs["data"], runs["protocols"], strict=True) for name in names or ()}
    tasks = set(runs["task"])
    return {
        families.runs_behind(*test.sides.values()): test
        for number in paper()["tables"]
        if layout(number)["task"] in tasks
        for data, protocol in sorted(kinds)
        for test in families.of_conditions(runs, number, data, protocol).values()
        if test.comparison.pairs
    }


def _finished(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["status"].isin(FINISHED)]


def _told_apart(groups: Sequence[tuple[Group, pd.Series]], group_by: Collection[str]) -> list[Group]:
    """Groups whose headings are the same differ in settings that no heading shows: they are added.

    Args:
        groups: each with one of its runs.
        group_by: see :func:`build`.
    """
    alike: dict[str, list[pd.Series]] = {}
    for group, run in groups:
        alike.setdefault(group.heading, []).append(run)
    differences = {heading: _differences(runs, group_by) for heading, runs in alike.items() if len(runs) > 1}
    return [
        replace(group, heading=f"{group.heading}; {differences[group.heading][run['table']]}")
        if group.heading in differences
        else group
        for group, run in groups
    ]


def _differences(runs: Sequence[pd.Series], group_by: Collection[str]) -> dict[str, str]:
    """The settings that tell each group from the others; a digest if they are many, or cannot be read."""
    shared = {str(run["table"]): store.shared_settings(Path(str(run["folder"]))) for run in runs}
    by_option = {str(run["table"]): {key: rows.settings_of(run).get(key) for key in group_by} for run in runs}
    every = [{**settings, **by_option[table]} for table, settings in shared.items()]
    words = rows.in_words(every, "=") if all(shared.values()) else None
    return dict(zip(shared, words or [f"#{files.digest({'table': table})[:4]}" for table in shared], strict=True))


def _group(runs: pd.DataFrame, reference: rows.Reference, claimed: Mapping[Behind, Tested]) -> Group:
    settings = [of_options for _, of_options in runs.groupby("options", sort=False)]
    finished = [of_options for of_options in settings if of_options["status"].isin(FINISHED).any()]
    candidates = [of_options for of_options in finished if reference.fits(of_options.iloc[0])]
    base = min(candidates, key=rows.precedence) if candidates else None
    settings.sort(key=lambda of_options: (of_options is not base, *rows.order(of_options)))
    direction = runs["direction"].dropna().iloc[0]
    labels = rows.labels(settings)
    entries = [
        _entry(of_options, None if of_options is base else base, direction, label)
        for of_options, label in zip(settings, labels, strict=True)
    ]
    entries = _corrected(entries, settings, base, claimed)
    label, note = ("", "") if base is None else (labels[0], _note(reference, len(candidates)))
    return Group(_heading(runs), decimals(_finished(runs)["final"]), label, tuple(entries), note)


def _note(reference: rows.Reference, candidates: int) -> str:
    if candidates == 1:
        return ""
    return f"one of {candidates} rows of {reference}: --reference {reference.name},SETTING=VALUE chooses another"


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


def _entry(runs: pd.DataFrame, base: pd.DataFrame | None, direction: str, label: str) -> Entry:
    done = runs[runs["status"] == Status.DONE]
    ours = selection.outcomes(runs, direction)
    return Entry(
        label=label,
        lr=rows.learning_rate(runs.iloc[0]),
        final=summarise(done["final"]),
        best=summarise(done["best"]),
        comparison=None if base is None else compare(ours, selection.outcomes(base, direction)),
        direction=direction,
        marks=tuple(selection.marks(runs)),
        run_ids=selection.evidence(_finished(runs)),
    )


def _heading(runs: pd.DataFrame) -> str:
    """Task, model, data, metric, and the settings of all rows; the learning rate stands beside them if they differ.

    Args:
        runs: of a group; the first finished one says what all have in common.
    """
    run = _finished(runs).iloc[0]
    unit = f"{run['unit']}, " if run["unit"] else ""
    better = "larger" if run["direction"] == "max" else "smaller"
    settings = about(run)
    if runs["lr"].nunique(dropna=False) == 1 and (rate := rows.learning_rate(run)) is not None:
        settings += f", lr {rows.shown(rate)}"
    return f"{settings}: {run['metric']} ({unit}{better} is better)"


def about(run: pd.Series) -> str:
    """Task, model, data, epochs and batch of a finished run, as a heading."""
    examples = run["training_examples"] if pd.isna(run["limit"]) else run["limit"]  # the former is not always recorded
    size = "" if pd.isna(examples) else f" ({examples:,.0f} training examples)"
    settings = f"{number_of(run['epochs'], 'epoch')}, batch {run['batch_size']:.0f}"
    return f"{run['task']}, {run['model']}, {run['data']} {run['dataset']}{size}; {settings}"


def to_markdown(groups: Sequence[Group]) -> str:
    """All groups in GitHub's Markdown, with the rules they were made by."""
    return "\n".join([*(line for group in groups for line in _lines(group)), footnote()]) + "\n"


def _lines(group: Group) -> Iterator[str]:
    yield f"**{escaping.markdown(group.heading)}**{_in_words(group)}"
    yield ""
    cells = (row(entry, group.digits).in_markdown() for entry in group.entries)
    head = columns(group)
    yield from map(markdown_row, (head, ["---"] * len(head), *cells))
    yield ""


def columns(group: Group) -> Cells:
    """The heads of a group's printed columns."""
    interval = interval_name(entry.comparison for entry in group.entries)
    return HEADS._replace(difference=f"{HEADS.difference} [{interval}]")


def _in_words(group: Group) -> str:
    """To what the differences are taken, after the heading."""
    if not group.reference:
        return "; no differences: no finished run is the reference (SGD, if --reference names no other)"
    note = f", {group.note}" if group.note else ""
    return f"; differences to {escaping.markdown(group.reference + note)}"


def to_csv(groups: Sequence[Group]) -> str:
    """A row for each entry, with full digits; runs are separated by spaces."""
    return escaping.csv(pd.DataFrame([_record(group, entry) for group in groups for entry in group.entries]))


def _record(group: Group, entry: Entry) -> dict[str, Any]:
    return {
        "group": group.heading,
        "optimizer": entry.label,
        "lr": entry.lr,
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


LEAST = LEAST_OF_ROWS
FORMATS = {"md": to_markdown, "csv": to_csv}
