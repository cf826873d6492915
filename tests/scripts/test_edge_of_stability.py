"""The study of the edge of stability: its data are read safely, its branches start from one state."""

from __future__ import annotations

import argparse
import math
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tmsgd_bench.errors import DataError


@pytest.fixture(scope="module")
def study(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("edge_of_stability")


def write(folder: Path, value: Any) -> Path:
    path = folder / "data_batch_1"
    path.write_bytes(pickle.dumps(value, protocol=2))
    return path


def batch(count: int = 6) -> dict[bytes, Any]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3072), dtype=np.uint8)
    return {b"data": pixels, b"labels": [k % 10 for k in range(count)], b"batch_label": b"one"}


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("harm",)


def test_a_batch_file_is_read_as_normalised_images(study: ModuleType, tmp_path: Path) -> None:
    images, labels = study.read_cifar(write(tmp_path, batch()), 6)
    raw = torch.from_numpy(batch()[b"data"].reshape(6, 3, 32, 32)).double() / 255
    expected = (raw - raw.mean((0, 2, 3), keepdim=True)) / raw.std((0, 2, 3), keepdim=True)
    torch.testing.assert_close(images.double(), expected, atol=1e-5, rtol=0)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_pickle_that_runs_code_is_refused(study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, batch() | {b"more": Harmful()})
    with pytest.raises(DataError, match=r"mkdir is not allowed.*--cifar"):
        study.read_cifar(path, 6)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({b"data": np.zeros(5)}), pickle.dumps([1, 2])])
def test_a_file_that_is_no_batch_is_refused_in_one_sentence(study: ModuleType, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(DataError, match="pass its folder with --cifar"):
        study.read_cifar(tmp_path / "data_batch_1", 6)


def test_too_few_images_are_refused_with_their_number(study: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="use --examples 6 or fewer"):
        study.read_cifar(write(tmp_path, batch()), 7)


def test_missing_data_end_it_with_one_sentence_and_code_2(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMSGD_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["edge_of_stability.py", "--out", str(tmp_path / "out")])
    assert study.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the real R8 is not here") and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_quadratic_diverges_where_theory_says_so_and_all_branches_start_alike(
    study: ModuleType, tmp_path: Path
) -> None:
    """Of lr λ = 1.9 the rule's limit 1 is exceeded at the same lr alone. A quadratic does not mend itself."""
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    curvature = torch.tensor([[1.9, 0.1]])
    problem = study.Problem("quadratic", model, lambda: 0.5 * (curvature * model.weight**2).sum(), lr=1.0)
    options = argparse.Namespace(threshold=1.9, longest=3, steps=100, every=50)
    trace, verdicts = study.study(problem, options)
    diverged = {verdict.branch[0]: verdict.diverged for verdict in verdicts}
    assert diverged == {"a": False, "b": True, "c": False, "d": False}
    starts = trace[(trace["branch"] != "before") & (trace["step"] == 3)]
    assert len(starts) == 4 and starts["loss"].nunique() == 1
    assert [verdict.lr_times_sharpness_at_switch for verdict in verdicts] == pytest.approx([1.9, 1.9, 0.475, 0.475])


def test_the_edge_is_reached_only_from_below(study: ModuleType) -> None:
    """Early curvature is often large; what counts is that it rises."""
    reached, points, found = study.rises_to(5.0), [], []
    for step, value in enumerate([9.0, math.nan, 4.0, math.nan, 6.0]):
        points.append(study.Point(step, 1.0, value))
        found.append(reached(points))
    assert found == [False, False, False, False, True]
