"""Synthetic data for R8: ``label<TAB>text`` lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np

VERSION = 1
CLASSES = ("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade")
SHARES = (0.29, 0.05, 0.50, 0.01, 0.03, 0.04, 0.02, 0.06)  # roughly those of the real training split
SIZES = {"train": 600, "test": 240}


def write(folder: Path) -> None:
    """Write a train and a test file of ``label<TAB>text`` lines.

    Words follow a Zipf law. Each class has a few words of its own, mixed into about a fifth of a document, and one
    document in twelve carries another class's words, so that no classifier reaches 100 %.
    """
    rng = np.random.default_rng(8)
    common = np.array([f"word{i}" for i in range(900)])
    weights = 1.0 / np.arange(1, len(common) + 1)
    weights /= weights.sum()
    for split, size in SIZES.items():
        shares = np.array(SHARES) / sum(SHARES)
        labels = [*range(len(CLASSES)), *rng.choice(len(CLASSES), size - len(CLASSES), p=shares)]
        lines = [_document(rng, common, weights, int(label)) for label in labels]
        (folder / f"r8-{split}-all-terms.txt").write_text("".join(lines), encoding="utf-8")


def _document(rng: np.random.Generator, common: np.ndarray, weights: np.ndarray, label: int) -> str:
    length = int(rng.integers(8, 60))
    words = rng.choice(common, length, p=weights)
    topic = label if rng.random() > 1 / 12 else int(rng.integers(len(CLASSES)))
    marked = rng.random(length) < 0.2
    words = np.where(marked, [f"{CLASSES[topic].replace('-', '')}{i}" for i in rng.integers(0, 12, length)], words)
    return f"{CLASSES[label]}\t{' '.join(words)}\n"
