"""CIFAR-10 and CIFAR-100 as tensors of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.ic import pickles
from tmsgd_bench.errors import ConfigError, DataError
from tmsgd_bench.task import TaskSettings

SIDE = 32
"""Pixels of an image in each direction."""


@dataclass(frozen=True)
class Layout:
    """Where a data set's images are, below its folder.

    Args:
        train, test: the files of each split.
        labels: the key of the labels in each of them.
        classes: how many there are.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str
    classes: int


LAYOUTS = {
    "cifar10": Layout(
        tuple(f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)),
        ("cifar-10-batches-py/test_batch",),
        "labels",
        10,
    ),
    "cifar100": Layout(("cifar-100-python/train",), ("cifar-100-python/test",), "fine_labels", 100),
}


@dataclass(frozen=True)
class Cifar:
    """What is trained on and what is evaluated, on one device.

    Args:
        train_images, test_images: uint8, shape (images, 3, 32, 32). Those to test on are the test split's, or the
            validation split's of a run that validates.
        train_labels, test_labels: int64, shape (images,).
        classes: how many there are.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: int


def load(settings: TaskSettings) -> Cifar:
    """Read a data set from the folder of its name, cifar10 or cifar100, as the catalog has it.

    All of it is put on the run's device, once for the whole training: 180 MB. Under ``data_limit`` what is evaluated
    stays whole; ``evaluation_limit`` leaves a part of it.

    Raises:
        DataError: a file is missing or is no batch of images; see :func:`read_batch`.
        ConfigError: the folder is another data set's.
    """
    folder, device = settings.data_folder, settings.device
    if folder.name not in LAYOUTS:
        raise ConfigError(f"task=ic can use {' and '.join(LAYOUTS)}, not {folder.name!r}: choose one with data.name.")
    layout = LAYOUTS[folder.name]
    fix = f"delete it if it is there and run 'python -m tmsgd_bench data prepare {folder.name}'."
    images, labels = _split(folder, layout.train, layout, fix)
    train, validation = settings.split(len(labels))
    if validation is None:
        all_images, all_labels = _split(folder, layout.test, layout, fix)
        evaluated = settings.evaluated_of(len(all_labels))
        test_images, test_labels = all_images[evaluated], all_labels[evaluated]
    else:
        test_images, test_labels = images[validation], labels[validation]
    return Cifar(
        train_images=images[train].to(device),
        train_labels=labels[train].to(device),
        test_images=test_images.to(device),
        test_labels=test_labels.to(device),
        classes=layout.classes,
    )


def _split(folder: Path, names: tuple[str, ...], layout: Layout, fix: str) -> tuple[Tensor, Tensor]:
    """The images and labels of several files, in their order."""
    batches = [read_batch(folder / name, layout.labels, layout.classes, fix) for name in names]
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return images, labels


def read_batch(path: Path, labels: str, classes: int, fix: str) -> tuple[Tensor, Tensor]:
    """The images (uint8, shape (images, 3, 32, 32)) and labels (int64, shape (images,)) of one file.

    It may hold any number of images.

    Args:
        path: a pickled dictionary with ``data``, a row of 3,072 bytes for each image, and a list of labels.
        labels: the key of the labels.
        classes: labels are below this.
        fix: what to do about a bad file, as the end of a sentence.

    Raises:
        DataError: the file is missing, damaged or something else, or would run code; names it.
    """
    try:
        batch = pickles.read(path.read_bytes())
        images = _images(batch[b"data"])
        return images, _labels(batch[labels.encode()], len(images), classes)
    except Exception as error:  # a damaged pickle raises almost any kind
        raise DataError(f"cannot read {path} ({_reason(error)}): {fix}") from error


def _images(described: Any) -> Tensor:
    pixels = described.bytes_array()
    if pixels.ndim != 2 or pixels.shape[1] != 3 * SIDE * SIDE or not len(pixels):
        raise ValueError(f"its array has the shape {pixels.shape}, not (images, {3 * SIDE * SIDE})")
    return torch.from_numpy(pixels.copy()).view(-1, 3, SIDE, SIDE)


def _labels(values: Any, count: int, classes: int) -> Tensor:
    labels = np.asarray(values)
    if labels.shape != (count,) or labels.dtype.kind != "i":
        raise ValueError(f"it does not hold {count} whole numbers as labels, one for each image")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"its labels run from {labels.min()} to {labels.max()}, not from 0 to {classes - 1}")
    return torch.from_numpy(labels.astype(np.int64))


def _reason(error: Exception) -> str:
    """One line for what went wrong, in words where Python's own say little."""
    match error:
        case OSError(strerror=str(words)):
            return words
        case KeyError():
            return f"it has no {error.args[0]!r}"
        case ValueError() | EOFError() | UnpicklingError():
            return str(error)
    return "it is no batch of CIFAR images"
