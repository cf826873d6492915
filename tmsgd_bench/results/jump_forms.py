"""Jumps of the training loss as Markdown and CSV, and the command that records what is missing around them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from tmsgd_bench import escaping, tuning
from tmsgd_bench.results.cells import decimals, markdown_row, p_value
from tmsgd_bench.results.commands import own_folders
from tmsgd_bench.results.jumps import (
    BEFORE,
    MEASURED,
    SMALLER,
    Group,
    Rule,
    after_switch,
    count,
    listed,
    recounted,
)
from tmsgd_bench.results.rows import choices
from tmsgd_bench.results.statistics import ALPHA

LEAST = ("Diverged", "Runs", "Epochs each", "Pairs", "At its peak", "Epochs", "after", "in it")
"""The columns needed least in a terminal that is too narrow."""


def to_markdown(groups: Sequence[Group], rule: Rule) -> str:
    """All tables, with the rule."""
    parts = [part for group in groups for part in _tables(group, rule)]
    about = (
        f"A jump begins where the training loss is at least {rule.factor:g} times the smallest loss before it, and "
        f"lasts until it is below {math.sqrt(rule.factor):.3g} times that loss. Epochs from {rule.first} on count. "
        f"Brackets: exact 95 % intervals of Poisson counts. A late jump begins in the last {rule.late} epochs. "
        f"Jumps by {SMALLER:g} are those of the same rule with that factor. "
        "“p, jumps”: exact binomial test of equal rates, two-sided; “p, Holm”: corrected over the rows, and decides "
        f"below {ALPHA:g}. “p, seeds”: sign test over the seeds in which one of the two jumped more often."
    )
    return "\n\n".join([*parts, about]) + "\n"


def _tables(group: Group, rule: Rule) -> Iterator[str]:
    yield f"**{escaping.markdown(group.heading)}**"
    heads = ["Optimizer", "Runs", "Diverged", "Runs that jump", f"Epochs from {rule.first}", f"Jumps by {SMALLER:g}"]
    heads += [f"Jumps by {rule.factor:g}", "Jumps per 100 epochs", "Final metric, late jump"]
    heads += ["Final metric, no late jump"]
    digits = decimals(pd.Series([trace.run["final"] for entry in group.entries for trace in entry.traces], dtype=float))
    yield table(heads, [_count_cells(count(entry, rule), digits) for entry in group.entries])
    for some in _rules(rule):
        if compared := after_switch(recounted(group, some), some):
            yield f"After the switch epoch, on the same seeds, jumps by a factor of {some.factor:g}:"
            heads = ["Optimizer", "Against", "Pairs", "Epochs each", "Jumps", "Jumps of the other", "Ratio"]
            heads += ["p, jumps", "p, Holm", "Seeds with more", "Seeds with fewer", "p, seeds", "Does it jump more?"]
            yield table(heads, map(_paired_cells, compared))
    if jumps := listed(group):
        yield f"Each jump, with lr × sharpness before and after it (largest: of the {BEFORE} epochs before):"
        heads = ["Optimizer", "Seed", "Epoch", "Times the smallest loss", "At its peak", "Epochs", "Final metric"]
        heads += ["largest", "before", "in it", "after", "median of the run", "limit"]
        yield table(heads, [_jump_cells(jump, digits) for jump in jumps])


def _rules(rule: Rule) -> list[Rule]:
    """The rule, and the same with the smaller factor, if that is another one."""
    return [rule] if rule.factor == SMALLER else [rule, replace(rule, factor=SMALLER)]


def table(heads: Sequence[str], rows: Any) -> str:
    """A table in Markdown, of cells that are Markdown already."""
    return "\n".join(map(markdown_row, [heads, ["---"] * len(heads), *rows]))


def number(value: float) -> str:
    """To three digits; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.3g}"


def _interval(row: Mapping[str, Any], middle: str) -> str:
    return "–" if math.isnan(row["low"]) else f"{number(row[middle])} [{number(row['low'])}, {number(row['high'])}]"


