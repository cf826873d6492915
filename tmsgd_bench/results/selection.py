"""Which runs count: the one place that tables, claims and the report choose their runs by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import pandas as pd

from tmsgd_bench.errors import StoreError
from tmsgd_bench.results.paper import Experiment
from tmsgd_bench.results.statistics import FEW_SEEDS
from tmsgd_bench.results.status import FINISHED, OF_RUNS, Status

BASES = {"tmsgd": "sgd", "tmsgdm": "sgdm"}
"""What each optimizer is before its switch."""
NAMED = 5
"""Damaged runs at most that a table names; the command names them all."""


def select(runs: pd.DataFrame, experiment: Experiment, data: str, protocol: str) -> pd.DataFrame:
    """The runs of an experiment that follow a protocol to the letter on verified data.

    Three columns are added. ``left_out``: the run cannot be compared with the newest result, because a YAML or the
    benchmark's version was changed in between, or because it reports another metric (``unmeasured``). ``copy``: the
    same run is there under another name.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        experiment: task, model, data set and metric.
        data: "real" or "synthetic".
        protocol: the protocol's name.

    Raises:
        StoreError: such a run reports another metric than the paper's table asks for.
    """
    follows = runs["protocols"].map(lambda names: protocol in names).astype(bool)
    chosen = runs[_of(runs, experiment) & (runs["data"] == data) & follows]
    unmeasured = chosen["metric"].isin(experiment.stand_ins)
    _check_metric(chosen[~unmeasured], experiment)
    others = chosen[unmeasured].assign(has_result=False, left_out=True, copy=False, unmeasured=True)
    comparable = _comparable(chosen[~unmeasured]).assign(unmeasured=False)
    return pd.concat([comparable, others]).sort_values("run_id", kind="stable") if len(others) else comparable


def _of(runs: pd.DataFrame, experiment: Experiment) -> pd.Series:
    own = (runs["task"] == experiment.task) & (runs["model"] == experiment.model)
    return own if experiment.dataset is None else own & (runs["dataset"] == experiment.dataset)


def elsewhere(runs: pd.DataFrame, experiment: Experiment) -> dict[tuple[str, str], int]:
    """How many finished runs of an experiment follow each protocol: those that a table of other conditions would show.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        experiment: task, model and data set.

    Returns:
        For each kind of data and protocol, in the order of their names. A run that follows none is under "".
    """
    own = runs[_of(runs, experiment) & runs["status"].isin(FINISHED)]
    pairs = zip(own["data"], own["protocols"], strict=True)
    return dict(sorted(Counter((data, name) for data, names in pairs for name in names or ("",)).items()))


def counted(selected: pd.DataFrame, optimizer: str) -> pd.DataFrame:
    """The runs of an optimizer that can be compared, each once, whatever their status."""
    return selected[(selected["optimizer"] == optimizer) & ~selected["left_out"] & ~selected["copy"]]


def sweep(runs: pd.DataFrame, selected: pd.DataFrame, optimizer: str) -> pd.DataFrame:
    """The runs that differ from the selected ones of an optimizer in seed and switch epoch alone.

    Empty if there is no selected run: then it is not known what the others would have to share.
    """
    own = counted(selected, optimizer)
    if own.empty:
        return runs.iloc[:0]
    same = (runs["context"] == own["context"].iloc[0]) & (runs["variant"] == own["variant"].iloc[0])
    found = runs[same & runs["switch_epoch"].notna()]
    best_first = found.sort_values("status", key=lambda status: ~status.isin(FINISHED), kind="stable")
    return best_first[~best_first.duplicated(["setting", "seed"])].sort_values("run_id", kind="stable")


def evidence(own: pd.DataFrame) -> tuple[str, ...]:
    """The names of runs, but for damaged ones, which are evidence of nothing."""
    return tuple(own.loc[own["status"] != Status.DAMAGED, "run_id"])


def left_out(runs: pd.DataFrame, selected: Iterable[pd.DataFrame]) -> str:
    """That damaged runs are missing from numbers, with their names and what is wrong; empty if none is.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`; those whose settings are unknown may belong anywhere.
        selected: from :func:`select`, or other runs that belong to the numbers.
    """
    lost = runs[(runs["status"] == Status.DAMAGED) & runs["task"].isna()]
    reasons = dict(zip(lost["run_id"], lost["note"], strict=True))
    for frame in selected:
        own = frame[frame["status"] == Status.DAMAGED]
        own = own[~own["left_out"] & ~own["copy"]] if "copy" in own else own
        reasons |= dict(zip(own["run_id"], own["note"], strict=True))
    named = [f"{name} ({note.partition(':')[0]})" for name, note in sorted(reasons.items())[:NAMED]]
    more = [f"{len(reasons) - NAMED} more"] if len(reasons) > NAMED else []
    count = f"{len(reasons)} damaged run{'s' * (len(reasons) > 1)} left out"
    return f"{count}: {', '.join([*named, *more])}" if reasons else ""


def outcomes(own: pd.DataFrame, direction: str) -> pd.Series:
    """The final metric by seed; a diverged run is infinitely bad, and so is one whose metric is not finite.

    Runs without a result are not in it.
    """
    finished = own[own["status"].isin(FINISHED)]
    worst = -math.inf if direction == "max" else math.inf
    usable = (finished["status"] == Status.DONE) & finished["final"].notna()  # a metric that is not finite is no number
    finals = finished["final"].astype(float).where(usable, worst)
    return finals.set_axis(finished["seed"].astype(int))


def marks(own: pd.DataFrame) -> list[str]:
    """What a reader must know about the runs behind a number."""
    found = _data_marks(own[own["status"] != Status.DAMAGED])
    for status in (one for one in OF_RUNS if one != Status.DONE):
        if count := int((own["status"] == status).sum()):
            found.append(f"{count} {status}")
    done = own["status"] == Status.DONE
    if count := int((done & own["final"].isna()).sum()):
        found.append(f"{count} with a metric that is not finite")
    found += few_seeds(int((done & own["final"].notna()).sum()))
    never = own["switch_epoch"].notna() & (own["switch_epoch"].astype(float) >= own["epochs"].astype(float))
    return [*found, "never switches: eq. (8) is not used"] if never.any() else found


def _data_marks(own: pd.DataFrame) -> list[str]:
    found = [f"{kind} data" for kind in sorted(set(own["data"])) if kind != "real"]
    if not own["verified"].all():
        found.append("unverified data")
    if own["limit"].notna().any():
        found.append(f"partial data ({int(own['limit'].max())} training examples)")
    return found + split_marks(own)


def split_marks(own: pd.DataFrame) -> list[str]:
    """The marks of runs that were evaluated on another split than the test split."""
    splits = sorted(set(own["split"].dropna()) - {"test"})
    return [f"evaluated on the {split} split" for split in splits]


def few_seeds(n: int) -> list[str]:
    """The mark of a number from fewer than FEW_SEEDS seeds, if it is one."""
    return [f"few seeds (n={n})"] if 0 < n < FEW_SEEDS else []


def _check_metric(chosen: pd.DataFrame, experiment: Experiment) -> None:
    wrong = chosen[chosen["metric"].notna() & (chosen["metric"] != experiment.metric)]
    if len(wrong):
        raise StoreError(
            f"{wrong['run_id'].iloc[0]} reports {wrong['metric'].iloc[0]!r} where {experiment.place} asks for "
            f"{experiment.metric!r}: name the task's first Metric as paper.yaml has it, and train the run again."
        )


def _comparable(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of one benchmark version and one context, those of the newest result; ``left_out`` marks the others.

    Two contexts or settings can follow one protocol only if a YAML was changed in between; their runs are never
    pooled or paired. A copy of a run counts once.
    """
    runs = runs.assign(has_result=runs["status"].isin(FINISHED))
    order = ["has_result", "benchmark_version", "started"]
    runs = runs.sort_values(order, ascending=False, na_position="last", kind="stable")
    context = runs["context"].iloc[0] if len(runs) else None
    settings = runs[runs["context"] == context].groupby("optimizer")["setting"].first()
    other = (runs["context"] != context) | (runs["setting"] != runs["optimizer"].map(settings))
    marked = runs.assign(left_out=other, copy=~other & runs.duplicated(["setting", "seed"]))
    return marked.sort_values("run_id", kind="stable")
