"""Synthetic data for the facial key points: drawn faces and the lists of their 68 points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

VERSION = 1
SIZES = {"training": 40, "test": 12}
FINE = 3  # drawn so many times larger, then averaged


def write(folder: Path) -> None:
    """Write ``training/``, ``test/`` and a CSV file of points for each.

    Each frame is about 100 pixels wide and shows one face, of another place, size and tilt in each. As at the
    publisher, frames are PNG images with an alpha channel, named .jpg, and points are whole numbers of pixels.
    """
    rng = np.random.default_rng(68)
    for split, count in SIZES.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        lines = ["," + ",".join(map(str, range(136)))]
        for number in range(count):
            name = f"Drawn_Face_{number:02}.jpg"
            points = _write_frame(rng, folder / split / name)
            lines.append(f"{name}," + ",".join(f"{value:.1f}" for value in points.round().ravel()))
        text = "\n".join(lines) + "\n"
        (folder / f"{split}_frames_keypoints.csv").write_bytes(text.encode())


def _write_frame(rng: np.random.Generator, path: Path) -> np.ndarray:
    """Draw one frame; returns its points, shape (68, 2): x and y in pixels."""
    size = rng.integers(84, 124, 2)
    face = _face()
    radii = size * rng.uniform(0.30, 0.38, 2)
    tilt = rng.normal(0.0, 0.08)
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    centre = size / 2 + rng.uniform(-0.08, 0.08, 2) * size
    places = {part: (points * radii) @ turn + centre for part, points in face.items()}
    image = _draw(rng, size, places)
    image.save(path, format="PNG", compress_level=0)  # the same bytes with every version of zlib
    return np.concatenate([points for part, points in places.items() if part != "outline"])


def _face() -> dict[str, np.ndarray]:
    """The 68 points in the order of the data set, by part of the face, and the face's outline.

    A face is as wide and as high as the square from -1 to 1; x runs to the right and y downwards.
    """
    brow = np.stack([np.linspace(-0.18, 0.18, 5), [0.0, -0.06, -0.08, -0.06, 0.0]], axis=1)
    eye = _ring(6, 0.16, 0.09)
    left, right, mouth = np.array([-0.4, -0.15]), np.array([0.4, -0.15]), np.array([0.0, 0.56])
    return {
        "jaw": _arc(np.linspace(np.pi, 0.0, 17), 0.97, 0.97),
        "left brow": brow + left - [0.0, 0.22],
        "right brow": brow + right - [0.0, 0.22],
        "nose": np.stack([np.zeros(4), np.linspace(-0.15, 0.18, 4)], axis=1),
        "nostrils": np.stack([np.linspace(-0.15, 0.15, 5), [0.24, 0.27, 0.29, 0.27, 0.24]], axis=1),
        "left eye": eye + left,
        "right eye": eye + right,
        "lips": _ring(12, 0.36, 0.15) + mouth,
        "mouth": _ring(8, 0.26, 0.06) + mouth,
        "outline": _arc(np.linspace(0.0, 2 * np.pi, 60, endpoint=False), 1.0, 1.0),
    }


def _arc(angles: np.ndarray, width: float, height: float) -> np.ndarray:
    return np.stack([width * np.cos(angles), height * np.sin(angles)], axis=1)


def _ring(count: int, width: float, height: float) -> np.ndarray:
    """Points around an ellipse, clockwise from the left, as the data set counts them."""
    return _arc(np.pi + np.linspace(0.0, 2 * np.pi, count, endpoint=False), width, height)


def _draw(rng: np.random.Generator, size: np.ndarray, places: dict[str, np.ndarray]) -> Image.Image:
    """The face in its frame, with noise on every pixel."""
    background, skin, dark = rng.uniform(20, 90), rng.uniform(150, 230), rng.uniform(10, 60)
    canvas = Image.new("L", (int(size[0]) * FINE, int(size[1]) * FINE), int(background))
    pen = ImageDraw.Draw(canvas)
    shades = {"outline": skin, "left eye": dark, "right eye": dark, "lips": 0.6 * skin, "mouth": dark}
    for part, shade in shades.items():
        pen.polygon(_corners(places[part]), fill=int(shade))
    for part in ("left brow", "right brow", "nose", "nostrils"):
        pen.line(_corners(places[part]), fill=int(dark), width=2 * FINE)
    gray = np.asarray(canvas.reduce(FINE), dtype=np.float64)
    noisy = (gray[..., None] + rng.normal(0.0, 6.0, (*gray.shape, 3))).clip(0.0, 255.0)
    opaque = np.full((*gray.shape, 1), 255.0)
    return Image.fromarray(np.concatenate([noisy, opaque], axis=2).astype(np.uint8), "RGBA")


def _corners(points: np.ndarray) -> list[tuple[float, float]]:
    return [(FINE * float(x), FINE * float(y)) for x, y in points]
