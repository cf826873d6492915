"""Each example runs, is short, switches, and learns."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

from tmsgd_bench import TMSGD

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LONGEST = 40


def libraries(path: Path) -> set[str]:
    """The packages that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_learns_before_and_after_its_switch(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for library in libraries(path):
        pytest.importorskip(library, reason=f"{path.name} needs {library}: pip install -e '.[examples]'")
    monkeypatch.chdir(tmp_path)
    optimizer = runpy.run_path(str(path))["optimizer"]
    inner = getattr(optimizer, "optimizer", optimizer)  # Accelerate wraps it
    assert isinstance(inner, TMSGD)
    (group,) = inner.param_groups
    assert 0 < group["switch_step"] < group["step"]
    assert all(len(inner.state[p]) == 2 for p in group["params"])
    losses = {name: float(loss) for name, loss in re.findall(r"(SGD|TM-SGD) .*loss ([\d.]+)", capsys.readouterr().out)}
    assert set(losses) == {"SGD", "TM-SGD"} and losses["TM-SGD"] < losses["SGD"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_listed(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST
    assert f"({path.name})" in (ROOT / "examples/README.md").read_text(encoding="utf-8")
