"""Which runs count: the one place that tables, claims and the report choose their runs by."""

from __future__ import annotations

import functools
import json
import math
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from tmsgd_bench.errors import StoreError
from tmsgd_bench.files import canonical
from tmsgd_bench.results import learning_rates
from tmsgd_bench.results.outcomes import outcomes as outcomes
from tmsgd_bench.results.paper import Experiment, every_experiment
from tmsgd_bench.results.statistics import FEW_SEEDS
from tmsgd_bench.results.status import FINISHED, OF_RUNS, Status
from tmsgd_bench.tuning import PROTOCOL as TUNED
from tmsgd_bench.version import OWN_SETTINGS
from tmsgd_bench.wording import number_of

BASES = {"tmsgd": "sgd", "tmsgdm": "sgdm"}
"""What each optimizer is before its switch."""
NAMED = 5
"""Damaged runs at most that a table names; the command names them all."""


def select(runs: pd.DataFrame, experiment: Experiment, data: str, protocol: str) -> pd.DataFrame:
    """The runs of an experiment that follow a protocol to the letter.

    Of ``tuned`` these are the runs on the test split with each optimizer's best learning rate
    (:mod:`tmsgd_bench.results.learning_rates`).

    Two columns are added. ``left_out``: the run cannot be compared with the newest result: its settings or its
    benchmark version are older, or it reports another metric (``unmeasured``).

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
    if protocol == TUNED:
        place = (experiment.task, experiment.model, experiment.dataset, data)
        chosen = learning_rates.tested(runs, chosen, place)
    if chosen.empty:  # most are, where a few tasks were trained
        return chosen.assign(has_result=False, left_out=False, unmeasured=False)
    unmeasured = chosen["metric"].isin(experiment.stand_ins)
    _check_metric(chosen[~unmeasured], experiment)
    others = chosen[unmeasured].assign(has_result=False, left_out=True, unmeasured=True)
    comparable = _comparable(chosen[~unmeasured], compared_by(protocol), list(experiment.labels)).assign(
        unmeasured=False
    )
    return pd.concat([comparable, others]).sort_values("run_id", kind="stable") if len(others) else comparable


def compared_by(protocol: str | None) -> str:
    """The column that comparable runs share: under a protocol of ``OWN_SETTINGS`` their learning rates may differ.

    Args:
        protocol: that all runs follow; None if they need not follow one.
    """
    return "conditions" if protocol in OWN_SETTINGS else "group"


def _of(runs: pd.DataFrame, experiment: Experiment) -> pd.Series:
    trained = (runs["task"] == experiment.task) & (runs["model"] == experiment.model)
    return trained if experiment.dataset is None else trained & (runs["dataset"] == experiment.dataset)


def with_own_optimizers(experiment: Experiment, selected: pd.DataFrame) -> Experiment:
    """The experiment with the optimizers that its runs have besides the paper's, by name after the paper's.

    Args:
        selected: from :func:`select`.
    """
    others = selected[~selected["optimizer"].isin(list(experiment.labels))].sort_values("optimizer", kind="stable")
    other_labels = dict(zip(others["optimizer"], others["label"], strict=True))
    return replace(experiment, labels={**experiment.labels, **other_labels})


def of_the_paper(runs: pd.DataFrame) -> pd.Series:
    """Whether each run is of an experiment of the paper, at any settings: of its task, model and data set."""
    return functools.reduce(operator.or_, (_of(runs, experiment) for experiment in every_experiment()))


def elsewhere(runs: pd.DataFrame, experiment: Experiment) -> dict[tuple[str, str], int]:
    """How many finished runs of an experiment there are for each kind of data and protocol.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        experiment: task, model and data set.

    Returns:
        For each kind of data and protocol, in the order of their names. A run that follows none is under "".
    """
    finished = runs[_of(runs, experiment) & runs["status"].isin(FINISHED)]
    pairs = zip(finished["data"], finished["protocols"], strict=True)
    return dict(sorted(Counter((data, name) for data, names in pairs for name in names or ("",)).items()))


def counted(selected: pd.DataFrame, optimizer: str) -> pd.DataFrame:
    """The runs of an optimizer that can be compared, each once, whatever their status."""
    return selected[(selected["optimizer"] == optimizer) & ~selected["left_out"]]


@dataclass(frozen=True)
class BySwitch:
    """Runs that differ in switch epoch and seed.

    Args:
        finals: their final metric, a row for each switch epoch (its index), a column for each seed.
        diverged: how many runs did, by switch epoch.
    """

    finals: pd.DataFrame
    diverged: pd.Series

    @property
    def mean(self) -> pd.Series:
        """Over seeds; NaN where a run diverged, because the mean of the others says nothing."""
        return self.finals.mean(axis=1).where(self.diverged == 0)

    @property
    def spread(self) -> pd.Series:
        """Sample standard deviation over seeds; NaN where a run diverged, and of a single seed."""
        return self.finals.std(axis=1, ddof=1).where(self.diverged == 0)


def by_switch(runs: pd.DataFrame) -> BySwitch:
    """The final metric of finished runs by switch epoch and seed. Runs that never switched are left out."""
    switched = runs[runs["switch_epoch"].astype(float) < math.inf].astype({"switch_epoch": float, "final": float})
    finals = switched.pivot_table(index="switch_epoch", columns="seed", values="final", dropna=False)
    diverged = (switched["status"] == Status.DIVERGED).groupby(switched["switch_epoch"]).sum()
    return BySwitch(finals, diverged.reindex(finals.index))


def sweep(runs: pd.DataFrame, selected: pd.DataFrame, optimizer: str) -> pd.DataFrame:
    """The runs that differ from an optimizer's selected ones only in seed and switch epoch; empty without selected."""
    chosen = counted(selected, optimizer)
    if chosen.empty:
        return runs.iloc[:0]
    first = chosen.iloc[:1]
    same = (runs["group"] == first["group"].item()) & (without_switch(runs) == without_switch(first).item())
    return runs[same & runs["switch_epoch"].notna()].sort_values("run_id", kind="stable")


