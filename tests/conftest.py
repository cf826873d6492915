"""Fixtures for every test. None of them needs the network or a path of one machine."""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tmsgd_bench import identity
from tmsgd_bench.data.synthetic import r8
from tmsgd_bench.engine import prefix
from tmsgd_bench.files import write_json, write_yaml
from tmsgd_bench.results import store
from tmsgd_bench.version import BENCHMARK_VERSION

FIRST = ("test_launchers.py", "test_run.py", "test_sweep.py")
"""They take the longest: started last, they would be waited for alone."""
TESTS = Path(__file__).parent
SLOW = (
    "tasks",
    "scripts",
    "test_launchers.py",
    "test_sweep.py",
    "test_run.py",
    "test_docs.py",
    "test_escaping.py",
    "test_outputs.py",
    "cli/test_verify.py",
    "test_own_task.py",
    "data/test_loading.py",
    "engine/test_monitor.py",
    "engine/test_prefix.py",
    "numerics/test_report.py",
    "optim/test_compile.py",
    "optim/test_curvature.py",
    "optim/test_distributed.py",
    "optim/test_fused_gpu.py",
    "results/test_claims.py",
    "results/test_evidence.py",
    "results/test_html_report.py",
    "results/test_statistics.py",
    "results/test_tuned.py",
)
"""Files and folders whose tests start processes, train, draw or simulate for long; single tests are marked slow."""
LABELS = {"sgd": "SGD", "tmsgd": "TM-SGD", "sgdm": "SGD-M", "tmsgdm": "TM-SGD-M", "adam": "Adam", "apollo": "Apollo"}


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-xdist hand out the files in their order, not those with the most tests first."""
    config.option.loadscopereorder = False
    gc.disable()  # until the tests are collected: all that is imported by then stays
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; some tests send it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if missing := [name for name in SLOW if not (TESTS / name).exists()]:
        raise pytest.UsageError(f"SLOW in tests/conftest.py names {', '.join(missing)}, not there: correct it.")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import the slow files where no slow test is wanted: that takes seconds, too."""
    return True if config.option.markexpr == "not slow" and _is_slow(collection_path) else None


def pytest_collection_finish() -> None:
    """Let the garbage collector look at what the tests make, not again and again at a million imported objects."""
    gc.enable()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def pytest_unconfigure() -> None:
    """Let the interpreter delete at its end what is frozen: some libraries complain of what is left."""
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in FIRST)
    for item in items:
        if _is_slow(item.path):
            item.add_marker(pytest.mark.slow)


def _is_slow(path: Path) -> bool:
    return any(path.is_relative_to(TESTS / name) for name in SLOW)


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


@pytest.fixture(autouse=True)
def own_log_level() -> Iterator[None]:
    """What a test lets through to the log, as run.py does, ends with the test."""
    root = logging.getLogger()
    before = root.level
    yield
    root.setLevel(before)


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
def charts_drawn_once() -> Iterator[None]:
    """Reports draw the figures of the numerical experiments once for the same tables: they take seconds."""
    from tmsgd_bench.results import report

    draw, charts = report._numerics_chart, dict[tuple[str, ...], Any]()

    def draw_once(name: str, tables: dict[str, Any]) -> Any:
        key = (name, *(f"{stem}\n{table.to_csv()}" for stem, table in tables.items()))
        if key not in charts:
            charts[key] = draw(name, tables)
        return charts[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_numerics_chart", draw_once)
        yield


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
    """Write a run by hand, whole and sealed.

    Args:
        root: the store.
        status: "done" and "diverged" make a finished run; "failed" and "abandoned" an unfinished one.
        final: the primary metric of a finished run; None for one that is not finite.
        changes: top-level keys of ``config.yaml`` to replace; ``options`` of the optimizer to add; keys of
            ``result.json`` to replace in ``outcome``, and of ``environment.json`` in ``ran``; ``started`` of the
            latter; and ``extra``, which is called with the folder before it is sealed.
    """
    started = changes.pop("started", "2026-01-01T00:00:00+00:00")
    ran = {"started": started, "commit": "0123abc", **changes.pop("ran", {})}
    outcome, extra = changes.pop("outcome", {}), changes.pop("extra", lambda folder: None)
    options = changes.pop("options", {})
    config = _config(optimizer, seed) | changes
    config["optimizer"] |= options
    run_id = identity.run_id(config)
    finished = status in ("done", "diverged")
    folder = root / run_id if finished else root / ".work" / run_id
    folder.mkdir(parents=True)
    write_yaml(folder / store.CONFIG, config)
    write_json(folder / store.ENVIRONMENT, ran)
    if status == "failed":
        write_json(folder / store.FAILURE, {"note": "ValueError: went wrong", "error": "Traceback\nValueError: x\n"})
    if finished:
        _write_outcome(folder, status, final, config["epochs"], outcome)
        extra(folder)
        store.seal(folder)
    return folder


def _config(optimizer: str, seed: int) -> dict[str, Any]:
    own: dict[str, Any] = {"name": optimizer, "label": LABELS.get(optimizer, optimizer.capitalize()), "lr": 0.01}
    if optimizer.startswith("tmsgd"):
        own["switch_epoch"] = 2
    return {
        "benchmark_version": BENCHMARK_VERSION,
        "task": {"name": "tc", "tokens": 32},
        "model": {"name": "lstm"},
        "data": {"kind": "real", "limit": None, "fingerprint": "f"},
        "optimizer": own,
        "epochs": 3,
        "batch_size": 5,
        "schedule": None,
        "seed": seed,
        "tf32": False,
        "protocols": ["table2"],
    }


def _write_outcome(folder: Path, status: str, final: float | None, epochs: int, changes: dict[str, Any]) -> None:
    """The best epoch is the second, one unit better than the last, which is ``final``."""
    result = {"metric": "accuracy", "unit": "%", "direction": "max", "note": f"{status} it is", **changes}
    last, better = math.nan if final is None else final, 1.0 if result["direction"] == "max" else -1.0
    values = [last - 2.0 * better, last + better, *[last - better] * (epochs - 3), last]
    rows = [
        {"epoch": float(epoch), "loss": 1.0 / (epoch + 1), result["metric"]: value}
        for epoch, value in enumerate(values)
    ]
    store.write_history(folder / store.HISTORY, rows)
    known = status == "done" and final is not None
    primary = {"final": last, "best": last + better, "best_epoch": 1} if known else {"final": None, "best": None}
    write_json(folder / store.RESULT, {"status": status, **result, **primary, "epochs_done": epochs})
