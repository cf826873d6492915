"""The mode in which the engine evaluates a task and lets it draw, and one of torch."""

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


@contextmanager
def without_onednn() -> Iterator[None]:
    """With convolutions of a few channels oneDNN, as torch 2.15 has it, corrupts the heap on some processors."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False
    yield
    torch.backends.mkldnn.enabled = before
