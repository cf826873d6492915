"""Small learnable stand-ins, written in the layout of the data set they stand for.

They need no network and drive the demo, the smoke runs and the tests. Their numbers say nothing about the real data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tmsgd_bench.files import read_json

VERSION = 1
"""Raised whenever a stand-in changes; part of a synthetic run's identity."""

R8_CLASSES = ("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade")
R8_SHARES = (0.29, 0.05, 0.50, 0.01, 0.03, 0.04, 0.02, 0.06)  # roughly those of the real training split
R8_SIZES = {"train": 600, "test": 240}


def write_r8(folder: Path) -> None:
    """Write a train and a test file of ``label<TAB>text`` lines.

    Words follow a Zipf law. Each class has a few words of its own, mixed into about a fifth of a document, and one
    document in twelve carries another class's words, so that no classifier reaches 100 %.
    """
    rng = np.random.default_rng(8)
    common = np.array([f"word{i}" for i in range(900)])
    weights = 1.0 / np.arange(1, len(common) + 1)
    weights /= weights.sum()
    for split, size in R8_SIZES.items():
        shares = np.array(R8_SHARES) / sum(R8_SHARES)
        labels = [*range(len(R8_CLASSES)), *rng.choice(len(R8_CLASSES), size - len(R8_CLASSES), p=shares)]
        lines = [_document(rng, common, weights, int(label)) for label in labels]
        (folder / f"r8-{split}-all-terms.txt").write_text("".join(lines), encoding="utf-8")


def _document(rng: np.random.Generator, common: np.ndarray, weights: np.ndarray, label: int) -> str:
    length = int(rng.integers(8, 60))
    words = rng.choice(common, length, p=weights)
    topic = label if rng.random() > 1 / 12 else int(rng.integers(len(R8_CLASSES)))
    marked = rng.random(length) < 0.2
    words = np.where(marked, [f"{R8_CLASSES[topic].replace('-', '')}{i}" for i in rng.integers(0, 12, length)], words)
    return f"{R8_CLASSES[label]}\t{' '.join(words)}\n"


def is_current(mark: Path, folder: Path, names: list[str]) -> bool:
    """Whether a folder holds this version of a stand-in, with every file as it was written."""
    written = read_json(mark) or {}
    if written.get("version") != VERSION:
        return False
    try:
        digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    except OSError:
        return False
    return written.get("sha256") == digests


WRITERS: dict[str, Callable[[Path], None]] = {"r8": write_r8}
"""The stand-in of each data set."""
