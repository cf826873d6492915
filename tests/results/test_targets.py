"""Time to target: when runs reach a fixed value, and how that is counted."""

from __future__ import annotations

import fnmatch
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tmsgd_bench import cli
from tmsgd_bench.results import store, target_forms, targets
from tmsgd_bench.results.paper import Experiment, every_experiment
from tmsgd_bench.results.targets import Reached, Row, Target, TargetTable, reaching

ROOT = Path(__file__).parents[2]
WriteRun = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
ENTRY = {"metric": "accuracy", "value": 91.0, "seeds": [0, 1], "source": "results/x", "frozen": "2026-01-01"}


def experiment(key: str = "tc/lstm", protocol: str = "table2") -> Experiment:
    return next(one for one in every_experiment(protocol) if one.key == key)


def a_target(metric: str = "accuracy", value: float = 91.0, key: str = "tc/lstm") -> Target:
    return Target(experiment(key), "table2", metric, value, (0, 1), "results/x", "2026-01-01")


def history(values: list[float], metric: str = "accuracy", **columns: Any) -> pd.DataFrame:
    seconds = {"training_seconds": [2.0] * len(values)}
    return pd.DataFrame({"epoch": range(len(values)), metric: values, **seconds, **columns})


# --- one run ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([90.0, 91.0, 90.0, 92.0], Reached(2, 4.0)),
        ([91.5], Reached(1, 2.0)),
        ([math.nan, math.nan, 91.0], Reached(3, 6.0)),
        ([math.nan, 90.9, math.inf * 0], None),
        ([90.0, 90.99], None),
        ([], None),
    ],
    ids=["first of two", "at once", "not measured before", "not a number", "just below", "no epoch"],
)
def test_a_target_is_reached_at_the_first_epoch_at_or_beyond_it(values: list[float], expected: Reached | None) -> None:
    assert reaching(history(values), a_target()) == expected


def test_where_smaller_is_better_a_target_is_reached_from_above() -> None:
    target = a_target("mse", 0.05, "fkpd/preact_resnet34")
    assert reaching(history([0.07, 0.05, 0.04], "mse"), target) == Reached(2, 4.0)
    assert reaching(history([0.07, 0.06], "mse"), target) is None


def test_a_target_of_the_training_loss_is_reached_from_above() -> None:
    assert reaching(history([1.0, 0.4], "loss"), a_target("loss", 0.5)) == Reached(2, 4.0)


def test_a_run_without_the_metric_has_not_reached_it_and_one_without_seconds_has_none() -> None:
    assert reaching(history([99.0], "f1"), a_target()) is None
    one = reaching(history([99.0]).drop(columns="training_seconds"), a_target())
    assert one is not None and one.epochs == 1 and math.isnan(one.seconds)


# --- optimizers ------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """91 % on the text task is the only target."""
    monkeypatch.setattr(targets, "rules", lambda: {"share": 0.75, "targets": {"table2": {"tc/lstm": ENTRY}}})


def timed(seconds: float) -> Callable[[Path], None]:
    """Adds the seconds of each epoch to a run's history."""

    def add(folder: Path) -> None:
        frame = pd.read_parquet(folder / store.HISTORY)
        frame.assign(training_seconds=seconds).to_parquet(folder / store.HISTORY, index=False)

    return add


@pytest.fixture
def runs(tmp_path: Path, write_run: WriteRun) -> Path:
    """Runs whose accuracy after each of three epochs is two below, one above and at its last."""
    root = tmp_path / "store"
    for seed, (sgd, tmsgd, factor) in enumerate([(90.0, 90.0, 1.5), (93.0, 89.9, 1.0), (89.0, 93.0, 1.0)]):
        write_run(root, "sgd", seed, final=sgd, extra=timed(10.0))
        write_run(root, "tmsgd", seed, final=tmsgd, extra=timed(10.0 * factor))
    write_run(root, "adam", 0, final=95.0, extra=timed(1.0))
    write_run(root, "adam", 1, status="diverged", final=80.0, extra=timed(1.0))
    write_run(root, "apollo", 0, final=80.0, extra=timed(1.0))
    write_run(root, "apollo", 1, status="failed")
    write_run(root, "sgdm", 0, final=99.0, protocols=[])
    write_run(root, "sgdm", 1, final=99.0, protocols=["smoke"], data={"kind": "synthetic", "limit": 9})
    return root


def rows_of(root: Path) -> dict[str, Row]:
    (table,) = targets.build(store.read_runs(root))
    return {row.label: row for row in table.rows}


@pytest.mark.usefixtures("one_target")
def test_runs_that_never_reach_it_are_counted_and_medians_are_over_the_others(runs: Path) -> None:
    rows = rows_of(runs)
    assert [(len(row.reached), row.runs) for row in rows.values()] == [(2, 3), (2, 3), (0, 0), (0, 0), (1, 2), (0, 1)]
    sgd, tmsgd, adam = rows["SGD"], rows["TM-SGD"], rows["Adam"]
    assert sgd.reached == {0: Reached(2, 20.0), 1: Reached(1, 10.0)} and (sgd.epochs, sgd.seconds) == (1.5, 15.0)
    assert tmsgd.reached == {0: Reached(2, 30.0), 2: Reached(1, 10.0)}
    assert (tmsgd.pairs, tmsgd.epochs_ratio, tmsgd.seconds_ratio) == (1, 1.0, 1.5)
    assert (adam.pairs, adam.epochs_ratio, adam.seconds_ratio) == (1, 0.5, 0.05)
    assert "1 diverged" in adam.marks and "1 failed" in rows["Apollo"].marks and math.isnan(rows["Apollo"].epochs)


