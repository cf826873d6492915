"""RFBNet on kept features: exactly what it makes of the images themselves, from the disk."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from modes import evaluating
from tiny import TASKS
from torch import Tensor

import tasks
from tasks.od import ObjectDetection
from tasks.od.rfbnet import RFBDetector
from tasks.od.rfbnet.network import RFBNet
from tmsgd_bench.data import memory
from tmsgd_bench.errors import ConfigError

KEPT = {"frozen_stages": 5, "keep_features": True, "augment": "none", "head_width": 16}
OPTIONS = {"splits": "trainval/test", "evaluate_every": 1, "precision": "float32", "channels_last": False}
Losses = tuple[dict[str, Tensor], list[Tensor]]


def make(folder: Path, **model: Any) -> ObjectDetection:
    """A task with the same initial weights every time."""
    given = TASKS["od rfbnet"].settings(folder)
    torch.manual_seed(0)
    made = tasks.build("tasks.od.ObjectDetection", replace(given, model={**given.model, **KEPT, **model}), OPTIONS)
    assert isinstance(made, ObjectDetection) and isinstance(made.detector, RFBDetector)
    return made


def losses(task: ObjectDetection) -> list[Losses]:
    """The losses of each batch of an epoch, and their gradients."""
    trained = [weight for weight in task.detector.network.parameters() if weight.requires_grad]
    parts = [task.losses(batch) for batch in task.batches(0)]
    return [(found, list(torch.autograd.grad(found["loss"], trained))) for found in parts]


def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every image whose features are computed."""
    calls: list[int] = []
    features = RFBNet.features

    def counted(self: RFBNet, images: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(len(images))
        return features(self, images)

    monkeypatch.setattr(RFBNet, "features", counted)
    return calls


def test_batches_cost_the_same_bits(folder: Path) -> None:
    ours, theirs = (losses(make(folder, keep_features=kept)) for kept in (True, False))
    assert len(ours) == len(theirs) > 1
    for (kept, gradients), (in_loop, expected) in zip(ours, theirs, strict=True):
        assert kept.keys() == in_loop.keys()
        assert all(torch.equal(kept[name], in_loop[name]) for name in kept)
        assert all(map(torch.equal, gradients, expected))


def test_the_same_is_answered_for_test_images(folder: Path) -> None:
    answers = []
    for kept in (True, False):
        task = make(folder, keep_features=kept)
        with evaluating(task), torch.no_grad():
            examples = [task.evaluation_example(number) for number in range(len(task.test))]
            batch = task.detector.collate(examples)
            answers.append([*task.detector._answers(batch), batch["sizes"]])
    assert all(map(torch.equal, *answers))


def test_features_are_computed_once_for_runs_that_share_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other weights are not used."""
    calls = computed(monkeypatch)
    task = make(folder)
    images = len(task.train) + len(task.test)
    assert calls == [1] * images
    make(folder)
    assert len(calls) == images
    make(folder, width=16)
    assert len(calls) == 2 * images


def test_a_damaged_file_is_made_anew_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = losses(make(folder))
    path = max((folder.parent / ".cache").glob("*rfbnet-features*.pt"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # the old one may still be mapped
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        after = losses(make(folder))
    assert path.name in caplog.text and "damaged" in caplog.text
    assert all(
        torch.equal(one, other)
        for (_, ones), (_, others) in zip(before, after, strict=True)
        for one, other in zip(ones, others, strict=True)
    )


def test_features_that_do_not_fit_are_refused_before_any_is_computed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = computed(monkeypatch)
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(ConfigError, match=r"GiB.*model\.keep_features=false"):
        make(folder)
    assert not calls


def test_frozen_weights_stay_as_they_begin(folder: Path) -> None:
    task = make(folder, keep_features=False)
    before = {name: value.clone() for name, value in task.detector.network.stages.state_dict().items()}
    trained = [weight for weight in task.detector.network.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    task.training_step(next(iter(task.batches(0))), {"detector": optimizer})
    assert all(torch.equal(before[name], value) for name, value in task.detector.network.stages.state_dict().items())
