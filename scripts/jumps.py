"""How often the training loss jumps, for each optimizer: from the histories of stored runs.

    python scripts/jumps.py --results results/table5                   # tables, and each jump in a line
    python scripts/jumps.py --results results/table5 results/switch --out my/jumps     # also CSV, Markdown, a picture

A jump begins at the first epoch whose training loss (the mean over the epoch) is at least --factor (10) times the
smallest loss of all epochs before it. It lasts until the loss is below the square root of that many times the same
smallest loss: halfway back on the picture's logarithmic axis. All epochs until then are one jump. The smallest loss
so far is the reference, and not the epoch before, because a loss may climb in several epochs; halfway, because a loss
that falls with noise would otherwise pass the threshold several times. Jumps that begin from epoch --first (30) on are
counted: before it the loss still falls fast, and hides jumps.

TM-SGD is compared with SGD after its switch epoch, over the seeds that have both with the same losses before it. From
there on both start from the same weights, and each of their jumps falls to either with the same chance if they jump
equally often: an exact binomial test. A run's jumps may come in series, which that test does not allow for. So beside
it stands the sign test over seeds: which of the two jumped more often.

Runs with log_sharpness=1 have lr × sharpness in their histories. If one of the stores holds such a run, its values
around each jump are printed; the last line is the command that records them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tmsgd_bench import escaping, files, outputs, terminal
from tmsgd_bench.checks import is_number, is_whole
from tmsgd_bench.cli import stores
from tmsgd_bench.errors import BenchError, StoreError
from tmsgd_bench.optim import MultistepScheme
from tmsgd_bench.results import comparison, rows, store
from tmsgd_bench.results.cells import markdown_row, p_value
from tmsgd_bench.results.selection import BASES
from tmsgd_bench.results.statistics import ALPHA, LEVEL, holm, sign_p_value, summarise
from tmsgd_bench.results.status import FINISHED, Status

LOSS = "loss"
MEASURED = "lr_times_sharpness"
BEFORE = 5
"""Epochs before a jump in which the largest lr × sharpness is looked for."""
SMALLER = 3.0
"""Jumps by this factor are counted too: how many there are must not hang on one threshold."""
COLUMNS = 3
"""Panels of the picture in a row."""


@dataclass(frozen=True)
class Rule:
    """What a jump is.

    Args:
        factor: times the smallest loss so far at which a jump begins; above 1.
        first: epoch from which on jumps are counted.
        late: a jump is late if it begins in so many last epochs.
    """

    factor: float = 10.0
    first: int = 30
    late: int = 20


@dataclass(frozen=True)
class Jump:
    """A jump of the training loss.

    Args:
        epoch: in which it begins, counted from 0.
        times: the loss of that epoch, as a multiple of the smallest loss before it.
        peak: the largest loss of the jump, as such a multiple.
        epochs: that it lasts; up to the end of the run, if it does not end before.
    """

    epoch: int
    times: float
    peak: float
    epochs: int


@dataclass(frozen=True)
class Trace:
    """A finished run: its row of the store, its history up to the last finite loss, and its counted jumps."""

    run: pd.Series
    history: pd.DataFrame
    jumps: tuple[Jump, ...]

    @property
    def losses(self) -> np.ndarray:
        """Training loss of each epoch."""
        return self.history[LOSS].to_numpy(dtype=float)

    def since(self, epoch: float) -> list[Jump]:
        """The jumps that begin in this epoch or later."""
        return [jump for jump in self.jumps if jump.epoch >= epoch]

    def exposed(self, epoch: float) -> int:
        """Epochs from this one on."""
        return max(0, len(self.history) - int(epoch))


@dataclass(frozen=True)
class Entry:
    """The runs of one optimizer with the same options, one for each seed."""

    label: str
    traces: tuple[Trace, ...]

    @property
    def first(self) -> pd.Series:
        """A run."""
        return self.traces[0].run

    @property
    def by_seed(self) -> dict[int, Trace]:
        """The runs by their seeds."""
        return {int(trace.run["seed"]): trace for trace in self.traces}


@dataclass(frozen=True)
class Group:
    """Runs that differ only in optimizer and seed."""

    heading: str
    entries: tuple[Entry, ...]


# --- what is counted -----------------------------------------------------------------------------------------------


def find(losses: np.ndarray, factor: float) -> list[Jump]:
    """The jumps of one run.

    Args:
        losses: training loss of each epoch, finite.
        factor: as in :class:`Rule`.
    """
    jumps: list[Jump] = []
    lowest, epoch = math.inf, 0
    while epoch < len(losses):
        if losses[epoch] < factor * lowest:
            lowest, epoch = min(lowest, losses[epoch]), epoch + 1
            continue
        back = np.flatnonzero(losses[epoch:] < math.sqrt(factor) * lowest)
        length = int(back[0]) if len(back) else len(losses) - epoch
        times = losses[epoch : epoch + length] / lowest
        jumps.append(Jump(epoch, float(times[0]), float(times.max()), length))
        epoch += length
    return jumps


def read(runs: pd.DataFrame, recorded: Mapping[str, pd.DataFrame]) -> list[Trace]:
    """The finished runs, without jumps; runs without a training loss are left out.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        recorded: by run id the histories that have lr × sharpness. One is used if its losses are those of the run.

    Raises:
        StoreError: a history cannot be read.
    """
    traces = []
    for _, run in runs[runs["status"].isin(FINISHED)].iterrows():
        history = store.history(Path(str(run["folder"])))
        if history is None or LOSS not in history:
            continue
        other = recorded.get(str(run["run_id"]))
        history = other if other is not None and other[LOSS].equals(history[LOSS]) else history
        finite = np.isfinite(history[LOSS].to_numpy(dtype=float))
        traces.append(Trace(run, history.iloc[: len(finite) if finite.all() else int(finite.argmin())], ()))
    return traces


def grouped(traces: Sequence[Trace], rule: Rule) -> list[Group]:
    """The runs with their jumps, in groups that may be compared, and in them by optimizer and options."""
    groups: dict[str, dict[str, list[Trace]]] = {}
    for trace in traces:
        groups.setdefault(str(trace.run["group"]), {}).setdefault(str(trace.run["options"]), []).append(trace)
    return [
        recounted(Group(_heading(options[0][0].run), tuple(_entries(options))), rule)
        for options in (list(of_group.values()) for of_group in groups.values())
    ]


def _heading(run: pd.Series) -> str:
    return f"{comparison.about(run)}, lr {run['lr']:g}"


def _entries(settings: list[list[Trace]]) -> Iterator[Entry]:
    settings.sort(key=lambda traces: (str(traces[0].run["optimizer"]), _switch(traces[0].run)))
    labels = [rows.label(traces[0].run) for traces in settings]
    for label, traces in zip(labels, settings, strict=True):
        digest = files.digest(json.loads(str(traces[0].run["options"])))[:4]
        yield Entry(label if labels.count(label) == 1 else f"{label} #{digest}", tuple(traces))


def _switch(run: pd.Series) -> float:
    """The switch epoch; infinite for a run that has none."""
    return math.inf if pd.isna(run["switch_epoch"]) else float(run["switch_epoch"])


def recounted(group: Group, rule: Rule) -> Group:
    """The same runs with the jumps of another rule."""
    return replace(group, entries=tuple(_recounted(entry, rule) for entry in group.entries))


def _recounted(entry: Entry, rule: Rule) -> Entry:
    jumps = [[jump for jump in find(trace.losses, rule.factor) if jump.epoch >= rule.first] for trace in entry.traces]
    pairs = zip(entry.traces, jumps, strict=True)
    return replace(entry, traces=tuple(replace(trace, jumps=tuple(of_run)) for trace, of_run in pairs))


def rate(jumps: int, epochs: int) -> tuple[float, float, float]:
    """Jumps per 100 epochs, with the exact 95 % interval of a Poisson count (Garwood 1936); NaN without an epoch."""
    if not epochs:
        return math.nan, math.nan, math.nan
    tail = (1.0 - LEVEL) / 2.0
    low = stats.gamma.ppf(tail, jumps) if jumps else 0.0
    return 100.0 * jumps / epochs, 100.0 * float(low) / epochs, 100.0 * float(stats.gamma.isf(tail, jumps + 1)) / epochs


def count(entry: Entry, rule: Rule) -> dict[str, Any]:
    """A row of the first table: how often an optimizer's runs jump, and how runs with a late jump end."""
    jumps, epochs = sum(len(trace.jumps) for trace in entry.traces), sum(t.exposed(rule.first) for t in entry.traces)
    smaller = _recounted(entry, replace(rule, factor=SMALLER))
    per_100, low, high = rate(jumps, epochs)
    late = [bool(trace.since(len(trace.history) - rule.late)) for trace in entry.traces]
    finals = pd.Series([trace.run["final"] for trace in entry.traces], dtype=float)
    with_late, without = summarise(finals[late]), summarise(finals[[not is_late for is_late in late]])
    return {
        "optimizer": entry.label,
        "runs": len(entry.traces),
        "diverged": sum(trace.run["status"] == Status.DIVERGED for trace in entry.traces),
        "runs_with_jumps": sum(bool(trace.jumps) for trace in entry.traces),
        "epochs": epochs,
        "jumps": jumps,
        "smaller_jumps": sum(len(trace.jumps) for trace in smaller.traces),
        **{"per_100": per_100, "low": low, "high": high},
        **{"late_mean": with_late.mean, "late_std": with_late.std, "late_runs": with_late.n},
        **{"other_mean": without.mean, "other_std": without.std, "other_runs": without.n},
    }


