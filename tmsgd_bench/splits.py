"""The settings that say which split of its data a task is evaluated on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETTINGS = ("evaluate_on", "validation_share")
"""Of a task that divides its training split; see :attr:`tmsgd_bench.task.Task.splits_training`."""
TEST, VALIDATION = "test", "validation"


def evaluated(task: Mapping[str, Any]) -> str:
    """The split that a task's settings ask for: the test split, unless they say otherwise."""
    return str(task.get("evaluate_on") or TEST)
