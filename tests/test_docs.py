"""The documentation's Python runs as it stands, and prints what its comments say."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/optimizer.md", "docs/voc.md")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"^print\(.*\)\s+# ([-\d. ]*\d)", re.MULTILINE)  # a comment that begins with numbers is a claim


def blocks() -> list[Any]:
    found = [(page, code) for page in PAGES for code in BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))]
    return [pytest.param(code, id=f"{page}-{number}") for number, (page, code) in enumerate(found)]


def surroundings() -> dict[str, Any]:
    """What the examples take for granted: a model, a loss, a loader."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 8)
    data = TensorDataset(inputs, (inputs.sum(dim=1, keepdim=True) > 0).float())
    return {
        "torch": torch,
        "model": torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)),
        "loss_function": torch.nn.BCEWithLogitsLoss(),
        "loader": DataLoader(data, batch_size=16),
    }


@pytest.mark.parametrize("code", blocks())
def test_an_example_runs_and_prints_what_its_comments_say(code: str) -> None:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "example", "exec"), surroundings())
    claimed = PRINTED.findall(code)
    if claimed:
        assert output.getvalue().splitlines() == [number.strip() for number in claimed]


def test_every_page_has_an_example() -> None:
    for page in PAGES:
        assert BLOCK.search((ROOT / page).read_text(encoding="utf-8")), page