def after_switch(group: Group, rule: Rule) -> list[dict[str, Any]]:
    """Rows of the second table: each TM-SGD against the SGD it comes from, after the switch epoch.

    p after Holm's correction is over the rows.
    """
    rows = [_paired(entry, base, rule) for entry in group.entries if (base := _base(entry, group)) is not None]
    adjusted = holm([row["p"] for row in rows])
    return [{**row, "p_holm": p, "answer": _answer(row, p)} for row, p in zip(rows, adjusted, strict=True)]


def _base(entry: Entry, group: Group) -> Entry | None:
    """What an optimizer is before its switch, with the same options."""
    if pd.isna(entry.first["switch_epoch"]):
        return None
    ours = json.loads(str(entry.first["options"]))
    for other in group.entries:
        theirs = json.loads(str(other.first["options"]))
        same = all(ours.get(key) == value for key, value in theirs.items() if key not in ("name", "_target_"))
        if other.first["optimizer"] == BASES.get(str(entry.first["optimizer"])) and same:
            return other
    return None


def _paired(entry: Entry, base: Entry, rule: Rule) -> dict[str, Any]:
    """The two exact tests over the seeds whose runs are the same up to the switch."""
    switch = float(entry.first["switch_epoch"])
    start = max(float(rule.first), switch)
    both = [(trace, base.by_seed[seed]) for seed, trace in entry.by_seed.items() if seed in base.by_seed]
    pairs = [pair for pair in both if _same_until(switch, *pair)]
    ends = [min(len(ours.history), len(theirs.history)) for ours, theirs in pairs]
    counts = [
        tuple(sum(jump.epoch < end for jump in trace.since(start)) for trace in pair)
        for pair, end in zip(pairs, ends, strict=True)
    ]
    ours, theirs = (sum(pair[side] for pair in counts) for side in (0, 1))
    low, high = rate_ratio(ours, theirs)
    more, fewer = sum(a > b for a, b in counts), sum(a < b for a, b in counts)
    return {
        "optimizer": entry.label,
        "reference": base.label,
        "pairs": len(pairs),
        "left_out": len(both) - len(pairs),
        "epochs": sum(max(0, end - int(start)) for end in ends),
        **{"jumps": ours, "jumps_reference": theirs},
        **{"ratio": ours / theirs if theirs else math.nan, "low": low, "high": high},
        **{"p": sign_p_value(ours, theirs), "seeds_more": more, "seeds_fewer": fewer},
        "p_seeds": sign_p_value(more, fewer),
    }


