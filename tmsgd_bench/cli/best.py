"""``best``: the learning rate that each optimizer does best with on the validation split."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from tmsgd_bench import escaping, terminal
from tmsgd_bench.cli import forms, stores
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import cells, learning_rates
from tmsgd_bench.results.learning_rates import Search, Trial
from tmsgd_bench.wording import number_of


def add(commands: Any) -> None:
    """Add the command to the parser's commands."""
    parser = commands.add_parser(
        "best",
        help="the best learning rate of each optimizer, by a search",
        description=f"The searches of experiment=search, and the command that tests their best learning rates. "
        f"{learning_rates.RULE}",
    )
    stores.add(parser)
    parser.add_argument("--task", help="only searches on this task")
    parser.add_argument("--model", help="only searches with this model")
    parser.add_argument("--data", choices=("real", "synthetic"), default="real", help="which runs (default: real)")
    parser.add_argument(
        "--settings", action="store_true", help="print only the settings of experiment=tuned, for a script: one search"
    )
    parser.set_defaults(action=print_best)


def print_best(options: argparse.Namespace) -> int:
    """Print the searches with their best rates, or those rates as settings."""
    runs = stores.filtered(stores.read(options.results), options, ["task", "model"])
    searches = learning_rates.searches(stores.filtered(runs, options, ["data"]))
    places = [list(group) for _, group in itertools.groupby(searches, key=lambda search: search.where)]
    if not places:
        raise stores.no_search(runs, options, options.task or "ctr")
    if options.settings:
        return _print_settings(places)
    for place in places:
        forms.say_markdown("\n".join(_table(place)), ("Remark",))
        terminal.say(f"\n{_next(place)}\n")
    return 0


def _print_settings(places: Sequence[Sequence[Search]]) -> int:
    """One setting a line."""
    if len(places) > 1:
        raise StoreError(f"there are {len(places)} searches: choose one with --task and --model.")
    if reason := learning_rates.reason_without_best(places[0]):
        raise StoreError(f"{reason}.")
    terminal.say("\n".join(learning_rates.rates_as_settings(places[0])))
    return 0


def _table(searches: Sequence[Search]) -> Iterator[str]:
    """A table of the searches of one place, in Markdown, the best of each in bold type."""
    task, model, dataset, data = searches[0].where
    unit = f", {searches[0].unit}" if searches[0].unit else ""
    better = "larger" if searches[0].direction == "max" else "smaller"
    yield (
        f"**{task}, {model}, {data} {dataset or 'data'}: {searches[0].metric or 'metric'} on the validation split"
        f"{unit} ({better} is better)**"
    )
    yield ""
    yield cells.markdown_row(("Optimizer", "Learning rate: mean over the search's seeds", "Best", "Remark"))
    yield "|---" * 4 + "|"
    for search in searches:
        trials = "; ".join(_trial(search, trial) for trial in search.trials)
        best = f"{search.best.lr:g}" if search.best else "–"
        remark = f"{number_of(search.missing, 'run')} missing" if search.missing else search.edge
        yield cells.markdown_row((escaping.markdown(search.label), trials, best, remark))
    yield ""


def _next(searches: Sequence[Search]) -> str:
    """The command that comes next, on a line of its own, which can be copied; or why there is none."""
    if reason := learning_rates.reason_without_best(searches):
        return f"{reason[0].upper()}{reason[1:]}."
    return f"Test the best rates{learning_rates.folder_note(searches)}: {learning_rates.command_to_test(searches)}"


def _trial(search: Search, trial: Trial) -> str:
    text = f"{trial.diverged} of {len(trial.finals)} diverged" if trial.diverged else f"{trial.mean:.4g}"
    return f"{trial.lr:g}: {f'**{text}**' if trial == search.best else text}"
