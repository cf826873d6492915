"""What a figure of several runs says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tmsgd_bench.results.figure_runs import title
from tmsgd_bench.results.store import read_runs


@pytest.mark.parametrize("split", ["test", "validation"])
def test_the_title_says_when_runs_were_not_evaluated_on_the_test_split(
    tmp_path: Path, write_run: Callable[..., Path], split: str
) -> None:
    write_run(tmp_path, task={"name": "tc", "tokens": 32, "evaluate_on": split})
    text = title(read_runs(tmp_path), "documents")
    assert ("evaluated on the validation split" in text) is (split == "validation")
