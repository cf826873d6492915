"""What a run says must never cost it: a full log, a reader that has gone."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy import make_spec, task_maker

from tmsgd_bench.engine import progress
from tmsgd_bench.engine.loop import Trainer
from tmsgd_bench.engine.observers import observing


def gone_reader() -> int:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("kind", ["full", "gone", "closed"])
def test_reports_into_a_broken_stream_are_lost_and_nothing_else(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "full" and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    descriptor = os.open("/dev/full", os.O_WRONLY) if kind == "full" else gone_reader()
    with open(descriptor, "w", buffering=1) as broken:  # noqa: PTH123  # a descriptor has no path
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, None if kind == "closed" else broken)
        streams = progress.protect_streams()
        assert progress.protect_streams() == streams
        trainer = Trainer.build(make_spec(epochs=2), task_maker(), torch.device("cpu"))
        bar = progress.BarReporter()
        with observing(trainer, [bar]):
            trainer.fit(2, [bar])
        progress.ConsoleHandler().emit(logging.makeLogRecord({"msg": "a line"}))
        print("a summary", flush=True)
        for stream in streams:
            stream.settle()


def test_work_before_training_says_how_far_it_is_where_no_bar_can_be_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(0, 200, 20))  # each item takes 20 seconds
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with caplog.at_level(logging.INFO):
        assert list(progress.counted("abcde", 5, "features", "image")) == list("abcde")
    assert caplog.messages == ["features: 2 of 5 images, 1 min 00 s left", "features: 4 of 5 images, 20 s left"]


def test_a_sound_stream_gets_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    progress.protect_streams()
    print("a summary")
    progress.ConsoleHandler().emit(logging.makeLogRecord({"msg": "a line"}))
    assert capsys.readouterr() == ("a summary\n", "a line\n")