def without_switch(runs: pd.DataFrame) -> pd.Series:
    """The optimizer's options of each run, but for its switch epoch; missing where they are unknown."""
    return runs["options"].map(_without_switch, na_action="ignore")


def _without_switch(options: str) -> str:
    return canonical({key: value for key, value in json.loads(options).items() if key != "switch_epoch"})


def evidence(runs: pd.DataFrame) -> tuple[str, ...]:
    """The names of runs, but for damaged ones, which are evidence of nothing."""
    return tuple(runs.loc[runs["status"] != Status.DAMAGED, "run_id"])


def left_out(runs: pd.DataFrame, selected: Iterable[pd.DataFrame]) -> str:
    """A phrase that names the damaged runs, which are missing from the numbers; empty if there is none.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`; those whose settings are unknown may belong anywhere.
        selected: from :func:`select`, or other runs that belong to the numbers.
    """
    lost = runs[(runs["status"] == Status.DAMAGED) & runs["task"].isna()]
    reasons = dict(zip(lost["run_id"], lost["note"], strict=True))
    for frame in selected:
        damaged = frame[frame["status"] == Status.DAMAGED]
        damaged = damaged[~damaged["left_out"]] if "left_out" in damaged else damaged
        reasons |= dict(zip(damaged["run_id"], damaged["note"], strict=True))
    named = [f"{name} ({note.partition(':')[0]})" for name, note in sorted(reasons.items())[:NAMED]]
    more = [f"{len(reasons) - NAMED} more"] if len(reasons) > NAMED else []
    count = f"{number_of(len(reasons), 'damaged run')} left out"
    return f"{count}: {', '.join([*named, *more])}" if reasons else ""


def marks(runs: pd.DataFrame) -> list[str]:
    """What a reader must know about the runs behind a number."""
    if runs.empty:
        return []
    texts = _data_marks(runs[runs["status"] != Status.DAMAGED])
    for status in (status for status in OF_RUNS if status != Status.DONE):
        if count := int((runs["status"] == status).sum()):
            texts.append(f"{count} {status}")
    done = runs["status"] == Status.DONE
    if count := int((done & runs["final"].isna()).sum()):
        texts.append(f"{count} with a metric that is not finite")
    texts += few_seeds(int((done & runs["final"].notna()).sum()))
    return [*texts, *_never_switch(runs)]


