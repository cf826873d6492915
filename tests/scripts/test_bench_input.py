"""The measurement of the input path: its stream of epochs has no break, and bad input gets one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tmsgd_bench.task import Task, TaskSettings

STEP = 1.0  # seconds


@pytest.fixture(scope="module")
def bench(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("bench_input")


class Counted(Task):
    """Hands out (epoch, step) of four steps an epoch."""

    def __init__(self, workers: int) -> None:
        super().__init__(TaskSettings(Path(), None, 2, 0, torch.device("cpu"), {}, workers=workers))
        self.train_size, self.given = 8, []  # type: ignore[var-annotated]

    def batches(self, epoch: int) -> Iterator[tuple[int, int]]:
        for step in range(self.steps_per_epoch):
            self.given.append((epoch, step))
            yield epoch, step

    def loss(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def evaluate(self) -> dict[str, float]:
        raise NotImplementedError


@pytest.fixture
def clock(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Now, and how long was rested; it moves only when a test moves it."""
    now = [0.0, 0.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(bench.time, "sleep", lambda spent: now.__setitem__(1, now[1] + spent))
    return now


@pytest.mark.parametrize("workers", [0, 1, 2, 3, 12])
def test_an_epoch_is_timed_in_a_stream_without_a_break_past_what_was_made_ahead(
    workers: int, bench: ModuleType, clock: list[float]
) -> None:
    task, used = Counted(workers), list[tuple[int, int]]()
    stream = bench.Stream(task)

    def use(batches: Iterable[tuple[int, int]]) -> None:
        for batch in batches:
            used.append(batch)
            clock[0] += STEP

    for _ in range(2):
        before = len(task.given)
        used.clear()
        assert stream.epoch_seconds(use) == task.steps_per_epoch * STEP
        ahead = 2 * workers
        assert task.given[-len(used) :] == used
        assert len(task.given) - before - len(used) >= ahead and len(used) >= max(1, 3 * ahead)
        assert clock[1] >= ahead * STEP
        clock[1] = 0.0
    epochs = task.given[-1][0] + 1
    assert task.given == [(epoch, step) for epoch in range(epochs) for step in range(task.steps_per_epoch)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "device=cuda"], "use --device cpu or --device cuda"),
        (["--set", "lr=1", "++device=cpu"], "use --device cpu or --device cuda"),
        (["--rounds", "0"], "must be at least 1"),
        (["--examples", "0"], "must be at least 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    arguments: list[str],
    sentence: str,
    bench: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_input.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        bench.main()
    assert stopped.value.code == 2 and sentence in capsys.readouterr().err


def test_a_misspelt_setting_is_refused_in_a_sentence(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_input.py", "--tasks", "seg", "--set", "epochz=1"])
    assert bench.main() == 2
    assert capsys.readouterr().err == "error: unknown setting 'epochz': did you mean 'epochs'?\n"
