"""Frames of faces as bytes, each with its key points; and crops of many frames at once."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tmsgd_bench.data import cache
from tmsgd_bench.data.packed import Packed, pack
from tmsgd_bench.errors import DataError
from tmsgd_bench.seeding import generator
from tmsgd_bench.task import TaskSettings

POINTS = 68
SHORT_SIDE = 250
"""Pixels of a rescaled frame's shorter side, in the paper's settings."""
CROP = 224
"""Pixels of a crop in each direction, in the paper's settings."""
FIX = "delete it if it is there and run 'python -m tmsgd_bench data prepare fkpd'."
SPLITS = {"train": ("training_frames_keypoints.csv", "training"), "test": ("test_frames_keypoints.csv", "test")}
"""The list of key points and the folder of frames of each split."""
VERSION = 1  # to be raised when what is made of a frame changes: it was kept on disk

Labels = tuple[list[str], Tensor]


@dataclass(frozen=True)
class Frames(Packed):
    """Rescaled gray frames of different widths, in one tensor, so that one indexing cuts a whole batch.

    Args:
        points: float32, shape (frames, 68, 2): x and y in pixels of the frame.
    """

    points: Tensor

    def tensors(self, name: str) -> dict[str, Tensor]:
        """See :meth:`Packed.tensors`; with the points."""
        return {**super().tensors(name), f"{name}_points": self.points}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], name: str, channels: int = 1) -> Frames:
        """From what :meth:`tensors` returned."""
        return cls(**vars(Packed.of_tensors(tensors, name, channels)), points=tensors[f"{name}_points"])

    def to(self, device: torch.device) -> Frames:
        """The same on a device."""
        pixels, starts, sizes, points = (
            tensor.to(device) for tensor in (self.pixels, self.starts, self.sizes, self.points)
        )
        return Frames(pixels, starts, sizes, self.channels, points)

    def select(self, chosen: Tensor) -> Frames:
        """Some of the frames (int64, shape (chosen,)); the pixels of the others stay in memory."""
        return replace(self, starts=self.starts[chosen], sizes=self.sizes[chosen], points=self.points[chosen])

    def crop(self, chosen: Tensor, corners: Tensor, side: int = CROP) -> tuple[Tensor, Tensor]:
        """Cut a square out of each chosen frame; its points come with it.

        Args:
            chosen: int64, shape (images,): numbers of frames.
            corners: int64, shape (images, 2): row and column of each square's upper left pixel.
            side: pixels of a square in each direction.

        Returns:
            uint8, shape (images, side, side), and float32, shape (images, 68, 2), x and y in pixels of the square.
        """
        along = torch.arange(side, device=self.pixels.device)
        rows = corners[:, :1] + along
        columns = corners[:, 1:] + along
        begin = self.starts[chosen, None] + rows * self.sizes[chosen, 1:]
        return self.pixels[begin[:, :, None] + columns[:, None, :]], self.points[chosen] - corners[:, None].flip(2)

    def centres(self, side: int = CROP) -> Tensor:
        """Corners (int64, shape (frames, 2)) of the squares in the middle."""
        return (self.sizes - side) // 2

    def random_corners(self, seed: int, *purpose: object, side: int = CROP) -> Tensor:
        """Corners (int64, shape (frames, 2)) of squares anywhere in their frames, each place as likely as another.

        What a frame gets depends on the seed, the purpose and its number alone, not on the batch it is in.
        """
        # In double precision: a single-precision product can round up to the number of places, one too many.
        shares = torch.rand((len(self), 2), generator=generator(seed, *purpose), dtype=torch.float64)
        return (shares.to(self.sizes.device) * (self.sizes - side + 1)).long()


def load(settings: TaskSettings, short_side: int = SHORT_SIDE) -> tuple[Frames, Frames]:
    """The frames to train on and those to evaluate on, rescaled, on the run's device.

    Of each split the frames that are used are decoded once and then kept on disk. Under ``data_limit`` those to
    evaluate on stay whole; ``evaluation_limit`` leaves a part of them.

    Args:
        settings: the run's.
        short_side: pixels of a rescaled frame's shorter side.

    Raises:
        DataError: a list or a frame is missing or damaged; names it.
    """
    options = {"version": VERSION, "short_side": short_side}
    if settings.evaluation_limit is not None:
        limits = [settings.data_limit, settings.evaluation_limit, settings.validation_share]
        few = cache.tensors(
            settings, "frames-subset", {**options, "limits": limits}, lambda: _decode_used(settings, short_side)
        )
        to_train, evaluated = (Frames.of_tensors(few, name) for name in ("train", "evaluated"))
        return to_train.to(settings.device), evaluated.to(settings.device)
    splits = ("train",) if settings.validates else tuple(SPLITS)
    name = "frames-train" if settings.validates else "frames"
    tensors = cache.tensors(settings, name, options, lambda: decode(settings.data_folder, splits, short_side))
    frames = {split: Frames.of_tensors(tensors, split) for split in splits}
    train, validation = settings.split(len(frames["train"]))
    evaluated = frames["test"] if validation is None else frames["train"].select(validation)
    return frames["train"].select(train).to(settings.device), evaluated.to(settings.device)


