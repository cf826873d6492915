"""How often the training loss jumps, for each optimizer, from the histories of stored runs.

A jump begins at the first epoch whose training loss (the mean over the epoch) is at least ``Rule.factor`` times the
smallest loss of all epochs before it. It lasts until the loss is below the square root of that many times the same
smallest loss: halfway back on a logarithmic axis. All epochs until then are one jump. The smallest loss so far is the
reference, and not the epoch before, because a loss may climb in several epochs; halfway, because a loss that falls with
noise would otherwise pass the threshold several times. Jumps that begin from epoch ``Rule.first`` on are counted:
before it the loss still falls fast, and hides jumps.

TM-SGD is compared with SGD after its switch epoch, over the seeds that have both with the same losses before it. From
there on both start from the same weights, and each of their jumps falls to either with the same chance if they jump
equally often: an exact binomial test. A run's jumps may come in series, which that test does not allow for. So beside
it stands the sign test over seeds: which of the two jumped more often.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from tmsgd_bench.optim import MultistepScheme
from tmsgd_bench.results import comparison, rows, store
from tmsgd_bench.results.selection import BASES
from tmsgd_bench.results.statistics import ALPHA, LEVEL, holm, sign_p_value, summarise
from tmsgd_bench.results.status import FINISHED, Status

log = logging.getLogger(__name__)

LOSS = "loss"
MEASURED = "lr_times_sharpness"
BEFORE = 5
"""Epochs before a jump in which the largest lr × sharpness is looked for."""
SMALLER = 3.0
"""Jumps by this factor are counted too: how many there are must not hang on one threshold."""


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


def find(losses: np.ndarray, factor: float) -> list[Jump]:
    """The jumps of one run.

    Args:
        losses: training loss of each epoch, finite and positive.
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
        recorded: by run id the histories that have lr × sharpness. One is used if its losses are those of the run;
            of another a warning is logged.

    Raises:
        StoreError: a history cannot be read.
    """
    traces = []
    for _, run in runs[runs["status"].isin(FINISHED)].iterrows():
        history = store.history(Path(str(run["folder"])))
        if history is None or LOSS not in history:
            continue
        other = recorded.get(str(run["run_id"]), history)
        if not other[LOSS].equals(history[LOSS]):
            log.warning(
                "%s: its recorded lr × sharpness is not used, because the losses of the two runs differ: record it on "
                "the kind of processor that trained the other.",
                run["run_id"],
            )
            other = history
        losses = other[LOSS].to_numpy(dtype=float)
        usable = np.isfinite(losses) & (losses > 0.0)  # jumps are ratios of losses
        traces.append(Trace(run, other.iloc[: len(usable) if usable.all() else int(usable.argmin())], ()))
    return traces


def grouped(traces: Sequence[Trace], rule: Rule) -> list[Group]:
    """The runs with their jumps, in groups that may be compared, and in them by optimizer and options."""
    groups: dict[str, dict[str, list[Trace]]] = {}
    for trace in traces:
        groups.setdefault(str(trace.run["group"]), {}).setdefault(str(trace.run["options"]), []).append(trace)
    headings = [_heading(next(iter(options.values()))[0].run) for options in groups.values()]
    alike = [headings.count(heading) > 1 for heading in headings]
    named = [
        f"{heading}; #{key[:4]}" if several else heading
        for heading, several, key in zip(headings, alike, groups, strict=True)
    ]
    return [
        recounted(Group(heading, tuple(_entries(list(options.values())))), rule)
        for heading, options in zip(named, groups.values(), strict=True)
    ]


def _heading(run: pd.Series) -> str:
    split = "" if run["split"] == "test" else f"; {run['split']} split"
    return f"{comparison.about(run)}, lr {run['lr']:g}{split}"


def _entries(settings: list[list[Trace]]) -> Iterator[Entry]:
    settings.sort(key=lambda traces: (str(traces[0].run["optimizer"]), switch_of(traces[0].run)))
    labels = rows.labels([pd.DataFrame([trace.run for trace in traces]) for traces in settings])
    for label, traces in zip(labels, settings, strict=True):
        yield Entry(label, tuple(traces))


def switch_of(run: pd.Series) -> float:
    """The switch epoch; infinite for a run that has none, or never switched."""
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
    ours = json.loads(str(entry.first["options"]))
    for other in group.entries:
        theirs = json.loads(str(other.first["options"]))
        same = all(ours.get(key) == value for key, value in theirs.items() if key not in ("name", "_target_"))
        if other.first["optimizer"] == BASES.get(str(entry.first["optimizer"])) and same:
            return other
    return None


def _paired(entry: Entry, base: Entry, rule: Rule) -> dict[str, Any]:
    """The two exact tests over the seeds whose runs are the same up to the switch."""
    both = [(trace, base.by_seed[seed]) for seed, trace in entry.by_seed.items() if seed in base.by_seed]
    pairs = [pair for pair in both if _same_until(switch_of(pair[0].run), *pair)]
    windows = [
        (max(rule.first, switch_of(ours.run)), min(len(ours.history), len(theirs.history))) for ours, theirs in pairs
    ]
    counts = [
        tuple(sum(jump.epoch < end for jump in trace.since(start)) for trace in pair)
        for pair, (start, end) in zip(pairs, windows, strict=True)
    ]
    ours, theirs = (sum(pair[side] for pair in counts) for side in (0, 1))
    low, high = rate_ratio(ours, theirs)
    more, fewer = sum(a > b for a, b in counts), sum(a < b for a, b in counts)
    return {
        "optimizer": entry.label,
        "reference": base.label,
        "pairs": len(pairs),
        "left_out": len(both) - len(pairs),
        "epochs": int(sum(max(0.0, end - start) for start, end in windows)),
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
    scheme = options.get("scheme", "taylor3") if epoch >= switch_of(run) else "euler"
    return MultistepScheme.resolve(scheme).stability_limit(float(options.get("momentum", 0.0)))
