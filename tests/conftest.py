"""Fixtures for every test. None of them needs the network or a path of one machine."""

from __future__ import annotations

import hashlib
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tmsgd_bench.data.synthetic import r8
from tmsgd_bench.engine import prefix
from tmsgd_bench.files import write_json, write_yaml
from tmsgd_bench.results import store

FIRST = ("test_launchers.py", "test_run.py", "test_sweep.py")
"""They wait for other processes for minutes: started last, they would be waited for alone."""
LABELS = {"sgd": "SGD", "tmsgd": "TM-SGD", "sgdm": "SGD-M", "tmsgdm": "TM-SGD-M", "adam": "Adam", "apollo": "Apollo"}


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-xdist hand out the files in their order, not those with the most tests first."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in FIRST)


@pytest.fixture(scope="session", autouse=True)
def quick() -> Iterator[None]:
    """Nobody pulls the plug in tests of this process, and where one run waits for another, it looks often."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(prefix, "POLL_SECONDS", 0.05)
        yield


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As a run has it by default: on small networks several threads wait for each other most of the time.

    The more so where several processes test at once.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every download fails, as on a machine without a network."""

    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)


@pytest.fixture(scope="session")
def synthetic_r8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the synthetic R8, to be read only."""
    folder = tmp_path_factory.mktemp("synthetic-r8")
    r8.write(folder)
    return folder


@pytest.fixture(scope="session")
def real_r8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the real R8: $TMSGD_DATA/r8, or unpacked from ../shared/data, where one of them is found."""
    folder = Path(os.environ.get("TMSGD_DATA", "none")) / "r8"
    if folder.is_dir():
        return folder
    pack = Path(__file__).parents[2] / "shared/data/packs/r8.tar.xz"
    if not pack.is_file():
        pytest.skip("needs the real R8: set TMSGD_DATA to the folder of the data sets")
    folder = tmp_path_factory.mktemp("real") / "r8"
    with tarfile.open(pack) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Path]:
    """A function that writes a run folder in the store's layout, and returns it."""
    return _write_run


def _write_run(
    root: Path,
    optimizer: str = "sgd",
    seed: int = 0,
    status: str = "done",
    final: float | None = 90.0,
    **changes: Any,
) -> Path:
    """Write a run by hand.

    Args:
        root: the store.
        status: "done" and "diverged" make a finished run; "failed" and "abandoned" an unfinished one.
        final: the primary metric of a finished run.
        changes: top-level keys of ``config.yaml`` to replace, and ``started`` of ``environment.json``.
    """
    started = changes.pop("started", "2026-01-01T00:00:00+00:00")
    config = _config(optimizer, seed) | changes
    digest = hashlib.sha256(config["setting"].encode()).hexdigest()
    run_id = f"tc-lstm-{optimizer}-seed{seed}-{digest[:10]}"
    finished = status in ("done", "diverged")
    folder = root / run_id if finished else root / ".work" / run_id
    folder.mkdir(parents=True)
    write_yaml(folder / store.CONFIG, config)
    write_json(folder / store.ENVIRONMENT, {"started": started, "commit": "0123abc"})
    if status == "failed":
        write_json(folder / store.FAILURE, {"note": "ValueError: went wrong", "error": "Traceback\nValueError: x\n"})
    if finished:
        _write_outcome(folder, status, final, config["epochs"])
    return folder


def _config(optimizer: str, seed: int) -> dict[str, Any]:
    own: dict[str, Any] = {"name": optimizer, "label": LABELS[optimizer], "lr": 0.01}
    if optimizer.startswith("tmsgd"):
        own["switch_epoch"] = 2
    return {
        "benchmark_version": 1,
        "task": {"name": "tc", "tokens": 32},
        "model": {"name": "lstm"},
        "data": {"kind": "real", "limit": None, "fingerprint": "f"},
        "optimizer": own,
        "epochs": 3,
        "batch_size": 5,
        "schedule": None,
        "seed": seed,
        "protocols": ["table2"],
        "setting": f"setting of {optimizer}",
    }


def _write_outcome(folder: Path, status: str, final: float | None, epochs: int) -> None:
    value = final if status == "done" else None
    best = None if value is None else value + 1.0
    result = {"status": status, "metric": "accuracy", "unit": "%", "direction": "max", "final": value, "best": best}
    write_json(folder / store.RESULT, result | {"best_epoch": 1, "epochs_done": epochs, "note": f"{status} it is"})
    rows = [{"epoch": float(epoch), "loss": 1.0 / (epoch + 1), "accuracy": 80.0 + epoch} for epoch in range(epochs)]
    store.write_history(folder / store.HISTORY, rows)