def _same_until(switch: float, ours: Trace, theirs: Trace) -> bool:
    """Whether two runs have the same losses before an epoch."""
    end = int(min(switch, len(theirs.history)))
    return np.array_equal(ours.losses[:end], theirs.losses[:end])


def rate_ratio(jumps: int, reference: int) -> tuple[float, float]:
    """Exact 95 % interval of the ratio of two Poisson rates over equally many epochs; NaN without a jump.

    Given their sum, the count is binomial with share r / (1 + r) (Clopper and Pearson 1934).
    """
    if not jumps + reference:
        return math.nan, math.nan
    share = stats.binomtest(jumps, jumps + reference).proportion_ci(LEVEL)
    return tuple(math.inf if end == 1.0 else float(end / (1.0 - end)) for end in share)  # type: ignore[return-value]


def _answer(row: Mapping[str, Any], p: float) -> str:
    """Whether the optimizer jumps more often than its reference."""
    if not p < ALPHA:
        return "cannot tell"
    return "more" if row["jumps"] > row["jumps_reference"] else "fewer"


def listed(group: Group) -> list[dict[str, Any]]:
    """A row for each jump, with lr × sharpness around it where that was recorded."""
    return [
        {
            "optimizer": entry.label,
            "seed": int(trace.run["seed"]),
            **asdict(jump),
            "final": trace.run["final"],
            **around(trace, jump.epoch),
            "run_id": trace.run["run_id"],
        }
        for entry in group.entries
        for trace in entry.traces
        for jump in trace.jumps
    ]


