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


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> DataOf:
    """Whole synthetic data, to be linked to and never changed."""
    root = tmp_path_factory.mktemp("synthetic")

    def folder_of(name: str) -> Path:
        if not (root / name).exists():
            (root / name).mkdir()
            importlib.import_module(f"{synthetic.__name__}.{name}").write(root / name)
        return root / name

    return folder_of


@pytest.fixture(scope="module")
def synthetic_data(written: DataOf, tmp_path_factory: pytest.TempPathFactory) -> DataOf:
    """Whole synthetic data, to be read only; what the tests of a module keep of them lies beside, apart from others."""
    root = tmp_path_factory.mktemp("data")

    def folder_of(name: str) -> Path:
        if not (root / name).exists():
            (root / name).symlink_to(written(name))
        return root / name

    return folder_of


@pytest.fixture(scope="session")
def tiny_data(written: DataOf, tmp_path_factory: pytest.TempPathFactory) -> DataOf:
    """Synthetic data of a few examples each, to be read only; what is kept of them lies beside."""
    root = tmp_path_factory.mktemp("tiny")

    def folder_of(name: str) -> Path:
        if not (root / name).exists():
            tiny.write(name, written(name), root / name)
        return root / name

    return folder_of
