"""The paper's Tables 1 and 2, from the configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

PUBLISHED = Path(__file__).parents[2] / "results" / "settings"


def test_the_published_settings_are_those_of_the_configuration(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["settings.py", "--out", str(tmp_path)])
    script("settings").main()
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in PUBLISHED.iterdir()}
