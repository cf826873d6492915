"""The heartbeat of a run in training: who, since when and how far, until training ends."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import make_spec, task_maker

from tmsgd_bench.engine import signs_of_life
from tmsgd_bench.engine.loop import Trainer
from tmsgd_bench.engine.observers import observing
from tmsgd_bench.engine.signs_of_life import Heartbeat
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import heartbeat


@pytest.fixture
def trainer() -> Trainer:
    return Trainer.build(make_spec(epochs=6), task_maker(), torch.device("cpu"))


def test_it_tells_who_when_and_how_far_until_training_ends(tmp_path: Path, trainer: Trainer) -> None:
    """A heartbeat that stayed would make another machine wait for a process that is no more."""
    before = time.time()
    trainer.fit(2)
    with observing(trainer, [Heartbeat(tmp_path)]):
        while not (beat := heartbeat.read(tmp_path)):
            time.sleep(0.005)
    assert (beat["pid"], beat["epoch"], beat["epochs"], beat["trained"]) == (os.getpid(), 2, 6, 2)
    assert before <= beat["started"] <= beat["time"] <= time.time()
    assert list(tmp_path.iterdir()) == []


def test_it_goes_on_until_the_end_and_survives_a_full_disk(
    tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "SECONDS", 0.001)
    written: list[int] = []

    def write(path: Path, values: dict[str, Any]) -> None:
        written.append(values["epoch"])
        trainer.epoch += 1
        raise StoreError("full")

    monkeypatch.setattr(signs_of_life, "write_json", write)
    heart = Heartbeat(tmp_path)
    with observing(trainer, [heart]):
        while len(written) < 3:
            time.sleep(0.001)
    assert not heart.thread.is_alive()
    assert written[:3] == [0, 1, 2]
