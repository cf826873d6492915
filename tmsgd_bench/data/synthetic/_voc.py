"""Synthetic data for VOC2007 and VOC2012: drawn shapes with boxes and masks, in the layout of VOC's development kit."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
from PIL import Image

from tmsgd_bench.voc import colour_map

BORDER = 255
"""The label of pixels that belong to no class: a line around each object."""
TILE, TEXTURE, NOISE = 11, 12, 20
VISIBLE = 0.4
"""The least visible share of each object."""
FAINT = 0.25
"""The share of small, faint objects that are marked as difficult, of all but the first object of each image."""


@dataclass(frozen=True)
class Kind:
    """How objects of one class look.

    Args:
        name, label: the class, and its value in a mask.
        hues: range of its colours, in turns.
        widths, heights: ranges in pixels.
        inside: whether a point of the square from -1 to 1 is part of the shape; y runs downwards.
    """

    name: str
    label: int
    hues: tuple[float, float]
    widths: tuple[int, int]
    heights: tuple[int, int]
    inside: Callable[[np.ndarray, np.ndarray], np.ndarray]


KINDS = (
    Kind("aeroplane", 1, (0.56, 0.64), (30, 60), (25, 50), lambda x, y: 2 * abs(x) <= y + 1),
    Kind("bicycle", 2, (0.96, 1.03), (30, 60), (30, 55), lambda x, y: (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.25)),
    Kind("bottle", 5, (0.30, 0.38), (25, 29), (44, 60), lambda x, y: (abs(x) <= 1) & (abs(y) <= 1)),
    Kind("cat", 8, (0.12, 0.17), (25, 50), (25, 50), lambda x, y: x**2 + y**2 <= 1),
)


@dataclass(frozen=True)
class Drawn:
    """One object of a picture.

    Args:
        kind: its class.
        shape: bool (height, width): the pixels it covers, also where another object is in front of it.
        truncated: whether it goes on beyond the picture.
        difficult: whether it is small and faint, so that it counts neither for a detector nor against it.
    """

    kind: Kind
    shape: np.ndarray
    truncated: bool
    difficult: bool

    @property
    def box(self) -> dict[str, int]:
        """As VOC writes it: pixels are counted from 1, and the last ones are part of the box."""
        rows, columns = np.flatnonzero(self.shape.any(axis=1)) + 1, np.flatnonzero(self.shape.any(axis=0)) + 1
        return {"xmin": int(columns[0]), "ymin": int(rows[0]), "xmax": int(columns[-1]), "ymax": int(rows[-1])}


@dataclass(frozen=True)
class Picture:
    """One drawn picture.

    Args:
        pixels: uint8, (height, width, 3), or (height, width) for a gray one.
        labels: uint8 (height, width): 0 for the background, 1 to 20 for a class, 255 for a border.
        objects: what is in it, from the back to the front.
    """

    pixels: np.ndarray
    labels: np.ndarray
    objects: tuple[Drawn, ...]


def draw(seed: Sequence[int], special: str = "") -> Picture:
    """Draw one to three objects on a textured ground, with noise on every pixel.

    Args:
        seed: of everything in it; its last number chooses the class of the first object.
        special: "gray" for a picture without colours, "empty" for one without objects, "speck" for one in which an
            object of a single pixel is added.
    """
    rng = np.random.default_rng(list(seed))
    long, short = int(rng.integers(109, 132)), int(rng.integers(81, 100))
    size = (long, short) if rng.random() < 1 / 3 else (short, long)
    first = KINDS[seed[-1] % len(KINDS)]
    objects = [] if special == "empty" else _place_all(rng, size, first, count=int(rng.integers(1, 4)))
    if special == "speck":
        objects.append(_outline(KINDS[-1], size, (size[0] // 3, size[1] // 3), (1, 1)))
    owners = _owners(objects, size)
    pixels = _paint(rng, objects, owners)
    return Picture(pixels[..., 1] if special == "gray" else pixels, _labels(objects, owners), tuple(objects))


def _place_all(rng: np.random.Generator, size: tuple[int, int], first: Kind, count: int) -> list[Drawn]:
    """Objects that hide each other in part at most; one for which no place is found is left out."""
    objects: list[Drawn] = []
    for number in range(count):
        kind = first if number == 0 else KINDS[rng.integers(len(KINDS))]
        faint = number > 0 and rng.random() < FAINT
        tried = ([*objects, _place(rng, size, kind, faint)] for _ in range(20))
        objects = next((together for together in tried if _all_visible(together, size)), objects)
    return objects


def _place(rng: np.random.Generator, size: tuple[int, int], kind: Kind, faint: bool) -> Drawn:
    """An object with its middle anywhere but close to the border, which it may cross."""
    extent = rng.integers(12, 19, 2) if faint else [rng.integers(*kind.heights), rng.integers(*kind.widths)]
    height, width = (int(side) for side in extent)
    middle = rng.uniform(0.12, 0.88, 2) * size
    corner = (int(middle[0]) - height // 2, int(middle[1]) - width // 2)
    return _outline(kind, size, corner, (height, width), faint)


def _outline(
    kind: Kind, size: tuple[int, int], corner: tuple[int, int], extent: tuple[int, int], difficult: bool = False
) -> Drawn:
    """An object of some height and width whose upper left corner is given as row and column."""
    (rows, columns), (top, left), (height, width) = size, corner, extent
    y = ((2 * (np.arange(rows) - top) + 1) / height - 1)[:, None]
    x = ((2 * (np.arange(columns) - left) + 1) / width - 1)[None, :]
    shape = kind.inside(x, y) & (abs(x) <= 1) & (abs(y) <= 1)
    truncated = min(corner) < 0 or top + height > rows or left + width > columns
    return Drawn(kind, shape, truncated, difficult)


def _owners(objects: Sequence[Drawn], size: tuple[int, int]) -> np.ndarray:
    """Which object is in sight at each pixel, counted from 1; 0 where there is none."""
    owners = np.zeros(size, np.int64)
    for number, drawn in enumerate(objects, 1):
        owners[drawn.shape] = number
    return owners


def _all_visible(objects: Sequence[Drawn], size: tuple[int, int]) -> bool:
    owners = _owners(objects, size)
    return all((owners == number).sum() >= VISIBLE * drawn.shape.sum() for number, drawn in enumerate(objects, 1))


def _paint(rng: np.random.Generator, objects: Sequence[Drawn], owners: np.ndarray) -> np.ndarray:
    """The picture, uint8 (height, width, 3)."""
    height, width = owners.shape
    tiles = (-(-height // TILE), -(-width // TILE))
    ground = rng.integers(70, 170, (*tiles, 1)) + rng.integers(-TEXTURE, TEXTURE + 1, (*tiles, 3))
    pixels = ground.repeat(TILE, axis=0).repeat(TILE, axis=1)[:height, :width].astype(np.float64)
    for number, drawn in enumerate(objects, 1):
        hue, saturation, value = rng.uniform(*drawn.kind.hues), rng.uniform(0.65, 0.9), rng.uniform(0.6, 0.95)
        colour = 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))
        visible = owners == number
        pixels[visible] = (colour + pixels[visible]) / 2 if drawn.difficult else colour
    noisy = pixels + rng.integers(-NOISE, NOISE + 1, pixels.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def _labels(objects: Sequence[Drawn], owners: np.ndarray) -> np.ndarray:
    """The mask: classes, and a border of two pixels where one object, or the ground, ends and another begins."""
    labels = np.array([0, *(drawn.kind.label for drawn in objects)], np.uint8)[owners]
    beside, above = owners[:, 1:] != owners[:, :-1], owners[1:] != owners[:-1]
    for edge, pixels in ((beside, labels[:, 1:]), (beside, labels[:, :-1]), (above, labels[1:]), (above, labels[:-1])):
        pixels[edge] = BORDER
    return labels


def write(
    folder: Path, year: int, pictures: Mapping[str, Picture], lists: Mapping[str, Mapping[str, Collection[str]]]
) -> None:
    """Write ``VOCdevkit/VOC<year>`` with images, annotations, masks and lists.

    Images are PNG files named .jpg: their pixels are the same with every version of every library.

    Args:
        pictures: by the image's name.
        lists: names by folder of lists ("Main" or "Segmentation") and split; those of "Segmentation" get masks.
    """
    base = folder / "VOCdevkit" / f"VOC{year}"
    for name in ("JPEGImages", "Annotations", "SegmentationClass", *(f"ImageSets/{name}" for name in lists)):
        (base / name).mkdir(parents=True, exist_ok=True)
    masked = {name for names in lists["Segmentation"].values() for name in names}
    for name, picture in pictures.items():
        _save(Image.fromarray(picture.pixels), base / "JPEGImages" / f"{name}.jpg")
        (base / "Annotations" / f"{name}.xml").write_bytes(_annotation(name, year, picture, name in masked))
        if name in masked:
            mask = Image.fromarray(picture.labels)
            mask.putpalette(colour_map().tobytes())
            _save(mask, base / "SegmentationClass" / f"{name}.png")
    for folder_name, splits in lists.items():
        for split, names in splits.items():
            text = "".join(f"{name}\n" for name in sorted(names))
            (base / "ImageSets" / folder_name / f"{split}.txt").write_bytes(text.encode())


def _save(image: Image.Image, path: Path) -> None:
    image.save(path, format="PNG", compress_level=0)  # the same bytes with every version of zlib


def _annotation(name: str, year: int, picture: Picture, segmented: bool) -> bytes:
    """An image's annotation as VOC writes it."""
    height, width = picture.labels.shape
    root = Xml.Element("annotation")
    _add(root, {"folder": f"VOC{year}", "filename": f"{name}.jpg"})
    depth = 1 if picture.pixels.ndim == 2 else 3
    _add(Xml.SubElement(root, "size"), {"width": width, "height": height, "depth": depth})
    _add(root, {"segmented": int(segmented)})
    for drawn in picture.objects:
        element = Xml.SubElement(root, "object")
        _add(element, {"name": drawn.kind.name, "pose": "Unspecified"})
        _add(element, {"truncated": int(drawn.truncated), "difficult": int(drawn.difficult)})
        _add(Xml.SubElement(element, "bndbox"), drawn.box)
    Xml.indent(root, "\t")
    return Xml.tostring(root) + b"\n"


def _add(parent: Xml.Element, values: Mapping[str, object]) -> None:
    for key, value in values.items():
        Xml.SubElement(parent, key).text = str(value)
