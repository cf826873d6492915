"""Tuned learning rates: the choice by the stored search, the tests with fresh seeds, and what is said of both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from tmsgd_bench import cli, tuning
from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.results import claims, figure_lr, learning_rates, store, tables, tuned
from tmsgd_bench.results.learning_rates import Search, Trial, choose
from tmsgd_bench.results.numerical import CLAIMED_ORDER, Numerics
from tmsgd_bench.results.report import content

CENTRES = {"sgd": 0.1, "tmsgd": 0.1, "sgdm": 0.02, "tmsgdm": 0.02, "adam": 0.001}
PEAK = [70.0, 80.0, 88.0, 91.0, 92.0, 85.0, 60.0]
"""A validation metric for each rate of a grid: the fifth is best."""
FINALS = [91.0, 92.0, 90.5, 91.5, 92.5]
Write = Callable[..., Path]


@pytest.fixture
def search(write_run: Write) -> Callable[..., None]:
    """Writes the search of an optimizer into a store, a metric (None: diverged) for each rate of its grid."""

    def write(
        root: Path, optimizer: str, means: Iterable[float | None] = PEAK, task: str = "tc", **changes: Any
    ) -> None:
        for lr, mean in zip(tuning.grid(CENTRES.get(optimizer, CENTRES["sgd"])), means, strict=False):
            for place, seed in enumerate(tuning.search_seeds()):
                final = None if mean is None else mean + 0.1 * place
                status = "diverged" if mean is None else "done"
                write_run(root, optimizer, seed, status, final, **_settings("validation", lr, task), **changes)

    return write


@pytest.fixture
def tested_runs(write_run: Write) -> Callable[..., None]:
    """Writes the runs of an optimizer with one rate on the test split, a metric for each fresh seed."""

    def write(
        root: Path,
        optimizer: str,
        lr: float,
        finals: Iterable[float | None] = FINALS,
        task: str = "tc",
        **changes: Any,
    ) -> None:
        for seed, final in zip(tuning.fresh_seeds(), finals, strict=False):
            status = "diverged" if final is None else "done"
            write_run(root, optimizer, seed, status, final, **_settings("test", lr, task), **changes)

    return write


def _settings(split: str, lr: float, task: str) -> dict[str, Any]:
    on = {"evaluate_on": "validation"} if split == "validation" else {}
    return {
        "task": {"name": task, "dataset": {"tc": "r8"}.get(task, task), **on},
        "protocols": ["tuned"],
        "options": {"lr": lr},
    }


def found(root: Path) -> Mapping[str, Search]:
    return {search.optimizer: search for search in learning_rates.searches(store.read_runs(root))}


def xs(line: Line2D) -> list[float]:
    """The learning rates of a curve."""
    return [float(x) for x in np.asarray(line.get_xdata())]


def trial(lr: float, *finals: float) -> Trial:
    return Trial(lr, finals)


# ---------------------------------------------------------------- grid and seeds


@pytest.mark.parametrize("centre", [0.1, 0.02, 0.3, 1e-4])
def test_the_grid_is_seven_half_decades_around_its_centre(centre: float) -> None:
    rates = tuning.grid(centre)
    assert len(rates) == 7 and rates[3] == centre
    for smaller, larger in itertools.pairwise(rates):
        assert larger / smaller == pytest.approx(math.sqrt(10.0), rel=1e-3)


def test_no_seed_that_chooses_a_rate_tests_it() -> None:
    assert not set(tuning.search_seeds()) & set(tuning.fresh_seeds())
    with pytest.raises(ConfigError, match="search_seeds"):
        tuning.check_apart([5, 2000], [2000, 2009])
    for seed, split in ((tuning.search_seeds()[0], "test"), (tuning.fresh_seeds()[0], "validation"), (0, "test")):
        with pytest.raises(ConfigError, match=f"seed={seed}"):
            tuning.check_seed(seed, split)


# ---------------------------------------------------------------- the choice


def test_the_best_mean_is_chosen() -> None:
    trials = [trial(0.1, 1.0, 4.0), trial(0.2, 3.0, 3.0)]
    assert (choose(trials, "max"), choose(trials, "min")) == (trials[1], trials[0])


@pytest.mark.parametrize("direction", ["max", "min"])
def test_of_equal_rates_the_smaller_is_chosen(direction: str) -> None:
    trials = [trial(0.1, 3.0, 3.0), trial(0.2, 2.0, 4.0)]
    assert choose(trials, direction) == choose(trials[::-1], direction) == trials[0]


@pytest.mark.parametrize(("direction", "worst"), [("max", -math.inf), ("min", math.inf)])
def test_a_rate_with_a_diverged_run_is_worse_than_any_other(direction: str, worst: float) -> None:
    poor, half = trial(0.1, 0.0, 0.0), trial(0.2, 1.0 if direction == "max" else -1.0, worst)
    assert choose([poor, half], direction) == poor
    assert choose([half], direction) is None


def test_the_choice_is_a_function_of_the_stored_runs(tmp_path: Path, search: Callable[..., None]) -> None:
    search(tmp_path, "sgd")
    (of_sgd,) = found(tmp_path).values()
    assert of_sgd.missing == 0 and of_sgd.best is not None and of_sgd.edge == ""
    assert of_sgd.best.lr == tuning.rate(0.1, 1) and of_sgd.best.mean == pytest.approx(92.05)
    runs = store.read_runs(tmp_path)
    (again,) = learning_rates.searches(runs.iloc[::-1])
    assert again.trials == of_sgd.trials


@pytest.mark.parametrize(("means", "word"), [(sorted(PEAK), "larger"), (sorted(PEAK)[::-1], "smaller")])
def test_a_best_rate_at_the_grids_edge_is_said(
    means: list[float], word: str, tmp_path: Path, search: Callable[..., None], tested_runs: Callable[..., None]
) -> None:
    """In the search, in the figure, in the table of tuned runs, in the paper's tables."""
    for optimizer in ("sgd", "tmsgd"):
        search(tmp_path, optimizer, means)
        tested_runs(tmp_path, optimizer, tuning.grid(0.1)[0 if word == "smaller" else -1])
    sentence = f"at the grid's edge: a {word} rate may do better"
    assert found(tmp_path)["sgd"].edge == sentence
    assert sentence in figure_lr.draw(list(found(tmp_path).values())).get_suptitle()
    runs = store.read_runs(tmp_path)
    table = tuned.build(runs)
    assert all(sentence in "; ".join(row.marks) for row in table.rows)
    assert all(sentence in "; ".join(answer.marks) for answer in table.answers)
    rows = {row.optimizer: row for row in tables.build(runs, "5", protocol="tuned").rows}
    assert sentence in "; ".join(rows["sgd"].marks)