def around(trace: Trace, epoch: int) -> dict[str, float]:
    """lr × sharpness after the epochs around the start of a jump, its median over the run, and the stability limit.

    The value after the epoch before it is of the weights that the jump starts from. NaN where it was not recorded.
    """
    values = pd.Series(np.nan, index=trace.history.index)
    values = trace.history[MEASURED].astype(float) if MEASURED in trace.history else values
    return {
        "largest_before": float(values.iloc[max(0, epoch - BEFORE) : epoch].max()),
        "before": float(values.iloc[epoch - 1]),
        "at": float(values.iloc[epoch]),
        "after": float(values.iloc[epoch + 1]) if epoch + 1 < len(values) else math.nan,
        "median": float(values.median()),
        "limit": limit(trace.run, epoch),
    }


def limit(run: pd.Series, epoch: int) -> float:
    """The stability limit of lr × sharpness in an epoch of SGD or TM-SGD; NaN for other optimizers."""
    if run["optimizer"] not in {*BASES, *BASES.values()}:
        return math.nan
    options = json.loads(str(run["options"]))
    scheme = options.get("scheme", "taylor3") if epoch >= _switch(run) else "euler"
    return MultistepScheme.resolve(scheme).stability_limit(float(options.get("momentum", 0.0)))


# --- what is printed -----------------------------------------------------------------------------------------------


