"""Published weights from which training starts: downloaded once, verified, and read without running code in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor, nn

from tmsgd_bench.data.downloads import download
from tmsgd_bench.data.sources import DataFile
from tmsgd_bench.errors import ConfigError, DataError

Weights = dict[str, Tensor]
OTHERWISE = "use your own file with model.weights=PATH, or start from nothing with model.weights=none"
"""What to do without a model's published weights, as the end of a sentence."""


def published(url: str) -> DataFile:
    """The file of one of torchvision's URLs, whose name ends in the first eight digits of its SHA-256."""
    name = PurePosixPath(url).name
    return DataFile(name=name, url=url, sha256=name.rpartition("-")[2].partition(".")[0])


def fetch(file: DataFile, folder: Path, otherwise: str) -> Path:
    """Download published weights into a folder unless they are there; returns their path.

    Args:
        otherwise: what to do instead, as the end of a sentence.

    Raises:
        DataError: the download fails, or the file is not the published one; the message names file, URL and folder.
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
        DataError: it is missing, or holds other objects, which are not unpickled.
    """
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"model.weights names {path}, which is not there: correct the path.") from error
    except Exception as error:  # torch raises many kinds for a damaged file
        raise DataError(f"{path} holds no weights ({type(error).__name__}): use another file.") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise DataError(f"{path} is no dictionary of tensors, as state_dict() returns one: use another file.")
    return dict(tensors)


def load_into(module: nn.Module, weights: Weights, source: Path, remedy: str = "") -> None:
    """Load weights into a module.

    Args:
        source: their file, for messages.
        remedy: which file would fit, as a clause; empty where a message has none.

    Raises:
        ConfigError: the weights are of another network; the message names a tensor that does not fit.
    """
    expected, advice = module.state_dict(), f": {remedy}" if remedy else ""
    for name in sorted({*expected, *weights}):
        if name not in weights:
            raise ConfigError(f"{source} lacks {name!r}: its weights are of another network than this model{advice}.")
        if name not in expected:
            problem = "besides: its weights are of another network than this model"
            raise ConfigError(f"{source} has {name!r} {problem}{advice}.")
        if weights[name].shape != expected[name].shape:
            shapes = f"{tuple(weights[name].shape)}, not {tuple(expected[name].shape)}"
            raise ConfigError(f"{source}: {name!r} has the shape {shapes}: its weights are of another network{advice}.")
    module.load_state_dict(weights)
