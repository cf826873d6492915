"""Synthetic data for CIFAR-100: 800 training and 100 test images."""

from __future__ import annotations

from pathlib import Path

from tmsgd_bench.data.synthetic import _cifar

VERSION = 1
FILES = {"cifar-100-python/train": 800, "cifar-100-python/test": 100}


def write(folder: Path) -> None:
    """Write both batches; see :func:`tmsgd_bench.data.synthetic._cifar.write`."""
    _cifar.write(folder, FILES, "fine_labels", classes=100, seed=100)