def to_markdown(groups: Sequence[Group], rule: Rule) -> str:
    """All tables, with the rule."""
    parts = [part for group in groups for part in _tables(group, rule)]
    about = (
        f"A jump begins where the training loss is at least {rule.factor:g} times the smallest loss before it, and "
        f"lasts until it is below {math.sqrt(rule.factor):.2g} times that loss. Epochs from {rule.first} on count. "
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
    yield table(heads, [_count_cells(count(entry, rule)) for entry in group.entries])
    for some in (rule, replace(rule, factor=SMALLER)):
        if compared := after_switch(recounted(group, some), some):
            yield f"After the switch epoch, on the same seeds, jumps by a factor of {some.factor:g}:"
            heads = ["Optimizer", "Against", "Pairs", "Epochs each", "Jumps", "Jumps of the other", "Ratio"]
            heads += ["p, jumps", "p, Holm", "Seeds with more", "Seeds with fewer", "p, seeds", "Does it jump more?"]
            yield table(heads, map(_paired_cells, compared))
    if jumps := listed(group):
        yield f"Each jump, with lr × sharpness before and after it (largest: of the {BEFORE} epochs before):"
        heads = ["Optimizer", "Seed", "Epoch", "Times the smallest loss", "At its peak", "Epochs", "Final metric"]
        heads += ["largest", "before", "in it", "after", "median of the run", "limit"]
        yield table(heads, map(_jump_cells, jumps))


def table(heads: Sequence[str], rows: Any) -> str:
    """A table in Markdown, of cells that are Markdown already."""
    return "\n".join(map(markdown_row, [heads, ["---"] * len(heads), *rows]))


def number(value: float) -> str:
    """To three digits; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.3g}"


def _interval(row: Mapping[str, Any], middle: str) -> str:
    return "–" if math.isnan(row["low"]) else f"{number(row[middle])} [{number(row['low'])}, {number(row['high'])}]"


def _count_cells(row: Mapping[str, Any]) -> list[str]:
    finals = [
        f"{row[f'{name}_mean']:.2f} (n={row[f'{name}_runs']})" if row[f"{name}_runs"] else "–"
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


def _jump_cells(row: Mapping[str, Any]) -> list[str]:
    measured = [number(row[key]) for key in ("largest_before", "before", "at", "after", "median", "limit")]
    numbers = [str(row["seed"]), str(row["epoch"]), number(row["times"]), number(row["peak"]), str(row["epochs"])]
    final = "–" if pd.isna(row["final"]) else f"{row['final']:.2f}"
    return [escaping.markdown(row["optimizer"]), *numbers, final, *measured]


def csv_files(groups: Sequence[Group], rule: Rule) -> dict[str, str]:
    """The tables in full, by file name; a group is named by its heading."""
    rows: dict[str, list[dict[str, Any]]] = {"jumps": [], "after_switch": [], "each": []}
    for group in groups:
        about = {"group": group.heading}
        rows["jumps"] += [{**about, **count(entry, rule)} for entry in group.entries]
        for some in (rule, replace(rule, factor=SMALLER)):
            compared = after_switch(recounted(group, some), some)
            rows["after_switch"] += [{**about, "factor": some.factor, **row} for row in compared]
        rows["each"] += [{**about, **row} for row in listed(group)]
    return {f"{name}.csv": escaping.csv(pd.DataFrame(of_name)) for name, of_name in rows.items() if of_name}


def command(traces: Sequence[Trace]) -> str:
    """The command that trains the runs that jumped again, with lr × sharpness; empty if none lacks it."""
    lacking = [trace.run for trace in traces if trace.jumps and MEASURED not in trace.history]
    if not lacking:
        return ""
    first = lacking[0]
    values: dict[str, set[Any]] = {
        "optimizer": {str(run["optimizer"]) for run in lacking},
        "seed": {int(run["seed"]) for run in lacking},
        "switch_epoch": {f"{_switch(run):g}" for run in lacking} - {"inf"},
    }
    swept = [f"{name}={','.join(map(str, sorted(some)))}" for name, some in values.items() if some]
    protocol = "" if not first["protocols"] else f" protocol={first['protocols'][0]}"
    return (
        f"python run.py -m task={first['task']} model={first['model']}{protocol} {' '.join(swept)} log_sharpness=1 "
        "results.root=my/sharpness"
    )


# --- the picture ---------------------------------------------------------------------------------------------------


def draw(group: Group, path: Path) -> None:
    """Training loss against epoch, a panel for each optimizer; jumps are marked at their first epoch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(group.entries))
    rows = math.ceil(len(group.entries) / columns)
    figure = Figure(figsize=(4.0 * columns, 2.4 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat)
    for panel, entry in zip(panels, group.entries, strict=False):
        _panel(panel, entry)
    for panel in panels[len(group.entries) :]:
        panel.set_visible(False)
    figure.suptitle(escaping.mathtext(group.heading), fontsize=9.0)
    figure.supxlabel("epoch", fontsize=9.0)
    figure.supylabel("training loss", fontsize=9.0)
    files.write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150, metadata={}))


