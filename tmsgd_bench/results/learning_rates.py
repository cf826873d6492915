"""The learning rate that is best for each optimizer, by the runs of a search (``experiment=search``).

A search trains an optimizer with every rate of its grid, with each of the search's seeds, and evaluates it on the
validation split. The best rate is the one with the best mean of the primary metric after the last epoch. A rate with
which a run diverged is worse than any other. Of equally good rates the smallest is taken. So the choice is a pure
function of the stored runs; ``tuning.yaml`` states grid and seeds.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from tmsgd_bench import tuning
from tmsgd_bench.errors import StoreError
from tmsgd_bench.files import canonical
from tmsgd_bench.results import packed, store
from tmsgd_bench.results.commands import own_folders
from tmsgd_bench.results.outcomes import outcomes
from tmsgd_bench.results.status import FINISHED

WHERE = ["task", "model", "dataset", "data"]
"""What runs of one search share, by the columns of the frame; another benchmark version is another search."""
RULE = (
    "Each optimizer is trained with the same number of learning rates, half a decade apart, and evaluated on the "
    "validation split. Its best rate has the best mean of the metric after the last epoch over the search's seeds. A "
    "rate with a diverged run is worse than any other; of equally good rates the smallest is taken. The best rate is "
    "then tested with other seeds."
)


@dataclass(frozen=True)
class Trial:
    """One learning rate of a search.

    Args:
        lr: the rate.
        finals: the primary metric after the last epoch for each search seed that has a result; infinite, towards the
            worse side, where the run diverged.
    """

    lr: float
    finals: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds; infinite where a run diverged."""
        return sum(self.finals) / len(self.finals) if self.finals else math.nan

    @property
    def diverged(self) -> int:
        """How many runs did."""
        return sum(map(math.isinf, self.finals))


@dataclass(frozen=True)
class Search:
    """The search of one optimizer.

    Args:
        where: task, model, data set and kind of data.
        optimizer, label: its name, and its name for people.
        metric, unit, direction: the primary metric on the validation split; empty before a run is done.
        trials: by learning rate, ascending.
        runs: the finished runs behind them.
    """

    where: tuple[str, str, str | None, str]
    optimizer: str
    label: str
    metric: str
    unit: str
    direction: Literal["min", "max"]
    trials: tuple[Trial, ...]
    runs: pd.DataFrame

    @property
    def missing(self) -> int:
        """How many runs the search lacks."""
        wanted = len(tuning.half_decades()) * len(tuning.search_seeds())
        return wanted - sum(len(trial.finals) for trial in self.trials)

    @property
    def best(self) -> Trial | None:
        """The best trial; None if the search is not complete, or if a run diverged with every rate."""
        return None if self.missing else choose(self.trials, self.direction)

    @property
    def edge(self) -> str:
        """What must be said of a best rate at an end of the grid; empty within it."""
        ends = {self.trials[0].lr: "smaller", self.trials[-1].lr: "larger"} if self.trials else {}
        beyond = ends.get(self.best.lr) if self.best else None
        return f"at the grid's edge: a {beyond} rate may do better" if beyond else ""


def choose(trials: Sequence[Trial], direction: str) -> Trial | None:
    """The best trial by the rule of this module; None if every rate has a diverged run.

    Args:
        trials: of a complete search.
        direction: of the metric, "max" or "min".
    """
    sign = -1.0 if direction == "max" else 1.0
    usable = [trial for trial in trials if math.isfinite(trial.mean)]
    return min(usable, key=lambda trial: (sign * trial.mean, trial.lr), default=None)


def searches(runs: pd.DataFrame) -> list[Search]:
    """Every search among the runs, finished or not, one for each optimizer and place.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.

    Raises:
        StoreError: the runs of a search have learning rates of more than one grid.
    """
    of_tuning = runs["protocols"].map(lambda names: tuning.PROTOCOL in names).astype(bool)
    known = runs[of_tuning & (runs["split"] == "validation") & runs["task"].notna()]
    return [_search(searched) for _, searched in known.groupby([*WHERE, "optimizer"], dropna=False)]


def of_place(runs: pd.DataFrame, task: str, model: str, dataset: str | None, data: str) -> dict[str, Search]:
    """The searches on one task, by the optimizer's name.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`.
        task, model, data: their names.
        dataset: its name; None for any.
    """
    here = runs[(runs["task"] == task) & (runs["model"] == model) & (runs["data"] == data)]
    here = here if dataset is None else here[here["dataset"] == dataset]
    return {search.optimizer: search for search in searches(here)}


def _search(searched: pd.DataFrame) -> Search:
    newest = _comparable(searched)
    finished = newest[newest["status"].isin(FINISHED)].drop_duplicates(["lr", "seed"])
    first, done = newest.iloc[0], finished[finished["metric"].notna()]
    metric, unit, direction = _metric(done)
    rates = sorted(map(float, finished["lr"].unique()))
    if not tuning.of_one_grid(rates):
        raise StoreError(
            f"the search of {first['optimizer']} on {first['task']} has learning rates of more than one grid "
            f"({', '.join(f'{rate:g}' for rate in rates)}): keep the runs of one, and move the others to another store."
        )
    trials = (Trial(rate, tuple(outcomes(finished[finished["lr"] == rate], direction))) for rate in rates)
    where = (first["task"], first["model"], None if pd.isna(first["dataset"]) else first["dataset"], first["data"])
    return Search(where, first["optimizer"], first["label"], metric, unit, direction, tuple(trials), finished)


