"""Observers: what they are told, in which order, and that those that have started end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toy import STEPS, make_spec, task_maker

from tmsgd_bench.engine.loop import LossRecord, Trainer
from tmsgd_bench.engine.observers import Observer, Row, observing


class Notes(Observer):
    """Writes down what it is told; breaks where it is asked to."""

    def __init__(self, name: str, notes: list[tuple[Any, ...]], breaks: str = "") -> None:
        self.name, self.notes, self.breaks = name, notes, breaks

    def start(self, trainer: Trainer) -> None:
        self._note("start", trainer.epoch)

    def step(self, trainer: Trainer, losses: LossRecord) -> None:
        self._note("step", trainer.epoch, len(losses.all()["loss"]))

    def epoch(self, trainer: Trainer, row: Row) -> None:
        self._note("epoch", trainer.epoch, dict(row))
        row[self.name] = 1.0

    def end(self, trainer: Trainer, error: BaseException | None) -> None:
        self._note("end", type(error))

    def _note(self, what: str, *rest: Any) -> None:
        if what == self.breaks:
            raise ZeroDivisionError
        self.notes.append((self.name, what, *rest))


def trained(*observers: Observer, until: int = 6, **optimizer: Any) -> Trainer:
    """A toy run of six epochs."""
    trainer = Trainer.build(make_spec("sgd", **optimizer), task_maker(), torch.device("cpu"))
    with observing(trainer, observers):
        trainer.fit(until, observers)
    return trainer


def test_every_step_and_epoch_is_told_between_start_and_end() -> None:
    notes: list[tuple[Any, ...]] = []
    trainer = trained(Notes("a", notes), until=2)
    told = [note[1:3] for note in notes]
    steps = [[("step", epoch)] * STEPS + [("epoch", epoch + 1)] for epoch in range(2)]
    assert told == [("start", 0), *steps[0], *steps[1], ("end", type(None))]
    assert [note[3] for note in notes if note[1] == "step"] == [*range(1, STEPS + 1)] * 2
    rows = [{**note[3], "a": 1.0} for note in notes if note[1] == "epoch"]
    assert rows == trainer.history


def test_a_row_holds_what_earlier_observers_added_to_it() -> None:
    notes: list[tuple[Any, ...]] = []
    trainer = trained(Notes("a", notes), Notes("b", notes), until=1)
    first, second = (note[3] for note in notes if note[1] == "epoch")
    assert "a" not in first and second["a"] == 1.0 and "b" not in second
    assert trainer.history[0].items() >= {"a": 1.0, "b": 1.0}.items()


@pytest.mark.parametrize(
    ("breaks", "ended"), [("start", ["a"]), ("step", ["b", "a"]), ("epoch", ["b", "a"]), ("end", ["a"])]
)
def test_those_that_have_started_end_last_first_with_what_went_wrong(breaks: str, ended: list[str]) -> None:
    notes: list[tuple[Any, ...]] = []
    with pytest.raises(ZeroDivisionError):
        trained(Notes("a", notes), Notes("b", notes, breaks), until=1)
    assert [note[0] for note in notes if note[1] == "end"] == ended
    assert {note[2] for note in notes if note[1] == "end"} == {ZeroDivisionError}
