"""Sealing runs from before there were manifests: what can be checked is checked first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tmsgd_bench import manifest
from tmsgd_bench.results import store


def test_whole_runs_are_sealed_and_damaged_ones_named(
    tmp_path: Path,
    write_run: Callable[..., Path],
    script: Callable[[str], ModuleType],
    capsys: pytest.CaptureFixture[str],
) -> None:
    old, edited, sealed = (write_run(tmp_path, seed=seed) for seed in range(3))
    for run in (old, edited):
        (run / manifest.NAME).unlink()
    path = edited / store.RESULT
    path.write_text(path.read_text().replace("90.0", "99.9"))
    assert script("seal_runs").main([str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{old}: sealed" and said[2] == f"{sealed}: has its manifest"
    assert said[1].startswith(f"{edited}: not sealed: final of result.json differs from history.parquet")
    runs = store.read_runs(tmp_path).set_index("run_id")
    assert list(runs["status"]) == ["done", "damaged", "done"]


def test_a_folder_without_runs_is_refused(
    tmp_path: Path, script: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("seal_runs").main([str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err