@pytest.mark.parametrize("lost", ["a run", "a rate"])
def test_an_incomplete_search_has_no_best_rate_and_names_the_command(
    lost: str, tmp_path: Path, search: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    search(tmp_path, "tmsgd")
    search(tmp_path, "sgd", PEAK[:6] if lost == "a rate" else PEAK)
    if lost == "a run":
        folder = store.read_runs(tmp_path).query("optimizer == 'sgd'")["folder"].iloc[0]
        Path(folder).rename(tmp_path / ".elsewhere")
    of_sgd = found(tmp_path)["sgd"]
    assert of_sgd.best is None and of_sgd.missing == (1 if lost == "a run" else 2)
    assert cli.main(["best", "--results", str(tmp_path), "--settings"]) == 2
    said = capsys.readouterr().err
    assert f"SGD {of_sgd.missing}" in said and "TM-SGD" not in said
    assert "python run.py experiment=search task=tc model=lstm data.name=r8" in said
    assert f"results.root={tmp_path}" in said and "optimizer=sgd'" in said


def test_an_optimizer_that_diverges_with_every_rate_has_no_best_one(
    tmp_path: Path, search: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    search(tmp_path, "sgd", [None] * 7)
    assert cli.main(["best", "--results", str(tmp_path), "--settings"]) == 2
    assert "diverged with every" in capsys.readouterr().err


def test_rates_of_two_grids_are_refused(tmp_path: Path, write_run: Write, search: Callable[..., None]) -> None:
    search(tmp_path, "sgd")
    write_run(tmp_path, "sgd", 1000, **_settings("validation", 0.2, "tc"))
    with pytest.raises(StoreError, match="more than one grid"):
        found(tmp_path)


def test_older_settings_are_no_part_of_a_search(tmp_path: Path, search: Callable[..., None]) -> None:
    search(tmp_path, "sgd", sorted(PEAK), epochs=4, started="2025-01-01T00:00:00+00:00")
    search(tmp_path, "sgd")
    best = found(tmp_path)["sgd"].best
    assert best is not None and best.lr == tuning.rate(0.1, 1)


# ---------------------------------------------------------------- the runs that test it


@pytest.fixture
def complete(tmp_path: Path, search: Callable[..., None], tested_runs: Callable[..., None]) -> Path:
    """SGD and TM-SGD with different best rates, tested; TM-SGD is better by one point with every seed, or nearly."""
    search(tmp_path, "sgd")
    search(tmp_path, "tmsgd", [70.0, 80.0, 92.0, 91.0, None, None, None])
    tested_runs(tmp_path, "sgd", tuning.rate(0.1, 1))
    better = [value + 1.0 + 0.01 * place for place, value in enumerate(FINALS)]
    tested_runs(tmp_path, "tmsgd", tuning.rate(0.1, -1), better)
    return tmp_path


def test_optimizers_are_paired_by_seed_each_with_its_best_rate(complete: Path) -> None:
    table = tuned.build(store.read_runs(complete))
    rates = {row.optimizer: row.search.best.lr for row in table.rows if row.search.best}
    assert rates == {"sgd": 0.3162, "tmsgd": 0.03162}
    (answer,) = table.answers
    assert answer.question == "TM-SGD better than SGD" and answer.comparison.pairs == len(FINALS)
    assert answer.comparison.difference.mean == pytest.approx(1.02) and answer.judgement.verdict == "supported"
    assert tuned.sentences(table) == ["TM-SGD better than SGD, each with its best learning rate? supported: tc, lstm."]


@pytest.mark.parametrize("unit", ["%", ""])
@pytest.mark.parametrize("place", [{"task": "birds"}, {"model": {"name": "gru"}}], ids=["own task", "other model"])
def test_own_tasks_and_other_models_have_their_rows_and_answers(
    place: dict[str, Any],
    unit: str,
    tmp_path: Path,
    search: Callable[..., None],
    tested_runs: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only where a metric and its unit are the paper's has it a margin."""
    for optimizer in ("sgd", "tmsgd"):
        search(tmp_path, optimizer, outcome={"unit": unit}, **place)
        tested_runs(tmp_path, optimizer, 0.3162, outcome={"unit": unit}, **place)
    table = tuned.build(store.read_runs(tmp_path))
    assert [(row.optimizer, row.final.n) for row in table.rows] == [("sgd", 5), ("tmsgd", 5)]
    (answer,) = table.answers
    assert answer.comparison.pairs == 5 and math.isnan(answer.judgement.margin) == (unit == "")
    assert cli.main(["tuned", "--results", str(tmp_path)]) == 0
    name = "birds, lstm, birds" if "task" in place else "tc, gru, r8"
    assert f"TM-SGD better than SGD, each with its best learning rate? undecided: {name}." in capsys.readouterr().out


def test_an_own_optimizer_is_compared_with_sgd_and_tmsgd(
    tmp_path: Path, search: Callable[..., None], tested_runs: Callable[..., None]
) -> None:
    """Each with its best rate; no claim of the paper is about it."""
    for optimizer, better in (("sgd", 0.0), ("tmsgd", 0.5), ("signsgd", 2.0)):
        search(tmp_path, optimizer)
        tested_runs(tmp_path, optimizer, 0.3162, [final + better + seed / 100 for seed, final in enumerate(FINALS)])
    table = tuned.build(store.read_runs(tmp_path))
    assert [row.optimizer for row in table.rows] == ["sgd", "tmsgd", "signsgd"]
    assert [answer.pair for answer in table.answers] == [("tmsgd", "sgd"), ("signsgd", "sgd"), ("signsgd", "tmsgd")]
    assert [answer.comparison.difference.mean for answer in table.answers] == pytest.approx([0.5, 2.0, 1.5])
    sentence = f"{table.rows[2].search.label} better than TM-SGD, each with its best learning rate? "
    assert sentence in tuned.to_markdown(table)


def test_diverged_runs_are_marked(
    tmp_path: Path, search: Callable[..., None], tested_runs: Callable[..., None]
) -> None:
    """In the rows, beside the verdict, and where no rate is left."""
    for optimizer in ("sgd", "tmsgd"):
        search(tmp_path, optimizer)
    search(tmp_path, "adam", [None] * 7)
    tested_runs(tmp_path, "sgd", 0.3162)
    tested_runs(tmp_path, "tmsgd", 0.3162, [*FINALS[:4], None])
    table = tuned.build(store.read_runs(tmp_path))
    marks = {row.optimizer: row.marks for row in table.rows}
    assert "1 diverged" in marks["tmsgd"] and marks["adam"] == ("diverged with every learning rate",)
    assert table.answers[0].marks == ("TM-SGD: 1 diverged",)


def test_tests_with_other_rates_do_not_count(complete: Path, tested_runs: Callable[..., None]) -> None:
    """Such as those at the rate of ``reduced``, whatever they show."""
    before = tuned.build(store.read_runs(complete)).answers
    tested_runs(complete, "sgd", 0.1, [99.0] * 5)
    assert tuned.build(store.read_runs(complete)).answers == before


def test_without_a_complete_search_no_test_counts(complete: Path) -> None:
    for folder in store.read_runs(complete).query("optimizer == 'sgd' and split == 'validation'")["folder"].head(1):
        Path(folder).rename(complete / ".elsewhere")
    table = tuned.build(store.read_runs(complete))
    rows = {row.optimizer: row for row in table.rows}
    assert rows["sgd"].final.n == 0 and "search incomplete: 1 run missing" in rows["sgd"].marks
    assert table.answers[0].judgement.verdict == "not yet tested"


def test_the_claims_are_judged_at_the_level_tuned(complete: Path) -> None:
    verdicts = claims.evaluate(store.read_runs(complete), Numerics(CLAIMED_ORDER, {}), "tuned")
    (claim,) = (claim for claim in verdicts.claims if claim.id == "tc/lstm tmsgd/sgd")
    (answer,) = tuned.build(store.read_runs(complete)).answers
    assert (claim.level, claim.verdict) == ("tuned", "supported") and claim.comparison is not None
    assert claim.comparison.p_holm == answer.comparison.p_holm


def test_the_table_is_written_with_the_searches_behind_it(
    complete: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is written gives the same table again."""
    out = tmp_path_factory.mktemp("tuned")
    assert cli.main(["tuned", "--results", str(complete), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert (out / "tuned.md").read_text() == printed and "| 0.3162 |" in printed
    assert cli.main(["tuned", "--results", str(out)]) == 0
    assert capsys.readouterr().out == printed
    assert len(pd.read_csv(out / "tuned.csv")) == 3


def test_the_command_names_the_rates_and_the_next_command(complete: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["best", "--results", str(complete), "--task", "tc"]) == 0
    printed = capsys.readouterr().out
    assert "**92.05**" in printed and "2 of 2 diverged" in printed
    assert "python run.py experiment=tuned task=tc model=lstm data.name=r8" in printed
    assert cli.main(["best", "--results", str(complete), "--settings"]) == 0
    assert capsys.readouterr().out.splitlines() == ["optimizer=sgd,tmsgd", "lrs={sgd:0.3162,tmsgd:0.03162}"]


def test_without_a_search_it_says_how_to_start_one(
    tmp_path: Path, write_run: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "runs", tmp_path / "out"
    write_run(root)
    for command in (["best"], ["tuned"], ["figure", "lr", "--out", str(out)]):
        assert cli.main([*command, "--results", str(root)]) == 2
        assert "experiment=search" in capsys.readouterr().err


@pytest.mark.parametrize("complete_search", [True, False])
@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--config-dir", "PATH"], "python run.py --config-dir FOLDER experiment="),
        (["--config-dir=PATH"], "--config-dir FOLDER"),
        (["-cd", "PATH"], "--config-dir FOLDER"),
        (["hydra.searchpath=[PATH]"], "'hydra.searchpath=[FOLDER]'"),
        (["seed=1000"], ""),
    ],
)
def test_the_next_command_has_the_folder_of_own_yamls(
    arguments: list[str],
    option: str,
    complete_search: bool,
    tmp_path: Path,
    search: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Which folder it was is not recorded: it is private."""
    search(tmp_path, "sgd", PEAK if complete_search else PEAK[:6], ran={"arguments": arguments})
    assert cli.main(["best", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert option in printed and ("your own folder in place of FOLDER" in printed) == ("FOLDER" in option)


def test_a_search_on_the_other_kind_of_data_is_named(
    tmp_path: Path, search: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    search(tmp_path, "sgd", data={"kind": "synthetic", "limit": None, "fingerprint": "s"})
    for command in ("best", "tuned"):
        assert cli.main([command, "--results", str(tmp_path)]) == 2
        assert "add --data synthetic" in capsys.readouterr().err
        assert cli.main([command, "--results", str(tmp_path), "--data", "synthetic"]) == 0


# ---------------------------------------------------------------- the figure


def test_the_figure_has_a_curve_for_each_optimizer_and_marks_the_best_rate(
    complete: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (axes,) = figure_lr.draw(list(found(complete).values())).axes
    curves = {line.get_label(): line for line in axes.get_lines() if not str(line.get_label()).startswith("_")}
    assert set(curves) == {"SGD", "TM-SGD"}
    assert xs(curves["SGD"]) == list(tuning.grid(0.1))
    rings = [xs(line)[0] for line in axes.get_lines() if line.get_markersize() == 10]
    assert rings == [0.3162, 0.03162]
    crosses = [xs(line) for line in axes.get_lines() if line.get_marker() == "x"]
    assert crosses == [[], list(tuning.grid(0.1)[4:])]
    out = tmp_path_factory.mktemp("figures")
    assert cli.main(["figure", "lr", "--results", str(complete), "--task", "tc", "--out", str(out)]) == 0
    with Image.open(out / "lr-tc-lstm.png") as picture:
        assert picture.format == "PNG"


def test_the_limit_of_tmsgd_is_half_of_sgds(tmp_path: Path, search: Callable[..., None]) -> None:
    """Without a sharpness it lies between half the rates where SGD becomes unstable."""
    search(tmp_path, "sgd", [*PEAK[:5], None, None])
    search(tmp_path, "tmsgd")
    (axes,) = figure_lr.draw(list(found(tmp_path).values())).axes
    assert shaded(axes) == pytest.approx([0.3162, 0.1581])
    assert "limit is 0.5 of SGD's" in " ".join(axes.get_xlabel().split())


def shaded(axes: Axes) -> list[float]:
    return [patch.get_x() for patch in axes.patches if isinstance(patch, Rectangle)]


def test_a_rate_whose_loss_once_exploded_is_unstable_though_the_run_ended(
    tmp_path: Path, search: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    search(tmp_path, "sgd")
    search(tmp_path, "tmsgd")
    runs = store.read_runs(tmp_path)
    rates = {Path(folder): lr for folder, lr in zip(runs["folder"], runs["lr"], strict=True)}

    def exploded(folder: Path) -> pd.DataFrame:
        return pd.DataFrame({"loss": [0.9, 0.5, 0.4] if rates[folder] < 0.3 else [1e6, 3.0, 0.4]})

    monkeypatch.setattr(store, "history", exploded)
    (axes,) = figure_lr.draw(list(found(tmp_path).values())).axes
    assert shaded(axes) == pytest.approx([0.1, 0.05])


@pytest.mark.parametrize(("finals", "known"), [(None, "with no rate"), ([None] * 7, "with the smallest rate already")])
def test_without_a_limit_the_figure_says_why(
    tmp_path: Path, search: Callable[..., None], finals: list[float | None] | None, known: str
) -> None:
    search(tmp_path, "sgd", *([] if finals is None else [finals]))
    search(tmp_path, "tmsgd")
    (axes,) = figure_lr.draw(list(found(tmp_path).values())).axes
    assert not shaded(axes) and f"SGD is unstable {known}" in " ".join(axes.get_xlabel().split())


def test_the_numbers_of_the_figure_stand_beside_it(tmp_path: Path, search: Callable[..., None]) -> None:
    search(tmp_path / "store", "sgd", [*PEAK[:5], None, None])
    search(tmp_path / "store", "tmsgd")
    assert cli.main(["figure", "lr", "--results", str(tmp_path / "store"), "--out", str(tmp_path / "out")]) == 0
    table = pd.read_csv(tmp_path / "out" / "lr-tc-lstm.csv")
    assert len(table) == 14 and list(table[table["optimizer"] == "sgd"]["lr"]) == list(tuning.grid(0.1))
    sgd, tmsgd = (table[table["optimizer"] == name] for name in ("sgd", "tmsgd"))
    assert list(sgd["unstable"]) == [False] * 5 + [True] * 2 and sgd["best"].sum() == 1
    assert set(sgd["limit_low"]) == {0.3162} and set(tmsgd["limit_high"]) == {0.5 * tuning.grid(0.1)[5]}


def test_a_recorded_sharpness_gives_the_limits(
    tmp_path: Path, search: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    search(tmp_path, "sgd")
    search(tmp_path, "tmsgd")
    history = pd.DataFrame({"epoch": [0, 1, 2], "sharpness": [9.0, 4.0, math.nan]})
    monkeypatch.setattr(store, "history", lambda folder: history)
    (axes,) = figure_lr.draw(list(found(tmp_path).values())).axes
    lines = [xs(line)[0] for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert lines == pytest.approx([0.5, 0.25])


def test_far_worse_rates_do_not_hide_the_others(tmp_path: Path, search: Callable[..., None]) -> None:
    search(tmp_path, "sgd", [90.0, 91.0, 92.0, 91.5, 91.0, -1e9, 90.0])
    (axes,) = figure_lr.draw(list(found(tmp_path).values())).axes
    low, high = axes.get_ylim()
    assert 0.0 < low < 90.0 and 92.0 < high < 100.0
    (outside,) = (line for line in axes.get_lines() if line.get_marker() == "v" and xs(line))
    assert xs(outside) == [tuning.rate(0.1, 2)]


def test_the_report_names_the_command_of_a_run_with_its_rate_and_split(complete: Path) -> None:
    _, listed = content.evidence(store.read_runs(complete), complete)
    commands = {one.run["run_id"]: one.command for one in listed if one.run["optimizer"] == "sgd"}
    assert any("seed=2000 lr=0.3162 task.evaluate_on=test" in command for command in commands.values())
    assert any("seed=1000 lr=0.03162 task.evaluate_on=validation" in command for command in commands.values())
