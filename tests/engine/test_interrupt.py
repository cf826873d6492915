"""Signals: a run stops at the end of its epoch and loses nothing; what does not train stops at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toy import ToyTask, make_options, make_spec, task_maker

from tmsgd_bench import files, interrupt
from tmsgd_bench.engine.runner import run
from tmsgd_bench.interrupt import Interrupted
from tmsgd_bench.results import store

EPOCHS, SWITCH = 6, 3


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """No signal is ignored: SIGHUP is where the tests run under nohup, and a run leaves it so."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in interrupt.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def signals_at(number: int, epoch: int, step: int, times: int = 1) -> Callable[[int, int], None]:
    """A hook that sends this process a signal at one step, ``times`` times."""

    def hook(now: int, at: int) -> None:
        if (now, at) == (epoch, step):
            for _ in range(times):
                os.kill(os.getpid(), number)

    return hook


def interrupted(root: Path, hook: Callable[[int, int], None], **changes: Any) -> list[int]:
    """Train until a signal ends it; returns the epochs that were begun."""
    begun: list[int] = []

    def on_step(epoch: int, step: int) -> None:
        begun.append(epoch)
        hook(epoch, step)

    options = make_options(root, checkpoint_seconds=1e9, **changes)
    with interrupt.handled(), pytest.raises(Interrupted):
        run(make_spec(), options, task_maker(on_step=on_step))
    return sorted(set(begun))


def finished(root: Path, **changes: Any) -> tuple[list[int], str]:
    """Train to the end; returns the epochs that were trained here, and the digest of the weights."""
    trained: list[int] = []
    run(make_spec(), make_options(root, **changes), task_maker(on_step=lambda epoch, step: trained.append(epoch)))
    result = files.read_json(root / make_spec().run_id / store.RESULT) or {}
    return sorted(set(trained)), result["weights_sha256"]


@pytest.mark.parametrize("number", interrupt.SIGNALS)
@pytest.mark.parametrize("share", [False, True], ids=["alone", "with a trunk"])
@pytest.mark.parametrize("epoch", [0, SWITCH - 1, SWITCH, EPOCHS - 2])
def test_no_epoch_is_trained_twice_after_a_signal(number: int, share: bool, epoch: int, tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole")[1]
    changes = {"share_prefix": share}
    assert interrupted(tmp_path / "torn", signals_at(number, epoch, 1), **changes) == list(range(epoch + 1))
    assert finished(tmp_path / "torn", **changes) == (list(range(epoch + 1, EPOCHS)), whole)


def test_a_signal_in_the_last_epoch_leaves_the_result(tmp_path: Path) -> None:
    with interrupt.handled():
        outcome = run(
            make_spec(), make_options(tmp_path), task_maker(on_step=signals_at(signal.SIGTERM, EPOCHS - 1, 1))
        )
        assert outcome.status == "done"
        with pytest.raises(Interrupted):  # the next job of a sweep
            interrupt.stop_if_asked()


def test_a_signal_while_the_result_is_published_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(task: ToyTask, folder: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)

    monkeypatch.setattr(interrupt, "GRACE_SECONDS", 0.0)
    monkeypatch.setattr(ToyTask, "draw", draw)
    with interrupt.handled():
        assert run(make_spec(), make_options(tmp_path), task_maker()).status == "done"
        assert interrupt.asked()


def test_a_second_signal_stops_at_once_and_spoils_nothing(tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole")[1]
    assert interrupted(tmp_path / "torn", signals_at(signal.SIGINT, 2, 1, times=2)) == [0, 1, 2]
    assert not list((tmp_path / "torn").rglob("checkpoint-*"))
    assert finished(tmp_path / "torn") == (list(range(EPOCHS)), whole)


def test_an_epoch_that_lasts_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "GRACE_SECONDS", 0.05)

    def last(epoch: int, step: int) -> None:
        signals_at(signal.SIGTERM, 1, 0)(epoch, step)
        if (epoch, step) == (1, 1):
            time.sleep(60)
            pytest.fail("it was waited for")

    assert interrupted(tmp_path, last) == [0, 1]


def test_an_error_after_a_signal_is_not_the_runs(tmp_path: Path) -> None:
    """The signal may have killed the processes that make batches."""

    def fails(epoch: int, step: int) -> None:
        signals_at(signal.SIGTERM, 1, 0)(epoch, step)
        if epoch == 1:
            raise RuntimeError("a batch worker was killed")

    interrupted(tmp_path, fails)
    assert not list(tmp_path.rglob(store.FAILURE))


def test_a_signal_stops_what_does_not_train_at_once_after_its_action() -> None:
    happened = []
    with interrupt.handled():
        interrupt.before_end(lambda: happened.append("told"))
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(60)
        assert happened == ["told"] and interrupt.exit_code() == 128 + signal.SIGHUP


def test_ignored_signals_stay_ignored_and_handlers_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    others = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with interrupt.handled():
            os.kill(os.getpid(), signal.SIGHUP)  # a closed terminal, under nohup
            assert not interrupt.asked()
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == others
    finally:
        signal.signal(signal.SIGHUP, before)