def decode(folder: Path, splits: Iterable[str] = tuple(SPLITS), short_side: int = SHORT_SIDE) -> dict[str, Tensor]:
    """Every tensor of the splits' :class:`Frames`, named "train_pixels" and so on.

    Raises:
        DataError: see :func:`load`.
    """
    tensors: dict[str, Tensor] = {}
    for split in splits:
        tensors |= _frames(*_listed(folder, split), short_side).tensors(split)
    return tensors


def _decode_used(settings: TaskSettings, short_side: int) -> dict[str, Tensor]:
    """The tensors of the frames that a run with limits trains on ("train_pixels" and so on) and of the "evaluated"."""
    paths, points = _listed(settings.data_folder, "train")
    train, validation = settings.split(len(paths))
    to_train = _frames([paths[number] for number in train], points[train], short_side)
    if validation is None:
        paths, points = _listed(settings.data_folder, "test")
        validation = settings.evaluated_of(len(paths))
    evaluated = _frames([paths[number] for number in validation], points[validation], short_side)
    return {**to_train.tensors("train"), **evaluated.tensors("evaluated")}


def _listed(folder: Path, split: str) -> tuple[list[Path], Tensor]:
    """The files of a split's frames, and their points."""
    labels, frames = SPLITS[split]
    names, points = read_points(folder / labels)
    return [folder / frames / name for name in names], points


def _frames(paths: list[Path], points: Tensor, short_side: int) -> Frames:
    images, scales = zip(*(read_frame(path, short_side) for path in paths), strict=True)
    packed = pack([image.shape for image in images], images, channels=1)
    scaled = points * torch.tensor(scales, dtype=torch.float64)[:, None]
    return Frames(**vars(packed), points=scaled.float())


def read_frame(path: Path, short_side: int = SHORT_SIDE) -> tuple[np.ndarray, tuple[float, float]]:
    """A frame in gray with a shorter side of ``short_side`` pixels, and how much wider and higher than before it is.

    The format is found from the contents: the publisher's frames are PNG images named .jpg. Gray is ITU-R 601-2 luma,
    (299 R + 587 G + 114 B) / 1000, as Pillow's mode "L" has it; an alpha channel is ignored. The frame is rescaled with
    Pillow's bilinear filter, which averages where it makes a frame smaller.

    Returns:
        uint8, shape (height, width), and the two factors (x, y).

    Raises:
        DataError: the file is missing or cannot be decoded; names it.
    """
    try:
        with Image.open(path) as image:
            gray = image.convert("L")
        width, height = gray.size
        short = min(width, height)
        rescaled = (short_side * width // short, short_side * height // short)
        pixels = np.asarray(gray.resize(rescaled, Image.Resampling.BILINEAR))
    except Exception as error:  # a damaged image raises almost any kind
        reason = getattr(error, "strerror", None) or "it is no image, or a damaged one"
        raise DataError(f"cannot read the frame {path} ({reason}): {FIX}") from error
    return pixels, (rescaled[0] / width, rescaled[1] / height)


def read_points(path: Path) -> Labels:
    """The names of the frames that a list has key points for, and the points.

    Returns:
        The names, and float64, shape (frames, 68, 2): x and y in pixels of the frame as published.

    Raises:
        DataError: the file is missing, or a line is not a name and 136 numbers; names the file and the line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.reader(file)
            next(lines, None)  # numbers the columns
            rows = [_row(path, lines.line_num, row) for row in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path} ({getattr(error, 'strerror', None) or error}): {FIX}") from error
    if not rows:
        raise DataError(f"{path} lists no frames: {FIX}")
    points = torch.tensor([numbers for _, numbers in rows], dtype=torch.float64)
    return [name for name, _ in rows], points.view(-1, POINTS, 2)


def _row(path: Path, line: int, row: list[str]) -> tuple[str, list[float]]:
    try:
        name, *numbers = row[0], *map(float, row[1:])
        if name and len(numbers) == 2 * POINTS and all(map(math.isfinite, numbers)):
            return name, numbers
    except (IndexError, ValueError):
        pass
    raise DataError(f"{path}, line {line}, is not the name of a frame and {2 * POINTS} numbers: {FIX}")
