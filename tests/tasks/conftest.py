"""The data sets' synthetic data, written once for all tests of the tasks."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from tmsgd_bench.data import synthetic

DataOf = Callable[[str], Path]
"""From a data set's name to its folder."""


def each_once(root: Path, make: Callable[[str, Path], object]) -> DataOf:
    """Folders in a root, each made when it is first asked for."""

    def folder_of(name: str) -> Path:
        if not (root / name).exists():
            make(name, root / name)
        return root / name

    return folder_of


def write(name: str, folder: Path) -> None:
    """Write a data set's synthetic data."""
    folder.mkdir()
    importlib.import_module(f"{synthetic.__name__}.{name}").write(folder)


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> DataOf:
    """Whole synthetic data, to be linked to and never changed."""
    return each_once(tmp_path_factory.mktemp("synthetic"), write)


@pytest.fixture(scope="module")
def synthetic_data(written: DataOf, tmp_path_factory: pytest.TempPathFactory) -> DataOf:
    """Whole synthetic data, to be read only; what the tests of a module keep of them lies beside, apart from others."""
    return each_once(tmp_path_factory.mktemp("data"), lambda name, folder: folder.symlink_to(written(name)))


@pytest.fixture(scope="session")
def tiny_data(written: DataOf, tmp_path_factory: pytest.TempPathFactory) -> DataOf:
    """Synthetic data of a few examples each, to be read only; what is kept of them lies beside."""
    return each_once(tmp_path_factory.mktemp("tiny"), lambda name, folder: tiny.write(name, written(name), folder))


@pytest.fixture
def folder(tiny_data: DataOf, tmp_path: Path) -> Path:
    """A few images of VOC2007 where nothing is kept yet."""
    (tmp_path / "voc2007").symlink_to(tiny_data("voc2007"))
    return tmp_path / "voc2007"
