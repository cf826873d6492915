"""The trainer: epochs in one go or several, divergence, and the mode in which figures are drawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_observers import Notes
from toy import ToyTask, make_spec, task_maker

from tmsgd_bench.engine.loop import Trainer


def trainer(**optimizer: Any) -> Trainer:
    """Of a toy run of six epochs."""
    return Trainer.build(make_spec("sgd", **optimizer), task_maker(), torch.device("cpu"))


@pytest.mark.parametrize("stops", [[1, 6], [2, 3, 6]])
def test_training_in_several_goes_is_one_run_with_one_warm_up(stops: list[int]) -> None:
    whole, parts = trainer(), trainer()
    whole.fit(6)
    for until in stops:
        parts.fit(until)
    assert parts.clocks.warm_up_epochs == 1
    for name, weights in whole.weights()["net"].items():
        assert torch.equal(parts.weights()["net"][name], weights)


def test_a_divergence_ends_training_and_its_epoch_is_not_told() -> None:
    notes: list[tuple[Any, ...]] = []
    diverging = trainer(lr=1e30)
    diverging.fit(6, [Notes("a", notes)])
    assert diverging.divergence is not None and diverging.epoch == diverging.divergence.epoch < 6
    assert sum(what == "epoch" for _, what, *_ in notes) == diverging.epoch
    diverging.fit(6)
    assert diverging.epoch == diverging.divergence.epoch


@pytest.mark.parametrize(
    ("discriminator", "generator", "expected"),
    [
        ([1.0, 1.0, math.nan], [1.0, math.inf, math.nan], ("loss_g", 1)),
        ([1.0, math.nan], [1.0, math.nan], ("loss_d", 1)),
        ([1.0, 1.0], [1.0, 1.0], None),
    ],
)
def test_the_loss_that_stops_being_finite_first_is_named(
    discriminator: list[float], generator: list[float], expected: tuple[str, int] | None
) -> None:
    losses = {"loss_d": torch.tensor(discriminator), "loss_g": torch.tensor(generator)}
    found = trainer()._divergence(losses)
    assert (found and (found.loss, found.step)) == expected


def test_figures_are_drawn_in_evaluation_mode_without_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where every epoch was trained by others, so that this process has never evaluated."""
    modes: list[tuple[bool, bool]] = []
    monkeypatch.setattr(ToyTask, "draw", lambda task, _: modes.append((task.model.training, torch.is_grad_enabled())))
    trainer().draw(tmp_path)
    assert modes == [(False, False)]
