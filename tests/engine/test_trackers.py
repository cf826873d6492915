"""Live trackers: told what the store holds, in order and once; unable to harm a run."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
from toy import ToyTask, make_options, make_spec, task_maker

from tmsgd_bench import files
from tmsgd_bench.engine.runner import run
from tmsgd_bench.engine.trackers import Row, build
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.results import store
from tmsgd_bench.results.store import leaves


class Notebook:
    """A tracker that remembers what it is told; it breaks where it is asked to."""

    told: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, breaks: str = "") -> None:
        self.breaks = breaks

    def start(self, run_id: str, settings: Mapping[str, Any], resumed_at: int) -> None:
        self._note("start", run_id, settings, resumed_at)

    def epoch(self, epoch: int, row: Row) -> None:
        self._note("epoch", epoch, row)

    def end(self, status: str, final: Row) -> None:
        self._note("end", status, final)

    def _note(self, what: str, *rest: Any) -> None:
        if what == self.breaks:
            raise OSError("the server is gone")
        self.told.append((what, *rest))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Notebook, "told", found)
    monkeypatch.setitem(sys.modules, "notebooks", sys.modules[__name__])
    return found


def options(root: Path, **changes: Any) -> Any:
    return make_options(root, tracker={"_target_": "notebooks:Notebook", **changes.pop("tracker", {})}, **changes)


def epochs(told: list[tuple[Any, ...]]) -> list[int]:
    return [what[1] for what in told if what[0] == "epoch"]


def test_a_tracker_is_told_what_the_history_holds(tmp_path: Path, told: list[tuple[Any, ...]]) -> None:
    spec = make_spec("tmsgd")
    run(spec, options(tmp_path), task_maker())
    history = pd.read_parquet(tmp_path / spec.run_id / store.HISTORY)
    (_, run_id, settings, resumed_at), *rows, (_, status, final) = told
    assert (run_id, settings["seed"], resumed_at, status) == (spec.run_id, spec.seed, 0, "done")
    assert [{"epoch": epoch, **row} for _, epoch, row in rows] == history.to_dict("records")
    assert final == history.iloc[-1][["error", "score"]].to_dict()


def test_a_resumed_run_tells_the_rest(tmp_path: Path, told: list[tuple[Any, ...]]) -> None:
    def stop(epoch: int, step: int) -> None:
        if (epoch, step) == (3, 1):
            raise KeyboardInterrupt

    spec = make_spec("tmsgd")
    with pytest.raises(KeyboardInterrupt):
        run(spec, options(tmp_path), task_maker(on_step=stop))
    assert (epochs(told), told[-1]) == ([0, 1, 2], ("end", "interrupted", {}))
    told.clear()
    run(spec, options(tmp_path), task_maker())
    assert (told[0][3], epochs(told), told[-1][1]) == (3, [3, 4, 5], "done")


def test_epochs_from_a_trunk_are_told_like_any_other(tmp_path: Path, told: list[tuple[Any, ...]]) -> None:
    for spec in (make_spec("sgd"), make_spec("tmsgd", switch_epoch=4), make_spec("tmsgd", switch_epoch=6)):
        told.clear()
        run(spec, options(tmp_path, share_prefix=True, keep_trunks=True), task_maker())
        assert epochs(told) == list(range(6))


def test_a_divergence_and_a_failure_are_told(tmp_path: Path, told: list[tuple[Any, ...]]) -> None:
    run(make_spec("sgd", lr=1e30), options(tmp_path), task_maker())
    assert told[-1][:2] == ("end", "diverged")

    def fail(epoch: int, step: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(make_spec("sgd"), options(tmp_path), task_maker(on_step=fail))
    assert told[-1] == ("end", "failed", {})


@pytest.mark.parametrize("moment", ["start", "epoch", "end"])
def test_a_tracker_that_breaks_costs_a_warning_and_nothing_else(
    moment: str, tmp_path: Path, told: list[tuple[Any, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    spec = make_spec("tmsgd")
    run(spec, make_options(tmp_path / "without"), task_maker())
    with caplog.at_level(logging.WARNING):
        run(spec, options(tmp_path / "with", tracker={"breaks": moment}), task_maker())
    assert caplog.text.count("the server is gone") == 1
    without, with_it = (files.read_json(tmp_path / name / spec.run_id / store.RESULT) for name in ("without", "with"))
    assert without and with_it and without["weights_sha256"] == with_it["weights_sha256"]
    assert "end" not in [what[0] for what in told]


def test_without_a_tracker_nothing_is_built() -> None:
    assert build(None) is build({"_target_": None}) is None


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"_target_": "tmsgd_bench.engine.trackers.Abacus"}, "Abacus"),
        ({"_target_": "abacus.Tracker"}, "package abacus"),
        ({"_target_": "notebooks:Notebook", "colour": "red"}, "colour"),
    ],
)
def test_a_tracker_that_cannot_be_had_is_refused_before_training(
    values: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "notebooks", sys.modules[__name__])

    def never(*_: Any) -> ToyTask:
        raise AssertionError("the task was built")

    with pytest.raises(ConfigError, match=told):
        run(make_spec("sgd"), make_options(tmp_path, tracker=values), never)


@pytest.mark.parametrize("package", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_told_with_its_extra(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, dict[str, Any]] = {
        "tensorboard": {"_target_": "tmsgd_bench.engine.trackers.TensorBoard", "folder": str(tmp_path)},
        "mlflow": {"_target_": "tmsgd_bench.engine.trackers.MLflow", "uri": None, "experiment": "e"},
        "wandb": {"_target_": "tmsgd_bench.engine.trackers.WandB", "project": "p", "mode": "offline", "folder": "f"},
    }
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ConfigError, match=rf"pip install -e '\.\[{package}\]'"):
        build(values[package])


def test_tensorboard_shows_every_epoch_once_also_after_a_kill(tmp_path: Path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra tensorboard"
    )
    tracker = {"_target_": "tmsgd_bench.engine.trackers.TensorBoard", "folder": str(tmp_path / "events")}

    def stop(epoch: int, step: int) -> None:
        if (epoch, step) == (4, 1):
            raise KeyboardInterrupt

    spec = make_spec("tmsgd")
    with pytest.raises(KeyboardInterrupt):
        run(spec, make_options(tmp_path, tracker=tracker), task_maker(on_step=stop))
    run(spec, make_options(tmp_path, tracker=tracker), task_maker())
    events = reader.EventAccumulator(str(tmp_path / "events" / spec.run_id)).Reload()
    assert [event.step for event in events.Scalars("error")] == list(range(6))


def test_flat_settings_have_dots_between_their_keys() -> None:
    assert leaves({"a": {"b": {"c": 1}, "d": 2}, "e": None}) == {"a.b.c": 1, "a.d": 2, "e": None}
