"""Sneaker photos as one tensor of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tasks.ig.model import SIDE
from tmsgd_bench.data import cache
from tmsgd_bench.errors import DataError
from tmsgd_bench.files import os_reason
from tmsgd_bench.task import TaskSettings

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FIX = "delete it if it is there and run 'python -m tmsgd_bench data prepare sneakers'."
VERSION = 1  # to be raised when what is made of a photo changes: it was kept on disk


def load(settings: TaskSettings) -> tuple[Tensor, Tensor]:
    """The photos to train on, and those to compare generated ones with: uint8, shape (photos, 3, 64, 64), each.

    They are on the run's device. There is no test split: photos to compare with are those to train on, or the
    validation split's of a run that validates. They are decoded once and then kept on disk.

    Raises:
        DataError: there is no photo, or one cannot be decoded; names it.
    """
    options: dict[str, Any] = {"version": VERSION, "side": SIDE}
    if settings.evaluation_limit is not None:  # a short trial: the others are not even decoded
        limits = [settings.data_limit, settings.evaluation_limit, settings.validation_share]
        few = cache.tensors(settings, "photos-subset", {**options, "limits": limits}, lambda: _decode_used(settings))
        to_train, compared = few["train"].to(settings.device), few.get("compared")
        return to_train, to_train if compared is None else compared.to(settings.device)
    photos = cache.tensors(settings, "photos", options, lambda: {"photos": decode(settings.data_folder)})["photos"]
    train, validation = settings.split(len(photos))
    to_train = photos[train].to(settings.device)
    return to_train, to_train if validation is None else photos[validation].to(settings.device)


def _decode_used(settings: TaskSettings) -> dict[str, Tensor]:
    paths = _photos(settings.data_folder)
    train, validation = settings.split(len(paths))
    used = {"train": train} if validation is None else {"train": train, "compared": validation}
    return {name: _decoded([paths[number] for number in numbers]) for name, numbers in used.items()}


def decode(folder: Path) -> Tensor:
    """Every image of a folder in the order of the names, whatever those are: uint8, shape (images, 3, 64, 64).

    Raises:
        DataError: see :func:`load`.
    """
    return _decoded(_photos(folder))


def _photos(folder: Path) -> list[Path]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS and path.name[0] != ".")
    except OSError as error:
        raise DataError(f"cannot read {folder} ({error.strerror}): {FIX}") from error
    if not paths:
        raise DataError(f"{folder} holds no image ({', '.join(ENDINGS)}): {FIX}")
    return paths


def _decoded(paths: list[Path]) -> Tensor:
    pixels = np.stack([read_photo(path) for path in paths])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def read_photo(path: Path) -> np.ndarray:
    """A photo in RGB, its middle square at 64 × 64 pixels: uint8, shape (64, 64, 3).

    The shorter side is brought to 64 pixels with Pillow's bilinear filter, which averages where it makes a photo
    smaller; then the middle is cut out. An alpha channel is ignored.

    Raises:
        DataError: the file is missing or cannot be decoded; names it.
    """
    try:
        with Image.open(path) as image:
            colours = image.convert("RGB")
        width, height = colours.size
        scale = SIDE / min(width, height)
        size = (max(SIDE, round(scale * width)), max(SIDE, round(scale * height)))
        if size != colours.size:
            colours = colours.resize(size, Image.Resampling.BILINEAR)
        left, top = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
        return np.asarray(colours.crop((left, top, left + SIDE, top + SIDE)))
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        raise DataError(f"cannot use {path} ({_reason(error)}): {FIX}") from error


def _reason(error: Exception) -> str:
    return "it is no image" if isinstance(error, Image.UnidentifiedImageError) else os_reason(error)