def _count_cells(row: Mapping[str, Any], digits: int) -> list[str]:
    finals = [
        f"{row[f'{name}_mean']:.{digits}f} (n={row[f'{name}_runs']})" if row[f"{name}_runs"] else "–"
        for name in ("late", "other")
    ]
    counts = [str(row[key]) for key in ("runs", "diverged", "runs_with_jumps", "epochs", "smaller_jumps", "jumps")]
    return [escaping.markdown(row["optimizer"]), *counts, _interval(row, "per_100"), *finals]


def _paired_cells(row: Mapping[str, Any]) -> list[str]:
    pairs = f"{row['pairs']}" + (f" ({row['left_out']} differ before the switch)" if row["left_out"] else "")
    counts = [str(row[key]) for key in ("epochs", "jumps", "jumps_reference")]
    tests = [p_value(row["p"]), p_value(row["p_holm"]), str(row["seeds_more"]), str(row["seeds_fewer"])]
    names = [escaping.markdown(row[key]) for key in ("optimizer", "reference")]
    return [*names, pairs, *counts, _interval(row, "ratio"), *tests, p_value(row["p_seeds"]), row["answer"]]


def _jump_cells(row: Mapping[str, Any], digits: int) -> list[str]:
    measured = [number(row[key]) for key in ("largest_before", "before", "at", "after", "median", "limit")]
    numbers = [str(row["seed"]), str(row["epoch"]), number(row["times"]), number(row["peak"]), str(row["epochs"])]
    final = "–" if pd.isna(row["final"]) else f"{row['final']:.{digits}f}"
    return [escaping.markdown(row["optimizer"]), *numbers, final, *measured]


def csv_files(groups: Sequence[Group], rule: Rule) -> dict[str, str]:
    """The tables in full, by file name; a group is named by its heading."""
    rows: dict[str, list[dict[str, Any]]] = {"jumps": [], "after_switch": [], "each": []}
    for group in groups:
        about = {"group": group.heading}
        rows["jumps"] += [{**about, **count(entry, rule)} for entry in group.entries]
        for some in _rules(rule):
            compared = after_switch(recounted(group, some), some)
            rows["after_switch"] += [{**about, "factor": some.factor, **row} for row in compared]
        rows["each"] += [{**about, **row} for row in listed(group)]
    return {f"{name}.csv": escaping.csv(pd.DataFrame(of_name)) for name, of_name in rows.items() if of_name}


def commands(groups: Sequence[Group]) -> list[str]:
    """A command for each group that trains its runs that jumped again, with lr × sharpness.

    Runs that have it are left out, and runs that follow no protocol: their settings do not fit into a command.
    """
    return [_command(lacking) for group in groups if (lacking := list(_lacking(group)))]


def _lacking(group: Group) -> Iterator[pd.Series]:
    for entry in group.entries:
        for trace in entry.traces:
            follows = [name for name in trace.run["protocols"] or () if name != tuning.PROTOCOL]
            if trace.jumps and MEASURED not in trace.history and follows and trace.run["split"] == "test":
                yield trace.run


def _command(runs: Sequence[pd.Series]) -> str:
    """Of runs that follow a protocol, which has all their other settings."""
    first = min(runs, key=lambda run: bool(run["verified"]))
    chosen = [f"{key}={value}" for key, value in choices(first).items()]
    names = sorted({str(run["optimizer"]) for run in runs})
    seeds = sorted({int(run["seed"]) for run in runs})
    swept = [f"optimizer={','.join(names)}", f"seed={','.join(map(str, seeds))}"]
    folders = own_folders(Path(str(run["folder"])) for run in runs)
    words = [*chosen, f"protocol={first['protocols'][0]}", *swept, "log_sharpness=1", "results.root=my/sharpness"]
    return " ".join(["python run.py", *folders, "-m", *words])