def _never_switch(runs: pd.DataFrame) -> list[str]:
    """The mark of runs whose switch epoch lies behind their last."""
    planned = int(runs["switch_epoch"].notna().sum())
    never = int((runs["switch_epoch"].astype(float) >= runs["epochs"].astype(float)).sum())  # false where missing
    if not never:
        return []
    some = f"{never} of {number_of(planned, 'run')} never switch" if never < planned else "never switches"
    return [f"{some}: eq. (8) is not used"]


def _data_marks(runs: pd.DataFrame) -> list[str]:
    texts = [f"{kind} data" for kind in sorted(set(runs["data"])) if kind != "real"]
    if not runs["verified"].all():
        texts.append("unverified data")
    texts += [f"starts from the weights of a file (SHA-256 {digits}…)" for digits in files_of(runs)]
    if runs["limit"].notna().any():
        texts.append(f"partial data ({int(runs['limit'].max())} training examples)")
    if runs["evaluation_limit"].notna().any():
        texts.append(f"evaluated on {int(runs['evaluation_limit'].max())} examples at most")
    return [*texts, *split_marks(runs), *(sorted(set(runs["remark"].dropna())) if "remark" in runs else [])]


def files_of(runs: pd.DataFrame) -> list[str]:
    """The files whose weights training started from, by the first digits of their SHA-256."""
    return sorted(set(runs["weights_file"].dropna()))


def split_marks(runs: pd.DataFrame) -> list[str]:
    """The marks of runs that were evaluated on another split than the test split."""
    splits = sorted(set(runs["split"].dropna()) - {"test"})
    return [f"evaluated on the {split} split" for split in splits]


def few_seeds(n: int) -> list[str]:
    """The mark of a number from fewer than FEW_SEEDS seeds, if it is one."""
    return [f"few seeds (n={n})"] if 0 < n < FEW_SEEDS else []


def _check_metric(chosen: pd.DataFrame, experiment: Experiment) -> None:
    wrong = chosen[chosen["metric"].notna() & (chosen["metric"] != experiment.metric)]
    if wrong.empty:
        return
    asking, remedy = experiment.place, "name the task's first Metric as paper.yaml has it, and train the run again"
    if not experiment.place:
        asking, remedy = "the search for its learning rate", "search again with the metric that the task has now"
    raise StoreError(
        f"{wrong['run_id'].iloc[0]} reports {wrong['metric'].iloc[0]!r} where {asking} asks for "
        f"{experiment.metric!r}: {remedy}."
    )


def _comparable(runs: pd.DataFrame, shared: str, papers: Sequence[str]) -> pd.DataFrame:
    """Marks the runs that cannot be compared with the newest result (``left_out``).

    Comparable runs have the same benchmark version and group, and for each optimizer the same options. One protocol
    gives several groups or options only if a YAML has been changed, or other unverified data have been used. An
    optimizer of the user's own may have a learning rate of its own, so it needs the same conditions only, and where
    there are runs of the paper's optimizers, it does not choose the group.

    Args:
        runs: that follow one protocol.
        shared: the column of their groups, from :func:`compared_by`.
        papers: the names of the paper's optimizers.
    """
    runs = runs.assign(has_result=runs["status"].isin(FINISHED))
    order = ["has_result", "benchmark_version", "started"]
    runs = runs.sort_values(order, ascending=False, na_position="last", kind="stable")
    if runs.empty:
        return runs.assign(left_out=False)
    is_own = ~runs["optimizer"].isin(papers)
    newest = (runs if is_own.all() else runs[~is_own]).iloc[0]
    other = (runs[shared] != newest[shared]).where(~is_own, runs["conditions"] != newest["conditions"])
    options = runs[~other].groupby("optimizer")["options"].first()
    other |= runs["options"] != runs["optimizer"].map(options)
    return runs.assign(left_out=other).sort_values("run_id", kind="stable")