@pytest.mark.usefixtures("one_target")
def test_what_is_reached_before_the_switch_is_marked(runs: Path) -> None:
    assert "2 of 2 reached it before the switch" in rows_of(runs)["TM-SGD"].marks
    assert not any("switch" in mark for mark in rows_of(runs)["SGD"].marks)


@pytest.mark.usefixtures("one_target")
def test_a_later_run_does_not_move_the_target(runs: Path, write_run: WriteRun) -> None:
    write_run(runs, "sgd", 9, final=99.0)
    (table,) = targets.build(store.read_runs(runs))
    assert table.target.value == 91.0
    assert table.target == next(targets.frozen("table2"))


@pytest.mark.usefixtures("one_target")
def test_every_form_shows_the_count_beside_each_median(runs: Path) -> None:
    tables = targets.build(store.read_runs(runs))
    text = target_forms.to_markdown(tables)
    assert "accuracy ≥ 91.00 %" in text and "75 % of its run (mean of seeds 0, 1, fixed on 2026-01-01)" in text
    assert "| SGD | 2 of 3 | 1.5 | 1.00 (n=2) | 15 |" in text and "| Apollo | 0 of 1 | – | – | – | – |" in text
    assert "compare no tasks" in text
    frame = pd.read_csv(io.StringIO(target_forms.to_csv(tables)))
    assert list(frame["reached"]) == [2, 2, 0, 0, 1, 0] and frame["runs"].isna().sum() == 2
    assert r"SGD & 2 of 3 & 1.5 & 1.00 (n=2)" in target_forms.to_latex(tables)


def test_a_loss_in_place_of_the_metric_is_said() -> None:
    (text,) = [target_forms.to_markdown([TargetTable(a_target("loss", 0.5), ())])]
    assert "training loss ≤ 0.500" in text and "accuracy is measured too late" in text


# --- fixing targets --------------------------------------------------------------------------------------------------


def test_a_new_target_is_sgds_mean_at_its_last_measurement_by_75_percent(runs: Path) -> None:
    """Of three epochs that is the second, one unit above the last."""
    entry = targets.from_reference(store.read_runs(runs), experiment(), "table2")
    assert entry == {"metric": "accuracy", "value": pytest.approx((91.0 + 94.0 + 90.0) / 3), "seeds": [0, 1, 2]}


def test_a_metric_that_is_measured_too_late_gives_way_to_the_loss(tmp_path: Path, write_run: WriteRun) -> None:
    def only_last(folder: Path) -> None:
        frame = pd.read_parquet(folder / store.HISTORY)
        frame.loc[frame.index[:-1], "accuracy"] = math.nan
        frame.to_parquet(folder / store.HISTORY, index=False)

    outcome = {"best": 90.0, "best_epoch": 2}
    write_run(tmp_path, "sgd", 0, final=90.0, extra=lambda folder: (only_last(folder), _result(folder, outcome)))
    entry = targets.from_reference(store.read_runs(tmp_path), experiment(), "table2")
    assert entry == {"metric": "loss", "value": 0.5, "seeds": [0]}


def _result(folder: Path, changes: dict[str, Any]) -> None:
    from tmsgd_bench import files

    files.write_json(folder / store.RESULT, {**(files.read_json(folder / store.RESULT) or {}), **changes})


def test_without_runs_of_sgd_there_is_no_target(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path, "adam", 0)
    assert targets.from_reference(store.read_runs(tmp_path), experiment(), "table2") is None


def test_the_targets_are_what_the_published_runs_of_their_seeds_give() -> None:
    for protocol in targets.rules()["targets"]:
        for target in targets.frozen(protocol):
            runs = store.read_runs(ROOT / target.source)
            of_seeds = runs[runs["seed"].isin(target.seeds)]
            entry = targets.from_reference(of_seeds, target.experiment, protocol)
            assert entry == {"metric": target.metric, "value": target.value, "seeds": list(target.seeds)}, target


def test_every_entry_belongs_to_an_experiment() -> None:
    for protocol, entries in targets.rules()["targets"].items():
        assert {target.experiment.key for target in targets.frozen(protocol)} == set(entries)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_and_writes_all_forms(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert cli.main(["targets", "--results", str(runs), "--out", str(out)]) == 0
    assert capsys.readouterr().out == (out / "targets.md").read_text(encoding="utf-8")
    assert {path.name for path in out.iterdir()} == {"targets.md", "targets.csv", "targets.tex", "manifest.json"}
    assert cli.main(["targets", "--results", str(runs), "--protocol", "reduced"]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_new_targets_are_printed_as_yaml_and_known_ones_are_not(
    runs: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["targets", "--results", str(runs), "--freeze"]) == 2
    assert "already" in capsys.readouterr().err
    monkeypatch.setattr(targets, "rules", lambda: {"share": 0.75, "targets": {}})
    assert cli.main(["targets", "--results", str(runs), "--freeze"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert set(printed["table2"]["tc/lstm"]) == set(ENTRY) and printed["table2"]["tc/lstm"]["seeds"] == [0, 1, 2]


def test_the_columns_that_a_terminal_may_lack_exist() -> None:
    heads = target_forms.columns(TargetTable(a_target(), ()))
    assert all(fnmatch.filter(heads, name) for name in target_forms.LEAST)