def _metric(done: pd.DataFrame) -> tuple[str, str, Literal["min", "max"]]:
    """Name, unit and direction of what the runs report."""
    if done.empty:
        return "", "", "max"
    run = done.iloc[0]
    return run["metric"], run["unit"], run["direction"]


def _comparable(searched: pd.DataFrame) -> pd.DataFrame:
    """The runs that agree with the newest result in all but learning rate and seed."""
    keys = searched.assign(
        has_result=searched["status"].isin(FINISHED), others=searched["options"].map(_without_lr, na_action="ignore")
    )
    order = ["has_result", "benchmark_version", "started", "run_id"]
    keys = keys.sort_values(order, ascending=[False, False, False, True], na_position="last", kind="stable")
    shared = ["conditions", "others"]
    return keys[(keys[shared] == keys.iloc[0][shared]).all(axis=1)].drop(columns=["has_result", "others"])


def _without_lr(options: str) -> str:
    return canonical({key: value for key, value in json.loads(options).items() if key != "lr"})


def tested(runs: pd.DataFrame, chosen: pd.DataFrame, place: tuple[str, str, str | None, str]) -> pd.DataFrame:
    """Of the runs that follow ``tuned``, those on the test split whose optimizer's complete search chose their rate.

    The column ``remark`` has what must be said of a rate, such as that it is at the grid's edge.

    Args:
        runs: from :func:`tmsgd_bench.results.store.read_runs`, with the searches.
        chosen: of one place.
        place: task, model, data set (None for any) and kind of data.
    """
    known = of_place(runs, *place)
    rates = {name: search.best.lr for name, search in known.items() if search.best}
    remarks = {name: f"learning rate {search.edge}" for name, search in known.items() if search.edge}
    best = (chosen["split"] == "test") & (chosen["lr"] == chosen["optimizer"].map(rates))
    return chosen[best].assign(remark=chosen.loc[best, "optimizer"].map(remarks))


def reason_without_best(searches: Sequence[Search]) -> str:
    """Why searches have no best rates, and the command that completes them; empty if each has one.

    Args:
        searches: of one place.
    """
    lacking = [search for search in searches if search.missing]
    if lacking:
        counts = ", ".join(f"{search.label} {search.missing}" for search in lacking)
        command = f"'{_command(searches, lacking)}'{folder_note(searches)}"
        return f"the search on {_place(searches[0])} lacks runs ({counts}): train them with {command}"
    lost = ", ".join(search.label for search in searches if search.best is None)
    return (
        f"the search on {_place(searches[0])} has no best learning rate for {lost}, which diverged with every one: set "
        "smaller ones in the task's YAML, and search again"
        if lost
        else ""
    )


def _place(search: Search) -> str:
    return "/".join(filter(None, search.where))


def _command(searches: Sequence[Search], lacking: Sequence[Search]) -> str:
    some = [f"optimizer={','.join(search.optimizer for search in lacking)}"] if len(lacking) < len(searches) else []
    return " ".join(["python run.py", *_folders(searches), "experiment=search", *_settings(searches[0]), *some])


def command_to_test(searches: Sequence[Search]) -> str:
    """The command that tests the best rates of the searches of one place with fresh seeds."""
    rates = map(shlex.quote, rates_as_settings(searches))
    return " ".join(["python run.py", *_folders(searches), "experiment=tuned", *_settings(searches[0]), *rates])


def folder_note(searches: Sequence[Search]) -> str:
    """What to put into the command of searches that had a folder of the user's own; empty if they had none."""
    return ", with your own folder in place of FOLDER" if _folders(searches) else ""


def _folders(searches: Sequence[Search]) -> list[str]:
    """The options that name folders of the user's own YAMLs, as the searches had them."""
    return own_folders(Path(folder) for search in searches for folder in search.runs["folder"].iloc[-1:])


def rates_as_settings(searches: Sequence[Search]) -> list[str]:
    """The settings of ``experiment=tuned`` that name optimizers and their best rates, not quoted for a shell.

    Args:
        searches: complete searches of one place.
    """
    rates = [f"{search.optimizer}:{search.best.lr!r}" for search in searches if search.best]
    return [f"optimizer={','.join(search.optimizer for search in searches)}", f"lrs={{{','.join(rates)}}}"]


def _settings(search: Search) -> Iterator[str]:
    """The settings that say where a search was made."""
    task, model, dataset, data = search.where
    yield f"task={task} model={model}"
    if dataset is not None:
        yield f"data.name={dataset}"
    if data != "real":
        yield f"data={data}"
    if not search.runs["verified"].all():
        yield "data.verify=false"
    folders = {Path(folder).parent for folder in search.runs["folder"]}
    if len(folders) == 1 and (root := folders.pop()) != store.DEFAULT_ROOT and not packed.is_packed(root):
        yield f"results.root={shlex.quote(str(root))}"
