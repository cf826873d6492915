"""The figure of measured and printed gains, and the answer that it belongs to."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.results import answer, claims, figure_gains, store
from tmsgd_bench.results.answer import Gain

WriteRun = Callable[..., Path]


@pytest.fixture
def runs(tmp_path: Path, write_run: WriteRun) -> pd.DataFrame:
    """Six seeds of SGD and TM-SGD, which is 1, 2, … 6 points better."""
    for seed in range(6):
        write_run(tmp_path / "store", "sgd", seed, final=80.0)
        write_run(tmp_path / "store", "tmsgd", seed, final=81.0 + seed)
    return store.read_runs(tmp_path / "store")


def test_a_gain_is_the_difference_in_percent_of_sgds_mean(runs: pd.DataFrame) -> None:
    (row,) = answer.measured_gains(answer.findings(claims.evaluate(runs, None)))
    assert row.n == 6
    assert row.mean == pytest.approx(100.0 * 3.5 / 80.0)
    assert row.low < row.mean < row.high
    assert row.printed == pytest.approx(100.0 * (90.9 - 90.6) / 90.6)


def test_without_runs_every_experiment_is_not_yet_tested(tmp_path: Path) -> None:
    verdicts = claims.evaluate(store.read_runs(tmp_path), None)
    assert answer.findings(verdicts) == []
    assert answer.sentence(verdicts) == "In 11 experiments, each at its highest level: 11 not yet tested."


def panel(*rows: Gain) -> Figure:
    return figure_gains.draw(rows)


def test_a_row_has_its_name_and_its_seeds_and_few_seeds_are_open() -> None:
    figure = panel(Gain("tc, full", 1.0, 0.5, 1.5, 10, 0.3), Gain("ig, reduced", -40.0, math.nan, math.nan, 1, None))
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["tc, full (n=10)", "ig, reduced (n=1)"]
    squares = [line.get_fillstyle() for line in axes.lines if line.get_marker() == "s"]
    assert squares == ["full", "none"]
    low, high = axes.get_xlim()
    assert low < -40.0 and high == -low


def test_it_is_written_and_only_of_real_data(tmp_path: Path, runs: pd.DataFrame) -> None:
    written = figure_gains.write(runs, tmp_path / "figures")
    assert [path.name for path in written] == ["gains.png", "gains.pdf"] and all(path.is_file() for path in written)
    with pytest.raises(ConfigError, match="--data"):
        figure_gains.write(runs, tmp_path / "figures", data="synthetic")
    with pytest.raises(StoreError, match="SGD and TM-SGD"):
        figure_gains.write(runs[runs["optimizer"] == "sgd"], tmp_path / "figures")
