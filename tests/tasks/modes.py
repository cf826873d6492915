"""The mode in which the engine evaluates a task and lets it draw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tmsgd_bench.task import Task


@contextmanager
def evaluating(task: Task) -> Iterator[None]:
    """Modules in evaluation mode, and no gradients."""
    for module in task.modules.values():
        module.eval()
    with torch.no_grad():
        yield