def _panel(axes: Any, entry: Entry) -> None:
    for trace in entry.traces:
        axes.semilogy(trace.losses, color="#33557f", linewidth=0.7, alpha=0.6)
        epochs = [jump.epoch for jump in trace.jumps]
        axes.semilogy(epochs, trace.losses[epochs], "v", color="#b5432a", markersize=5)
    switch = entry.first["switch_epoch"]
    if not pd.isna(switch) and 0 < float(switch) < float(entry.first["epochs"]):
        axes.axvline(float(switch), color="#777777", linestyle="--", linewidth=0.8)
    jumps = sum(len(trace.jumps) for trace in entry.traces)
    axes.set_title(escaping.mathtext(f"{entry.label} (runs: {len(entry.traces)}, jumps: {jumps})"), fontsize=8.0)
    axes.tick_params(labelsize=8.0)
    axes.spines[["top", "right"]].set_visible(False)


# --- the script ----------------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="How often the training loss jumps, for each optimizer.")
    stores.add(parser)
    for name in ("task", "model"):
        parser.add_argument(f"--{name}", help=f"only runs of this {name}")
    parser.add_argument("--data", choices=("real", "synthetic"), default="real", help="which runs (default: real)")
    parser.add_argument("--factor", type=float, default=10.0, help="times the smallest loss so far (default: 10)")
    parser.add_argument("--first", type=int, default=30, metavar="EPOCH", help="count from here on (default: 30)")
    parser.add_argument("--late", type=int, default=20, metavar="EPOCHS", help="a late jump is in these last (20)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="also write CSV, Markdown and a picture there")
    options = parser.parse_args(arguments)
    if not (is_number(options.factor) and options.factor > 1.0):
        parser.error("--factor must be a number above 1")
    if not (is_whole(options.first, 1) and is_whole(options.late, 1)):
        parser.error("--first and --late must be whole numbers of at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, and write them with --out; returns the exit code."""
    options = parse(arguments)
    rule = Rule(options.factor, options.first, options.late)
    try:
        if options.out is not None:
            stores.check_apart(options.out, options)
        groups = grouped(traces_of(options, rule), rule)
        text = to_markdown(groups, rule)
        if options.out is not None:
            outputs.renew(options.out, lambda folder: _write(folder, groups, rule, text))
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    if line := command([trace for group in groups for entry in group.entries for trace in entry.traces]):
        print(f"To record lr × sharpness around these jumps:\n  {line}")
    return 0


def traces_of(options: argparse.Namespace, rule: Rule) -> list[Trace]:
    """The runs that the options ask for.

    Raises:
        StoreError: there is none that has an epoch to count.
    """
    frames = [stores.read([root]) for root in options.results]
    recorded = {run_id: history for frame in frames for run_id, history in _recorded(frame)}
    runs = stores.filtered(store.merge(frames), options, ["task", "model", "data"])
    traces = [trace for trace in read(runs, recorded) if trace.exposed(rule.first)]
    if not traces:
        raise StoreError(
            f"no finished run in {stores.listed(options.results)} has a training loss after epoch {rule.first}: name "
            "another store with --results, or an earlier epoch with --first."
        )
    return traces


def _recorded(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The histories that have lr × sharpness, by run id."""
    for _, run in runs[runs["status"].isin(FINISHED)].iterrows():
        history = store.history(Path(str(run["folder"])))
        if history is not None and {LOSS, MEASURED} <= set(history):
            yield str(run["run_id"]), history


def _write(folder: Path, groups: Sequence[Group], rule: Rule, text: str) -> None:
    files.write_texts(folder, {"jumps.md": text, **csv_files(groups, rule)})
    for place, group in enumerate(groups):
        draw(group, folder / ("jumps.png" if place == 0 else f"jumps-{place + 1}.png"))


if __name__ == "__main__":
    sys.exit(terminal.piped(main))
