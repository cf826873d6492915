"""The colours that VOC draws its masks with."""

from __future__ import annotations

import numpy as np


def colour_map() -> np.ndarray:
    """VOC's colours of the labels 0 to 255, uint8 (256, 3): bit 3 k + c of a label is bit 7 - k of its colour c."""
    labels = np.arange(256)
    bits = [[(labels >> (3 * k + c) & 1) << (7 - k) for c in range(3)] for k in range(3)]
    return np.stack([sum(bits[k][c] for k in range(3)) for c in range(3)], axis=1).astype(np.uint8)
