"""Synthetic data for the sneaker photos: drawn shoes on white."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

VERSION = 1
COUNT, SIDE, FINE = 96, 64, 4  # drawn FINE times as large and averaged, for smooth edges
# Outlines of a shoe that looks to the right, from heel to toe, in shares of the image.
UPPER = ((0.06, 0.34), (0.16, 0.30), (0.34, 0.33), (0.52, 0.48), (0.76, 0.56), (0.95, 0.64), (0.96, 0.72), (0.06, 0.72))
SOLE = ((0.04, 0.70), (0.97, 0.70), (0.97, 0.76), (0.92, 0.79), (0.05, 0.79))
STRIPES = ((0.40, 0.50, 0.34, 0.68), (0.48, 0.54, 0.42, 0.68), (0.56, 0.57, 0.50, 0.68))


def write(folder: Path) -> None:
    """Write 96 PNG images of 64 × 64 pixels.

    Each shoe has its own colours of upper, sole and stripes, its own height of shaft, and is stretched and shifted a
    little.
    """
    rng = np.random.default_rng(64)
    for number in range(1, COUNT + 1):
        _shoe(rng).save(folder / f"farfetch_shoe{number}.png")


def _shoe(rng: np.random.Generator) -> Image.Image:
    large = Image.new("RGB", (FINE * SIDE, FINE * SIDE), "white")
    pen = ImageDraw.Draw(large)
    upper, sole, stripe = (
        tuple(rng.integers(low, high, 3).tolist()) for low, high in ((10, 200), (150, 250), (0, 255))
    )
    stretch, shift = rng.uniform(0.85, 1.0, 2), rng.uniform(-0.02, 0.02, 2)
    shaft = float(rng.uniform(-0.14, 0.02))

    def place(x: float, y: float) -> tuple[float, float]:
        fitted = 0.5 + (np.array([x, y]) - 0.5) * stretch + shift
        across, down = (FINE * SIDE * fitted).tolist()
        return across, down

    raised = [(x, y + shaft if y < 0.35 else y) for x, y in UPPER]
    pen.polygon([place(*point) for point in raised], fill=upper)
    pen.polygon([place(*point) for point in SOLE], fill=sole)
    for x0, y0, x1, y1 in STRIPES:
        pen.line([place(x0, y0), place(x1, y1)], fill=stripe, width=2 * FINE)
    return large.resize((SIDE, SIDE), Image.Resampling.BOX)
