"""Fast R-CNN on kept features: exactly what it makes of the images themselves, from the disk."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import few_boxes
from tiny import TASKS
from torch import Tensor

import tasks
from tasks.od.fast_rcnn import FastRCNN
from tasks.od.fast_rcnn.selective_search import Search
from tasks.voc import ImageSplit, image_splits
from tmsgd_bench.data import memory
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.task import TaskSettings

KEPT = TASKS["od fast_rcnn, features kept"]


@pytest.fixture(autouse=True)
def few_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "boxes", few_boxes)


def settings(folder: Path, **model: Any) -> TaskSettings:
    made = KEPT.settings(folder)
    return replace(made, model={**made.model, **model})


def make(settings: TaskSettings) -> tuple[FastRCNN, ImageSplit, ImageSplit]:
    """A detector with the same initial weights every time, in evaluation mode; and the images."""
    torch.manual_seed(0)
    made = tasks.build_model(FastRCNN, settings.model, settings=settings)
    made.network.eval()
    return made, *image_splits(settings, "Main", "trainval/test")


def losses(
    made: FastRCNN, part: ImageSplit, numbers: list[int], stream: int = 1
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The losses of a batch, and their gradients."""
    example = made.training_examples(part)
    torch.manual_seed(stream)
    found = made.losses(made.collate([example(number) for number in numbers]))
    trained = [weight for weight in made.network.parameters() if weight.requires_grad]
    return found, list(torch.autograd.grad(torch.stack(list(found.values())).sum(), trained))


@pytest.mark.parametrize("flip", [True, False])
def test_a_batch_of_one_image_costs_the_same_bits(folder: Path, flip: bool) -> None:
    kept, train, _ = make(settings(folder, flip=flip))
    in_loop, _, _ = make(settings(folder, flip=flip, keep_features=False))
    for number in range(len(train)):
        for stream in range(3):  # flipped and not
            ours, theirs = (losses(made, train, [number], stream) for made in (kept, in_loop))
            assert ours[0].keys() == theirs[0].keys()
            assert all(torch.equal(ours[0][name], theirs[0][name]) for name in ours[0])
            assert all(map(torch.equal, ours[1], theirs[1]))


def test_the_same_is_found_in_images(folder: Path) -> None:
    kept, _, test = make(settings(folder))
    in_loop, _, _ = make(settings(folder, keep_features=False))
    ours, theirs = (made.evaluation_examples(test) for made in (kept, in_loop))
    for number in range(len(test)):
        with torch.no_grad():
            outputs = [made._outputs(made.collate([of(number)])) for made, of in ((kept, ours), (in_loop, theirs))]
        assert all(map(torch.equal, *outputs))


def test_images_of_different_sizes_do_not_disturb_each_other(folder: Path) -> None:
    kept, train, _ = make(settings(folder, flip=False))
    example = kept.training_examples(train)
    examples = [example(number) for number in range(len(train))]
    assert len({tuple(each["features"].shape) for each in examples}) > 1
    together = kept._outputs(kept.collate(examples))
    apart = [kept._outputs(kept.collate([each])) for each in examples]
    for number, outputs in enumerate(together):
        torch.testing.assert_close(outputs, torch.cat([each[number] for each in apart]), rtol=1e-5, atol=1e-6)


def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every image whose features are computed."""
    calls: list[int] = []
    features = FastRCNN.__init__.__globals__["Network"].features

    def counted(self: Any, images: Tensor) -> Tensor:
        calls.append(len(images))
        result: Tensor = features(self, images)
        return result

    monkeypatch.setattr("tasks.od.fast_rcnn.network.Network.features", counted)
    return calls


def test_features_are_computed_once_for_runs_that_share_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = computed(monkeypatch)
    made, train, test = make(settings(folder, flip=False))
    made.training_examples(train)
    made.evaluation_examples(test)
    assert calls == [1] * (len(train) + len(test))
    again, train, test = make(settings(folder, flip=False, test_proposals=2))
    again.training_examples(train)
    again.evaluation_examples(test)
    assert len(calls) == len(train) + len(test)


@pytest.mark.parametrize("change", ["weights", "side", "flip"])
def test_features_of_something_else_are_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    made, train, _ = make(settings(folder, flip=False))
    made.training_examples(train)
    calls = computed(monkeypatch)
    changes = {"side": {"short_side": 80}, "flip": {"flip": True}, "weights": {}}[change]
    other, train, _ = make(settings(folder, **{"flip": False, **changes}))
    if change == "weights":
        with torch.no_grad():
            next(other.network.stages.parameters()).mul_(1.5)
    other.training_examples(train)
    assert len(calls) == len(train) * (2 if change == "flip" else 1)


def test_a_damaged_file_is_made_anew_with_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made, train, _ = make(settings(folder))
    before = losses(made, train, [0, 1])
    (path,) = (folder.parent / ".cache").glob("*fast-rcnn-features*.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # the old one is still mapped
    path.write_bytes(content)
    calls = computed(monkeypatch)
    with caplog.at_level(logging.WARNING):
        after = losses(make(settings(folder))[0], train, [0, 1])
    assert path.name in caplog.text and "damaged" in caplog.text
    assert len(calls) == 2 * len(train)
    assert all(map(torch.equal, before[1], after[1]))


def test_features_that_do_not_fit_are_refused_before_any_is_computed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = computed(monkeypatch)
    monkeypatch.setattr(memory, "available", lambda: 1000)
    made, train, _ = make(settings(folder))
    with pytest.raises(ConfigError, match=r"GiB.*model\.keep_features=false"):
        made.training_examples(train)
    assert not calls


def test_the_first_proposals_are_tested(folder: Path) -> None:
    made, _, test = make(settings(folder, test_proposals=2))
    whole, _, _ = make(settings(folder, test_proposals=None))
    few, all_of_them = made.evaluation_examples(test)(0)["boxes"], whole.evaluation_examples(test)(0)["boxes"]
    assert len(few) == 2 < len(all_of_them)
    assert torch.equal(few, all_of_them[:2])


def test_a_scale_of_features_is_one_of_fc6s_weights(folder: Path) -> None:
    """Doubling is exact, and so is undoing it."""
    plain, _, test = make(settings(folder))
    scaled, _, _ = make(settings(folder, feature_scale=2.0))
    batches = [made.collate([made.evaluation_examples(test)(0)]) for made in (plain, scaled)]
    with torch.no_grad():
        expected = plain._outputs(batches[0])
        assert not torch.equal(scaled._outputs(batches[1])[0], expected[0])
        scaled.network.fc6.weight.div_(2.0)
        assert all(map(torch.equal, scaled._outputs(batches[1]), expected))


def test_nothing_is_flipped_if_so_wanted(folder: Path) -> None:
    made, train, _ = make(settings(folder, flip=False, keep_features=False))
    example = made.training_examples(train)
    images = []
    for stream in range(8):
        torch.manual_seed(stream)
        images.append(example(0)["image"])
    assert all(torch.equal(image, images[0]) for image in images)
