"""Synthetic data for CIFAR-10: five training batches and one of test images, 600 in all."""

from __future__ import annotations

from pathlib import Path

from tmsgd_bench.data.synthetic import _cifar

VERSION = 1
FOLDER = "cifar-10-batches-py"
FILES = {**{f"{FOLDER}/data_batch_{number}": 100 for number in range(1, 6)}, f"{FOLDER}/test_batch": 100}


def write(folder: Path) -> None:
    """Write the six batches; see :func:`tmsgd_bench.data.synthetic._cifar.write`."""
    _cifar.write(folder, FILES, "labels", classes=10, seed=10)
