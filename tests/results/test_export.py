"""Exported runs: tidy, complete, of the same types whatever the runs, and never half written."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.results import export, store

WriteRun = Callable[..., Path]
READ = {".parquet": pd.read_parquet, ".csv": pd.read_csv}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, write_run: WriteRun) -> Path:
    """A store with a run of every lasting status."""
    root = tmp_path_factory.mktemp("store")
    write_run(root, "sgd", 0, final=90.0)
    write_run(root, "tmsgd", 1, final=91.25, data={"kind": "synthetic", "limit": 500, "fingerprint": "s"})
    write_run(root, "adam", 0, status="diverged", protocols=["table2", "corrected"])
    write_run(root, "adam", 1, status="failed", protocols=[])
    write_run(root, "apollo", 0, status="abandoned")
    return root


def test_tidy_has_a_row_for_each_run_and_a_plain_value_in_each_cell(root: Path) -> None:
    runs = store.read_runs(root)
    tidy = export.tidy(runs)
    assert list(tidy["run_id"]) == list(runs["run_id"])
    assert set(store.COLUMNS) - set(tidy.columns) == {"folder"}
    assert dict(zip(tidy["status"], tidy["protocols"], strict=True)) == {
        "done": "table2",
        "diverged": "table2+corrected",
        "failed": "",
        "abandoned": "table2",
    }
    one = tidy[tidy["optimizer"] == "tmsgd"].iloc[0]
    assert (one["final"], one["limit"], one["data"], one["switch_epoch"]) == (91.25, 500, "synthetic", 2.0)


def test_the_types_do_not_depend_on_the_runs(root: Path) -> None:
    runs = store.read_runs(root)
    for some in (runs.iloc[:0], runs.iloc[:1], runs):
        pd.testing.assert_series_equal(export.tidy(some).dtypes, export.tidy(runs).dtypes)


def test_a_switch_that_never_came_is_infinite(root: Path) -> None:
    runs = store.read_runs(root).assign(switch_epoch=math.inf)
    assert set(export.tidy(runs)["switch_epoch"]) == {math.inf}


def test_histories_have_a_row_for_each_run_and_epoch(root: Path) -> None:
    runs = store.read_runs(root)
    found = export.histories(runs)
    finished = runs[runs["status"].isin(["done", "diverged"])]
    assert set(found["run_id"]) == set(finished["run_id"])
    for _, run in finished.iterrows():
        rows = found[found["run_id"] == run["run_id"]]
        recorded = pd.read_parquet(Path(run["folder"]) / store.HISTORY)
        assert list(rows["accuracy"]) == list(recorded["accuracy"])
        assert list(rows["epoch"]) == list(recorded["epoch"])
        assert set(rows["optimizer"]) == {run["optimizer"]}
    assert list(found.columns[: len(export.RUN_COLUMNS)]) == list(export.RUN_COLUMNS)


def test_without_a_history_there_is_no_row(root: Path) -> None:
    runs = store.read_runs(root)
    found = export.histories(runs[runs["status"] == "failed"])
    assert len(found) == 0 and "epoch" in found.columns


@pytest.mark.parametrize("suffix", READ)
def test_what_is_written_comes_back(root: Path, tmp_path: Path, suffix: str) -> None:
    runs = store.read_runs(root)
    for frame in (export.tidy(runs), export.histories(runs), export.tidy(runs.iloc[:0])):
        path = tmp_path / "deep" / f"runs{suffix}"
        export.write(frame, path)
        read = READ[suffix](path)
        assert list(read.columns) == list(frame.columns)
        assert list(read["run_id"]) == list(frame["run_id"])
        if "final" in frame:
            assert list(read["final"].astype("Float64")) == list(frame["final"])
        assert [path.name for path in path.parent.iterdir()] == [path.name]
        path.unlink()


def test_an_unknown_ending_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.parquet or \.csv"):
        export.write(pd.DataFrame(), tmp_path / "runs.xlsx")


@pytest.mark.parametrize("suffix", READ)
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = tmp_path / f"runs{suffix}"
    path.write_text("old")

    def full_disk(frame: pd.DataFrame, target: Path) -> None:
        target.write_text("ha")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(export.WRITE, suffix, full_disk)
    with pytest.raises(StoreError, match=r"No space left on device.*another FILE\."):
        export.write(pd.DataFrame(), path, force=True)
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
