"""Published weights that training begins with: fetched once, verified, and read without running anything in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor, nn

from tmsgd_bench.data.sources import DataFile, download
from tmsgd_bench.errors import ConfigError, DataError

Weights = dict[str, Tensor]
OTHERWISE = "use a file that you have with model.weights=PATH, or start from nothing with model.weights=none"
"""What to do without published weights that a model begins with, as the end of a sentence."""


def published(url: str) -> DataFile:
    """The file behind one of torchvision's addresses; its name ends in the first eight digits of its SHA-256."""
    name = PurePosixPath(url).name
    return DataFile(name=name, url=url, sha256=name.rpartition("-")[2].partition(".")[0])


def fetch(file: DataFile, folder: Path, otherwise: str) -> Path:
    """The path of published weights in a folder; they are downloaded if they are not there.

    Args:
        otherwise: what to do instead, as the end of a sentence.

    Raises:
        DataError: they cannot be had, or are not what was published; names file, address and folder.
    """
    path = folder / file.name
    remedy = f"put {file.url} there yourself as {path}, or {otherwise}"
    if path.exists():
        if problem := file.problem(path):
            raise DataError(f"{problem}: delete it and start again, or {remedy}.")
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make {folder} ({error.strerror}): choose another data.root.") from error
    download(file, path, f"{remedy}.")
    return path


def read(path: Path) -> Weights:
    """The tensors of a file of weights, by name.

    Raises:
        DataError: it is missing, or holds anything else; it is not unpickled then.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"model.weights names {path}, which is not there: correct the path.") from error
    except Exception as error:  # torch raises many kinds for a damaged file
        raise DataError(f"{path} holds no weights ({type(error).__name__}): use another file.") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise DataError(f"{path} is no dictionary of tensors, as state_dict() returns one: use another file.")
    return dict(found)


def load_into(module: nn.Module, weights: Weights, source: Path) -> None:
    """Give a module its weights.

    Raises:
        ConfigError: they are of another network; names a tensor that does not fit.
    """
    wanted = module.state_dict()
    for name in sorted({*wanted, *weights}):
        if name not in weights:
            raise ConfigError(f"{source} lacks {name!r}: its weights are of another network than this model.")
        if name not in wanted:
            raise ConfigError(f"{source} has {name!r} besides: its weights are of another network than this model.")
        if weights[name].shape != wanted[name].shape:
            shapes = f"{tuple(weights[name].shape)}, not {tuple(wanted[name].shape)}"
            raise ConfigError(f"{source}: {name!r} has the shape {shapes}: its weights are of another network.")
    module.load_state_dict(weights)
