"""Synthetic data for CIFAR-10 and CIFAR-100: small batches in their publisher's pickles."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np

SIDE, TILE = 32, 8
NOISE = 24.0
MISLABELLED = 1 / 12


def write(folder: Path, files: Mapping[str, int], labels: str, classes: int, seed: int) -> None:
    """Write batches of images, each a dictionary of ``data`` (uint8, (images, 3072)) and a list of labels.

    Each class has a pattern of coloured tiles. An image is its class's pattern, darker or brighter, with noise on every
    pixel; one in twelve has another class's label, so that no classifier reaches 100 %.

    Args:
        files: images of each file, by its name in the folder.
        labels: the key of the labels.
        classes: how many there are.
        seed: of everything in them.
    """
    rng = np.random.default_rng(seed)
    tiles = rng.uniform(40.0, 215.0, (classes, 3, SIDE // TILE, SIDE // TILE))
    patterns = tiles.repeat(TILE, axis=2).repeat(TILE, axis=3)
    for name, count in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = rng.permutation(np.arange(count) % classes)
        batch = {b"data": _images(rng, patterns[shown]), labels.encode(): _mislabel(rng, shown, classes)}
        content = pickle.dumps(batch, protocol=2)  # as the publisher's
        # numpy's old name of its core, so that the bytes are equal with all versions of numpy.
        path.write_bytes(content.replace(b"numpy._core", b"numpy.core"))


def _images(rng: np.random.Generator, patterns: np.ndarray) -> np.ndarray:
    brightness = rng.normal(0.0, NOISE, (len(patterns), 1, 1, 1))
    pixels = patterns + brightness + rng.normal(0.0, NOISE, patterns.shape)
    return pixels.clip(0.0, 255.0).astype(np.uint8).reshape(len(patterns), -1)


def _mislabel(rng: np.random.Generator, shown: np.ndarray, classes: int) -> list[int]:
    wrong = rng.random(len(shown)) < MISLABELLED
    labels: list[int] = np.where(wrong, rng.integers(0, classes, len(shown)), shown).tolist()
    return labels
