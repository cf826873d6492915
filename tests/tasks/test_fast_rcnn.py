"""Fast R-CNN: boxes, regions, proposals and where they are kept, the network, its losses, and what it finds."""

from __future__ import annotations

import io
import json
import logging
import math
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from networks import few_boxes
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import box_iou, roi_pool

import tasks
from tasks.compute import IMAGENET_MEAN, IMAGENET_STD
from tasks.od import vgg
from tasks.od.detector import Batch, DetectedBoxes
from tasks.od.fast_rcnn import FastRCNN, detector, imported, proposals, regions, selective_search
from tasks.od.fast_rcnn import boxes as geometry
from tasks.od.fast_rcnn.network import Network, region_maxima
from tasks.od.fast_rcnn.regions import Source
from tasks.od.fast_rcnn.sampling import FOREGROUND, REGIONS, UNUSED, Sample, sample
from tasks.od.fast_rcnn.selective_search import Kept, Search, mixed
from tasks.od.options import FAST_RCNN
from tasks.voc import SPLITS, ImageSplit, image_splits
from tmsgd_bench.data import sealed
from tmsgd_bench.data.catalog import Dataset
from tmsgd_bench.data.kept import KEPT
from tmsgd_bench.data.synthetic import voc2007
from tmsgd_bench.data.texts import FOLDER
from tmsgd_bench.engine import compose
from tmsgd_bench.errors import BenchError, ConfigError, DataError, StoreError
from tmsgd_bench.task import TaskSettings
from tmsgd_bench.voc import Objects

ROOT = Path(__file__).resolve().parents[2]
PROPOSALS: dict[str, Any] = {
    "kind": "selective_search",
    "mode": "fast",
    "base_k": 150,
    "increment_k": 150,
    "sigma": 0.8,
    "min_side": 0,
    "limit": 2000,
}
TARGET = "tasks.od.task.build"
MODEL: dict[str, Any] = {
    "detector": "fast_rcnn",
    "width": 2,
    "weights": "none",
    "frozen_stages": 2,
    "hidden": None,
    "feature_scale": 1.0,
    "keep_features": False,
    "flip": True,
    "short_side": 64,
    "long_side": 1000,
    "test_proposals": None,
    "proposals": PROPOSALS,
}
IMAGES = 6


@pytest.fixture(scope="module")
def stand_in(synthetic_data: Callable[[str], Path]) -> Path:
    """A folder with the stand-in, whose proposals are kept beside it as they are computed."""
    return synthetic_data("voc2007")


@pytest.fixture
def fresh(stand_in: Path, tmp_path: Path) -> Path:
    """The stand-in where nothing is kept yet."""
    (tmp_path / "voc2007").symlink_to(stand_in)
    return tmp_path / "voc2007"


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each image in which this process searches; five boxes are found quickly in each."""
    calls: list[int] = []

    def boxes(self: Search, photo: Tensor) -> np.ndarray:
        calls.append(1)
        return few_boxes(self, photo)

    monkeypatch.setattr(Search, "boxes", boxes)
    return calls


def settings(folder: Path, model: dict[str, Any] | None = None, **changes: Any) -> TaskSettings:
    """Those of a small run; ``changes`` replaces some."""
    small = TaskSettings(
        data_folder=folder,
        data_limit=IMAGES,
        batch_size=2,
        seed=0,
        device=torch.device("cpu"),
        model={"_target_": TARGET, **MODEL, **(model or {})},
        fingerprint="stand-in",
        weights_folder=folder.parent / "weights",
    )
    return replace(small, **changes)


def train_part(folder: Path, **changes: Any) -> ImageSplit:
    return image_splits(settings(folder, **changes), "Main", "train/val")[0]


def make(folder: Path, model: dict[str, Any] | None = None, **changes: Any) -> FastRCNN:
    torch.manual_seed(0)
    small = settings(folder, model, **changes)
    return tasks.build_model(FastRCNN, small.model, settings=small)


def source(**changes: Any) -> Source:
    return Source.of(PROPOSALS | changes)


def random_boxes(count: int, seed: int, extent: float = 100.0) -> Tensor:
    """float32, (count, 4), of at least one pixel each way."""
    stream = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=stream) * (extent - 20.0)
    return torch.cat([corners, corners + 1.0 + 19.0 * torch.rand(count, 2, generator=stream)], dim=1)


def objects(boxes: Sequence[Sequence[float]], labels: Sequence[int], difficult: Sequence[bool] = ()) -> Objects:
    marked = torch.tensor(list(difficult) or [False] * len(labels), dtype=torch.bool)
    return Objects(torch.tensor(boxes).float().view(-1, 4), torch.tensor(labels, dtype=torch.int64), marked)


# --- boxes ---------------------------------------------------------------------------------------------------------


def test_deltas_are_those_of_the_paper() -> None:
    """Moved by half a width and half a height, and stretched by e and 1/e."""
    region, box = (
        torch.tensor([[0.0, 0.0, 10.0, 20.0]]),
        torch.tensor([[10.0 - 5 * math.e, 20 - 10 / math.e, 0.0, 0.0]]),
    )
    box[:, 2:] = torch.tensor([10.0 + 5 * math.e, 20 + 10 / math.e])
    assert geometry.encode(box, region)[0].tolist() == pytest.approx([5.0, 5.0, 5.0, -5.0], abs=1e-5)


@given(st.integers(0, 10_000))
@hypothesis_settings(max_examples=25, deadline=None)
def test_decoding_undoes_encoding(seed: int) -> None:
    truth, own = random_boxes(50, seed), random_boxes(50, seed + 1)
    deltas = geometry.encode(truth, own)
    assert torch.allclose(geometry.decode(deltas, own), truth, atol=1e-3)
    of_classes = geometry.decode(deltas[:, None].repeat(1, 3, 1), own)
    assert torch.allclose(of_classes, truth[:, None].expand(-1, 3, -1), atol=1e-3)


def test_no_output_makes_a_box_overflow() -> None:
    huge = geometry.decode(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0.0, 16.0, 16.0]]))
    assert huge.isfinite().all()
    assert (huge[:, 2:] - huge[:, :2]).tolist() == [pytest.approx([1000.0, 1000.0])]


def test_boxes_are_cut_off_at_their_own_image() -> None:
    own = torch.tensor([[-5.0, -5.0, 50.0, 50.0], [-5.0, -5.0, 50.0, 50.0]])
    cut = geometry.clip(own, torch.tensor([[20, 30], [40, 10]]))
    assert cut.tolist() == [[0.0, 0.0, 30.0, 20.0], [0.0, 0.0, 10.0, 40.0]]
    assert torch.equal(geometry.clip(own[:, None], torch.tensor([[20, 30], [40, 10]]))[:, 0], cut)


def test_a_mirrored_box_lies_on_the_same_pixels() -> None:
    image = torch.arange(60).view(1, 5, 12)
    for box in ([0, 0, 1, 1], [3, 1, 7, 4], [11, 4, 12, 5]):
        x1, y1, x2, y2 = (int(value) for value in geometry.mirror(torch.tensor([box]).float(), 12)[0])
        assert torch.equal(image.flip(2)[:, y1:y2, x1:x2].flip(2), image[:, box[1] : box[3], box[0] : box[2]])


# --- which regions are trained on ----------------------------------------------------------------------------------


def checked(drawn: Sample, own: Tensor, truth: Objects) -> tuple[int, int]:
    """How many are foreground and background, after a check of everything that each must be."""
    hits, misses = int((drawn.labels > 0).sum()), int((drawn.labels == 0).sum())
    assert drawn.boxes.shape == (REGIONS, 4) and drawn.targets.shape == (REGIONS, 4) and len(drawn.labels) == REGIONS
    assert (drawn.labels[:hits] > 0).all() and (drawn.labels[hits + misses :] == UNUSED).all()
    assert (drawn.targets[hits:] == 0).all()
    used = drawn.boxes[: hits + misses]
    pool = torch.cat([own, truth.boxes[~truth.difficult]])
    assert len(used.unique(dim=0)) == len(used), "without replacement"
    assert (used[:, None] == pool).all(dim=2).any(dim=1).all()
    usable = ~truth.difficult
    overlaps = box_iou(used, truth.boxes[usable]) if usable.any() else torch.zeros(len(used), 1)
    assert (overlaps[:hits].amax(dim=1) >= 0.5).all() and (overlaps[hits:].amax(dim=1) < 0.5).all()
    if hits:
        owner = overlaps[:hits].argmax(dim=1)
        assert torch.equal(drawn.labels[:hits], truth.labels[usable][owner] + 1)
        meant = geometry.decode(drawn.targets[:hits], used[:hits])
        assert torch.allclose(meant, truth.boxes[usable][owner], atol=1e-3)
    return hits, misses


@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0, 3, 40, 400, 2000]))
@hypothesis_settings(max_examples=40, deadline=None)
def test_regions_are_drawn_by_the_papers_rules(seed: int, count: int, proposed: int) -> None:
    truth = objects(random_boxes(count, seed).tolist(), list(range(count)), [number == 3 for number in range(count)])
    own = torch.cat([random_boxes(proposed, seed + 1), truth.boxes.repeat(proposed // 20, 1)])
    own = (own + torch.rand(own.shape, generator=torch.Generator().manual_seed(seed))).unique(dim=0)
    torch.manual_seed(seed)
    hits, misses = checked(sample(own, truth), own, truth)
    best = box_iou(torch.cat([truth.boxes[~truth.difficult], own]), truth.boxes[~truth.difficult]).amax(dim=1)
    assert hits == min(FOREGROUND, int((best >= 0.5).sum()))
    hard, below = int(((best >= 0.1) & (best < 0.5)).sum()), int((best < 0.5).sum())
    assert misses == min(REGIONS - hits, hard or below)


def test_background_overlaps_an_object_where_there_is_such() -> None:
    truth = objects([[0, 0, 10, 10]], [4])
    own = torch.cat([torch.tensor([[0.0, 0.0, 10.0, 30.0]]), random_boxes(500, 0) + 200.0])
    drawn = sample(own, truth)
    assert drawn.labels[:3].tolist() == [5, 0, UNUSED]
    assert drawn.boxes[1].tolist() == [0.0, 0.0, 10.0, 30.0]


@pytest.mark.parametrize(("box", "label"), [([0, 0, 10, 20], 8), ([0, 0, 10, 20.001], 0), ([0, 0, 10, 100], 0)])
def test_the_borders_of_foreground_and_background(box: list[float], label: int) -> None:
    """An IoU of exactly one half is foreground, one of exactly a tenth is background."""
    drawn = sample(torch.tensor([box]).float(), objects([[0, 0, 10, 10]], [7]))
    assert drawn.labels[(drawn.boxes == torch.tensor(box)).all(dim=1)].tolist() == [label]


def test_an_image_without_objects_is_background_all_over() -> None:
    own = random_boxes(100, 0)
    for truth in (objects([], []), objects([[0, 0, 50, 50]], [1], [True])):
        assert checked(sample(own, truth), own, truth) == (0, REGIONS)


def test_an_image_without_anything_has_no_regions() -> None:
    drawn = sample(torch.zeros(0, 4), objects([], []))
    assert (drawn.labels == UNUSED).all() and (drawn.targets == 0).all()


def test_an_object_of_one_pixel_is_found_by_its_own_box() -> None:
    own = random_boxes(50, 0) + 40.0
    drawn = sample(own, objects([[3, 4, 4, 5]], [19]))
    assert drawn.labels[0] == 20 and drawn.boxes[0].tolist() == [3.0, 4.0, 4.0, 5.0]
    assert (drawn.targets == 0).all()
    assert drawn.targets.isfinite().all()


def test_the_same_stream_draws_the_same_regions_and_another_others() -> None:
    own, truth = random_boxes(1000, 0), objects(random_boxes(3, 5).tolist(), [0, 1, 2])
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(sample(own, truth).boxes)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


# --- the network ---------------------------------------------------------------------------------------------------


def slow_maxima(features: np.ndarray, box: np.ndarray) -> np.ndarray:
    """RoI max-pooling of one region as Girshick's text and Caffe's layer define it, cell by cell."""
    x1, y1, x2, y2 = (math.floor(value / 16.0 + 0.5) for value in (box[0], box[1], box[2] - 1, box[3] - 1))
    channels, rows, columns = features.shape
    height, width = max(y2 - y1 + 1, 1) / 7.0, max(x2 - x1 + 1, 1) / 7.0
    found = np.zeros((channels, 7, 7), np.float32)
    for row in range(7):
        for column in range(7):
            top, bottom = math.floor(row * height) + y1, math.ceil((row + 1) * height) + y1
            left, right = math.floor(column * width) + x1, math.ceil((column + 1) * width) + x1
            part = features[:, max(top, 0) : min(bottom, rows), max(left, 0) : min(right, columns)]
            found[:, row, column] = part.max(axis=(1, 2)) if part.size else 0.0
    return found


def some_regions() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(3)
    corners = torch.randint(0, 300, (40, 2)).float()
    own = torch.cat([corners, corners + torch.randint(1, 200, (40, 2))], dim=1)
    own[0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    own[1] = torch.tensor([400.0, 400.0, 500.0, 500.0])  # beyond the features
    return torch.randn(2, 3, 19, 23), own, torch.arange(40) % 2


def test_region_maxima_agree_with_a_slow_reference() -> None:
    features, own, owners = some_regions()
    found = region_maxima(features, own, owners)
    for number in range(len(own)):
        expected = slow_maxima(features[owners[number]].numpy(), own[number].numpy())
        np.testing.assert_array_equal(found[number].numpy(), expected)
    assert (found[1] == 0).all()


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_region_maxima_are_those_of_roi_pool_with_its_gradient(memory: torch.memory_format) -> None:
    features, own, owners = some_regions()
    rois = torch.cat([owners[:, None].float(), own - torch.tensor([0, 0, 1, 1])], dim=1)
    ours, theirs = (features.clone().to(memory_format=memory).requires_grad_() for _ in range(2))
    found, expected = region_maxima(ours, own, owners), roi_pool(theirs, rois, 7, 1 / 16)
    assert torch.equal(found, expected)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)  # type: ignore[arg-type]


def test_region_maxima_of_coarser_numbers_are_their_own() -> None:
    """Boxes stay in single precision."""
    features, own, owners = some_regions()
    coarse = features.bfloat16()
    found = region_maxima(coarse, own, owners)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.float(), region_maxima(coarse.float(), own, owners))


def test_the_loss_can_be_differentiated_twice() -> None:
    """So that its curvature can be measured; torchvision's own roi_pool cannot be."""
    features, own, owners = some_regions()
    small = features[:, :1, :6, :6].double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: region_maxima(x, own[:6].double(), owners[:6]) ** 2, small)


def test_the_network_has_as_many_weights_as_the_paper_s() -> None:
    with torch.device("meta"):
        whole = Network(64, 2)
    convolutions = sum(
        9 * inputs * outputs + outputs
        for inputs, outputs in zip(
            (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512),
            (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
            strict=True,
        )
    )
    hidden = (512 * 49 + 1) * 4096 + 4097 * 4096
    assert sum(weight.numel() for weight in whole.parameters()) == convolutions + hidden + 4097 * 21 + 4097 * 84
    assert sum(weight.numel() for weight in whole.parameters()) == 134_690_729
    assert sum(weight.numel() for weight in whole.parameters() if not weight.requires_grad) == 260_160


def test_the_last_layers_begin_as_the_paper_says_and_hidden_ones_keep_the_signal() -> None:
    torch.manual_seed(0)
    network = Network(8, 2)
    hidden = [(layer, math.sqrt(2.0 / layer.in_features)) for layer in (network.fc6, network.fc7)]  # He et al. 2015
    for layer, spread in (*hidden, (network.classes, 0.01), (network.boxes, 0.001)):
        assert layer.weight.std().item() == pytest.approx(spread, rel=0.05)
        assert abs(layer.weight.mean().item()) < spread / 20
        assert (layer.bias == 0).all()


@pytest.mark.parametrize(("pixels", "cells"), [(600, 38), (800, 50), (16, 1), (17, 2), (1, 1), (1000, 63)])
def test_sixteen_pixels_become_a_cell_rounded_up(pixels: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Size] = []
    network = Network(1, 0)
    network.stages[4].register_forward_hook(lambda _, __, output: seen.append(output.shape))
    with torch.no_grad():
        network(torch.zeros(1, 3, pixels, 20), torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([0]))
    assert seen == [(1, 8, cells, 2)]


def published_of(network: Network) -> dict[str, Tensor]:
    """Random weights of a network's shapes, under torchvision's names."""
    numbers = iter([0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28])
    found = {}
    for stage in network.stages:
        for layer in stage.children():
            if isinstance(layer, nn.Conv2d):
                number = next(numbers)
                found |= {
                    f"features.{number}.{part}": torch.randn_like(value) for part, value in layer.state_dict().items()
                }
    for own, name in vgg.HIDDEN.items():
        found |= {name + part: torch.randn_like(value) for part, value in getattr(network, own).state_dict().items()}
    return found | {"classifier.6.weight": torch.zeros(1000, 3), "classifier.6.bias": torch.zeros(1000)}


def test_published_weights_start_convolutions_and_hidden_layers() -> None:
    from torchvision.models import vgg16

    torch.manual_seed(0)
    network = Network(64 // 64, 2)
    weights = published_of(network)
    with torch.device("meta"):
        names = vgg16().state_dict().keys()
    assert weights.keys() == names
    before = network.boxes.weight.clone()
    network.load_published(weights, Path("vgg16.pth"))
    assert torch.equal(network.fc6.weight, weights["classifier.0.weight"])
    assert torch.equal(network.fc7.bias, weights["classifier.3.bias"])
    assert torch.equal(network.stages[4][4].weight, weights["features.28.weight"])  # type: ignore[index]
    assert torch.equal(network.boxes.weight, before)


@pytest.mark.parametrize("lost", ["classifier.0.bias", "classifier.3.weight", "features.28.weight"])
def test_weights_of_another_network_are_refused(lost: str) -> None:
    network = Network(1, 2)
    weights = published_of(network)
    del weights[lost]
    with pytest.raises(ConfigError, match=rf"^vgg16\.pth .*'{re.escape(lost)}'"):
        network.load_published(weights, Path("vgg16.pth"))


def convolutions_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name.startswith("features.")}


@pytest.mark.parametrize("hidden", [None, 12])
def test_convolutions_alone_leave_the_hidden_layers_as_the_seed_makes_them(hidden: int | None) -> None:
    torch.manual_seed(0)
    network = Network(1, 5, hidden)
    before = {name: value.clone() for name, value in network.state_dict().items() if not name.startswith("stages.")}
    weights = published_of(network)
    network.load_published(convolutions_of(weights), Path("vgg16.pth"))
    assert torch.equal(network.stages[4][4].weight, weights["features.28.weight"])  # type: ignore[index]
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_hidden_layers_of_a_chosen_width_are_not_the_published_ones() -> None:
    torch.manual_seed(0)
    network = Network(1, 5, 64)  # as wide as the published ones of this width, but chosen
    before = network.fc6.weight.clone()
    network.load_published(published_of(network), Path("vgg16.pth"))
    assert torch.equal(network.fc6.weight, before)


def test_a_part_of_the_classifier_is_refused_whatever_its_width() -> None:
    network = Network(1, 5, 64)
    weights = convolutions_of(published_of(network)) | {"classifier.6.bias": torch.zeros(1000)}
    with pytest.raises(ConfigError, match=r"vgg16\.pth .*'classifier\.0\.weight'"):
        network.load_published(weights, Path("vgg16.pth"))


# --- examples, losses, what is found -------------------------------------------------------------------------------


class Answers(nn.Module):
    """A network that says what it is told to, whatever it sees."""

    def __init__(self, logits: Tensor, deltas: Tensor) -> None:
        super().__init__()
        self.logits, self.deltas = nn.Parameter(logits), nn.Parameter(deltas)

    def forward(self, images: Tensor, boxes: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits, self.deltas


def answering(folder: Path, logits: Tensor, deltas: Tensor) -> FastRCNN:
    made = make(folder)
    made.network = Answers(logits, deltas)  # type: ignore[assignment]
    return made


def batch_of(labels: Tensor, targets: Tensor) -> Batch:
    count = len(labels)
    return {
        "images": torch.zeros(1, 3, 16, 16, dtype=torch.uint8),
        "sizes": torch.tensor([[16, 16]]),
        "boxes": torch.zeros(count, 4),
        "owners": torch.zeros(count, dtype=torch.int64),
        "labels": labels,
        "targets": targets,
    }


def test_the_losses_are_those_of_the_paper(stand_in: Path) -> None:
    """Against plain numpy in double precision; unused regions count nowhere."""
    rng = np.random.default_rng(0)
    labels = np.array([3, 20, 0, 0, 1, -1, -1])
    logits, deltas = rng.normal(0, 2, (7, 21)), rng.normal(0, 2, (7, 21, 4))
    targets = rng.normal(0, 1, (7, 4))
    tensors = [torch.from_numpy(values).float() for values in (logits, deltas, targets)]
    losses = answering(stand_in, *tensors[:2]).losses(batch_of(torch.from_numpy(labels), tensors[2]))
    entropy = [np.log(np.exp(logits[row]).sum()) - logits[row, labels[row]] for row in range(5)]
    away = [np.abs(deltas[row, labels[row]] - targets[row]) for row in range(5) if labels[row] > 0]
    smooth = [np.where(part < 1, part**2 / 2, part - 0.5).sum() for part in away]
    assert losses["loss_classes"].item() == pytest.approx(np.sum(entropy) / 5, rel=1e-5)
    assert losses["loss_boxes"].item() == pytest.approx(np.sum(smooth) / 5, rel=1e-5)


def test_a_batch_without_regions_costs_nothing(stand_in: Path) -> None:
    made = answering(stand_in, torch.randn(4, 21), torch.randn(4, 21, 4))
    losses = made.losses(batch_of(torch.full((4,), UNUSED), torch.zeros(4, 4)))
    total = losses["loss_classes"] + losses["loss_boxes"]
    total.backward()
    assert total.item() == 0.0
    assert all((weight.grad == 0).all() for weight in made.network.parameters())


def examples(made: FastRCNN, part: ImageSplit, numbers: Sequence[int]) -> list[dict[str, Tensor]]:
    torch.manual_seed(1)
    return [made.training_examples(part)(number) for number in numbers]


def test_a_step_changes_all_but_the_frozen_stages(stand_in: Path) -> None:
    made = make(stand_in)
    batch = made.collate(examples(made, train_part(stand_in), [0, 1, 2]))
    before = {name: value.clone() for name, value in made.network.state_dict().items()}
    optimizer = torch.optim.SGD(made.network.parameters(), lr=1.0, weight_decay=0.1)
    sum(made.losses(batch).values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    for name, value in made.network.state_dict().items():
        frozen = name.startswith(("stages.0", "stages.1"))
        assert torch.equal(value, before[name]) == frozen, name


@pytest.mark.parametrize("training", [True, False])
def test_half_the_precision_makes_nearly_the_same_of_it(stand_in: Path, training: bool) -> None:
    made, part = make(stand_in), train_part(stand_in)
    made.network.eval()  # no dropout
    if training:
        batch = made.collate(examples(made, part, [0]))
        exact = made.losses(batch)
        with torch.autocast("cpu", torch.bfloat16):
            near = made.losses(batch)
        assert all(near[name].dtype == torch.float32 for name in near)
        assert [near[name].item() for name in near] == pytest.approx([exact[name].item() for name in near], rel=0.02)
    else:
        batch = made.collate([made.evaluation_examples(part)(0)])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found = made.detect(batch)
        assert found.boxes.dtype == found.scores.dtype == torch.float32


def test_nothing_is_frozen_if_so_wanted(stand_in: Path) -> None:
    made = make(stand_in, {"frozen_stages": 0})
    assert all(weight.requires_grad for weight in made.network.parameters())


def test_an_example_depends_on_its_stream_alone(stand_in: Path) -> None:
    made, part = make(stand_in), train_part(stand_in)
    make_example = made.training_examples(part)
    drawn = []
    for seed in (0, 0, *range(1, 8)):
        torch.manual_seed(seed)
        drawn.append(make_example(2))
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    images = torch.stack([example["image"] for example in drawn])
    assert len(images.unique(dim=0)) == 2  # as it is, and flipped
    assert torch.equal(images.flip(3).unique(dim=0), images.unique(dim=0))


def test_foreground_regions_lie_on_objects_of_the_image_they_come_with(stand_in: Path) -> None:
    """Flipped or not, and in pixels of the resized image: most of their middles have the object's colour."""
    made, part = make(stand_in, {"short_side": 150}), train_part(stand_in)
    make_example = made.training_examples(part)
    for seed in range(6):
        torch.manual_seed(seed)
        example = make_example(0)
        truth = part.objects[0]
        height, width = part.photos[0].shape[1:]
        factor = example["image"].shape[1] / height
        meant = geometry.decode(example["targets"], example["boxes"])[example["labels"] > 0] / factor
        candidates = torch.cat([truth.boxes, geometry.mirror(truth.boxes, width)])
        assert len(meant) and box_iou(meant, candidates).amax(dim=1).min() > 0.97
        side = [box_iou(meant, half).amax(dim=1).min() for half in candidates.split(len(truth))]
        plain = detector.resize(part.photos[0], list(example["image"].shape[1:]))
        assert side[0 if torch.equal(plain, example["image"]) else 1] > 0.97


@pytest.mark.parametrize(
    ("published", "resized"),
    [
        ((375, 500), (600, 800)),
        ((500, 375), (800, 600)),
        ((333, 500), (600, 901)),
        ((200, 500), (400, 1000)),
        ((1, 9), (111, 1000)),
    ],
)
def test_images_are_resized_by_the_shorter_side_up_to_a_longest(
    published: tuple[int, int], resized: tuple[int, int]
) -> None:
    assert detector.Scale(600, 1000).size(*published) == resized


def test_padding_is_zero_after_normalisation_and_never_looked_at(stand_in: Path) -> None:
    made, part = make(stand_in), image_splits(settings(stand_in), "Main", "train/val")[1]
    make_example = made.evaluation_examples(part)
    chosen = [next(n for n in range(len(part)) if _upright(part, n) == upright) for upright in (True, False)]
    batch = made.collate([make_example(number) for number in chosen])
    images = detector.normalised(batch)
    for number, (height, width) in enumerate(batch["sizes"].tolist()):
        assert (images[number, :, height:] == 0).all() and (images[number, :, :, width:] == 0).all()
        own = batch["images"][number, :, :height, :width].double() / 255
        mean, spread = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        assert torch.allclose(images[number, :, :height, :width].double(), (own - mean) / spread, atol=1e-5)
    made.network.eval()
    with torch.no_grad():
        before = made._outputs(batch)
        batch["images"][0, :, :, batch["sizes"][0, 1] :] = 255
        after = made._outputs(batch)
    assert all(map(torch.equal, before, after))


def _upright(part: ImageSplit, number: int) -> bool:
    height, width = part.photos[number].shape[1:]
    return height > width


def test_what_is_found_is_in_pixels_of_the_published_image(stand_in: Path) -> None:
    """A network that is sure of one proposal and leaves it as it is finds just that."""
    part = image_splits(settings(stand_in), "Main", "train/val")[1]
    for side in (30, 64, 217):
        made = make(stand_in, {"short_side": side})
        make_example = made.evaluation_examples(part)
        batch = made.collate([make_example(0), make_example(1)])
        wanted = int((batch["owners"] == 0).sum()) + 3  # the second image's fourth proposal
        logits = torch.zeros(len(batch["boxes"]), 21)
        logits[:, 0] = 20.0
        logits[wanted] = torch.nn.functional.one_hot(torch.tensor(15), 21) * 20.0
        made.network = Answers(logits, torch.zeros(len(logits), 21, 4))  # type: ignore[assignment]
        found = made.detect(batch)
        own = regions.proposals(part, source())[1][3]
        assert found.images.tolist() == [1] and found.labels.tolist() == [14]
        assert torch.allclose(found.boxes[0], own, atol=1e-3)
        assert found.scores.item() == pytest.approx(1.0)


def slow_detections(
    logits: np.ndarray, boxes: np.ndarray, owners: np.ndarray
) -> dict[int, list[tuple[float, int, list[float]]]]:
    """Score, class and box of what is found in each image, by Girshick's rules; ``boxes`` are decoded and clipped."""
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    found = {}
    for image in sorted(set(owners.tolist())):
        own: list[tuple[float, int, list[float]]] = []
        for label in range(20):
            rows = np.flatnonzero((owners == image) & (scores[:, label + 1] > 0.05))
            kept: list[int] = []
            for row in rows[np.argsort(-scores[rows, label + 1])]:
                near = torch.from_numpy(boxes[[row, *kept], label + 1])
                empty = (near[0, 2:] <= near[0, :2]).any()
                if not empty and (box_iou(near[:1], near[1:]) <= 0.3).all():
                    kept.append(row)
            own += [(scores[row, label + 1], label, boxes[row, label + 1].tolist()) for row in kept]
        found[image] = sorted(own, reverse=True)[:100]
    return found


def test_detections_follow_girshicks_rules(stand_in: Path) -> None:
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(0, 2, (400, 21))).float()
    deltas = torch.from_numpy(rng.normal(0, 3, (400, 21, 4))).float()
    own, owners = random_boxes(400, 2, extent=140.0), torch.arange(400) // 250
    batch = batch_of(torch.zeros(400), own) | {"boxes": own, "owners": owners}
    batch["sizes"] = batch["published"] = torch.tensor([[120, 110], [100, 130]])
    batch["images"] = torch.zeros(2, 3, 120, 130, dtype=torch.uint8)
    found = answering(stand_in, logits, deltas).detect(batch)
    boxes = geometry.clip(geometry.decode(deltas, own), batch["sizes"][owners])
    assert (boxes[..., 2:] <= boxes[..., :2]).any(), "some are empty, having left their image"
    expected = slow_detections(logits.double().numpy(), boxes.numpy(), owners.numpy())
    for image, rows in expected.items():
        chosen = found.images == image
        assert len(rows) == 100 == int(chosen.sum())
        assert found.labels[chosen].tolist() == [label for _, label, _ in rows]
        assert found.scores[chosen].tolist() == pytest.approx([score for score, _, _ in rows], rel=1e-4)
        assert torch.allclose(found.boxes[chosen], torch.tensor([box for _, _, box in rows]), atol=1e-3)
    assert (found.boxes[:, 2:] <= batch["sizes"][found.images].flip(1)).all() and (found.boxes >= 0).all()


def test_what_is_not_finite_finds_nothing(stand_in: Path) -> None:
    logits, deltas = torch.zeros(4, 21), torch.zeros(4, 21, 4)
    logits[:, 3] = 9.0
    logits[1, 7], deltas[2, 5, 1] = math.nan, math.inf
    batch = batch_of(torch.zeros(4), torch.zeros(4, 4)) | {"published": torch.tensor([[16, 16]])}
    batch["boxes"] = torch.tensor([[0.0, 0, 4, 4], [4, 0, 8, 4], [8, 0, 12, 4], [12, 0, 16, 4]])
    found = answering(stand_in, logits, deltas).detect(batch)
    assert sorted(found.boxes[:, 0].tolist()) == [0.0, 12.0]
    nothing = answering(stand_in, logits * math.nan, deltas).detect(batch)
    assert len(nothing.scores) == 0 and nothing.boxes.shape == (0, 4)


def test_training_lowers_the_loss_and_finds_the_objects(stand_in: Path) -> None:
    """Two images, learned by heart by a narrow network."""
    made, part = make(stand_in, {"width": 4}), train_part(stand_in, data_limit=2)
    optimizer = torch.optim.SGD(made.network.parameters(), lr=0.05, momentum=0.9)
    make_example, losses = made.training_examples(part), []
    torch.manual_seed(0)
    for _ in range(60):
        batch = made.collate([make_example(number) for number in range(2)])
        loss = torch.stack(list(made.losses(batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(made.network.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.4 * losses[0]
    assert recall(made, part) >= 0.5


@torch.no_grad()
def recall(made: FastRCNN, part: ImageSplit) -> float:
    """Share of a part's objects that are found."""
    made.network.eval()
    make_example, hits = made.evaluation_examples(part), []
    for number in range(len(part)):
        found, truth = made.detect(made.collate([make_example(number)])), part.objects[number]
        for box, label in zip(truth.boxes[~truth.difficult], truth.labels[~truth.difficult], strict=True):
            own = found.boxes[found.labels == label]
            hits.append(bool(len(own)) and bool((box_iou(box[None], own) >= 0.5).any()))
    return float(np.mean(hits))


# --- selective search ----------------------------------------------------------------------------------------------


def kept_of(folder: Path, part: ImageSplit, search: Search | None = None) -> Kept:
    search = search or Search()
    return Kept(regions.folder(folder) / search.key, part.names, part.photos, search)


def test_selective_search_finds_the_same_boxes_each_time_and_around_objects(stand_in: Path) -> None:
    part = train_part(stand_in)
    hits = []
    for number in range(3):
        photo, truth = part.photos[number], part.objects[number]
        own = Search().boxes(photo)
        np.testing.assert_array_equal(Search().boxes(photo), own)
        assert own.dtype == np.int16 and len(np.unique(own, axis=0)) == len(own) > 50
        height, width = photo.shape[1:]
        assert (own[:, :2] >= 0).all() and (own[:, 2:] > own[:, :2]).all() and (own[:, 2:] <= [width, height]).all()
        large = truth.boxes[~truth.difficult]
        hits += (box_iou(large, torch.from_numpy(own).float()).amax(dim=1) >= 0.5).tolist()
    assert np.mean(hits) >= 0.8


def test_selective_search_looks_at_colours_in_their_order() -> None:
    """It is told red, green and blue as they are: hues matter to it, so a swap would be seen."""
    import cv2

    photo = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 9, 12), dtype=np.uint8))
    photo = photo.repeat_interleave(10, dim=1).repeat_interleave(10, dim=2)
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(cv2.cvtColor(photo.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2BGR))
    search.switchToSelectiveSearchFast()
    expected = {(x, y, x + width, y + height) for x, y, width, height in search.process().tolist()}
    assert set(map(tuple, Search().boxes(photo).tolist())) == expected


def test_the_order_depends_on_the_boxes_alone() -> None:
    own = np.unique(np.random.default_rng(0).integers(0, 90, (500, 4)), axis=0).astype(np.int16)
    found = mixed(own)
    np.testing.assert_array_equal(mixed(np.concatenate([own[::-1], own[:40]])), found)
    assert set(map(tuple, found.tolist())) == set(map(tuple, own.tolist())) and (found != own).any()
    assert mixed(np.zeros((0, 4), np.int16)).shape == (0, 4)


def test_quality_finds_more(stand_in: Path) -> None:
    photo = train_part(stand_in).photos[0]
    assert len(Search(mode="quality").boxes(photo)) > len(Search().boxes(photo))


def test_nothing_is_searched_twice(fresh: Path, searched: list[int]) -> None:
    part = train_part(fresh)
    first = regions.proposals(part, source(), 1)
    assert len(searched) == len(first) == IMAGES
    again = regions.proposals(part, source(), 1)
    assert torch.equal(first.boxes, again.boxes) and torch.equal(first.ends, again.ends)
    assert len(searched) == IMAGES
    regions.proposals(train_part(fresh, data_limit=IMAGES - 2), source(), 1)  # a part of them, or other data of a run
    regions.proposals(train_part(fresh, fingerprint="other"), source(limit=3, min_side=2), 1)
    assert len(searched) == len({*part.names, *train_part(fresh, data_limit=IMAGES - 2).names})


def test_those_of_parts_of_a_list_do_not_replace_those_of_all_of_it(fresh: Path, searched: list[int]) -> None:
    regions.proposals(train_part(fresh, data_limit=None), source(), 1)
    (whole,) = (fresh.parent / FOLDER).glob("voc2007-proposals-*.pt")
    for limit in range(1, KEPT + 2):
        regions.proposals(train_part(fresh, data_limit=limit), source(), 1)
    found = set((fresh.parent / FOLDER).glob("voc2007-proposals-*.pt"))
    assert whole in found and len(found) == 1 + KEPT


def test_other_settings_search_anew_but_a_limit_does_not(fresh: Path, searched: list[int]) -> None:
    part = train_part(fresh)
    for changes in ({}, {"base_k": 100}, {"increment_k": 100}, {"sigma": 0.5}, {"mode": "quality"}, {"limit": 2}):
        regions.proposals(part, source(**changes), 1)
    assert len(searched) == 5 * IMAGES
    assert len({Search().key, Search(base_k=1).key, Search(sigma=1).key, Search(sigma=1.5).key}) == 4


def test_an_image_with_the_same_name_and_other_pixels_is_another(fresh: Path, searched: list[int]) -> None:
    part = train_part(fresh)
    photos = [part.photos[number].clone() for number in range(IMAGES)]
    kept = replace(kept_of(fresh, part), photos=photos)
    first = selective_search.proposals(kept, 1)
    photos[1][0, 0, 0] += 1
    photos[2] = photos[2].view(3, -1, 1)  # the same bytes in another shape
    second = selective_search.proposals(kept, 1)
    assert len(searched) == IMAGES + 2
    assert all(np.array_equal(a, b) for n, (a, b) in enumerate(zip(first, second, strict=True)) if n not in (1, 2))


@pytest.mark.parametrize("damage", [b"", b"no numbers", None, "float", "flat"], ids=str)
def test_a_damaged_file_is_computed_anew(
    fresh: Path, searched: list[int], damage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    part = train_part(fresh)
    kept = kept_of(fresh, part)
    first = selective_search.proposals(kept, 1)
    path = kept.path(3)
    if isinstance(damage, str):
        np.save(path, first[3].astype(float) if damage == "float" else first[3].ravel())
    else:
        path.write_bytes(path.read_bytes()[:-7] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        second = selective_search.proposals(kept, 1)
    assert len(searched) == IMAGES + 1 and f"{path} is damaged" in caplog.text
    assert all(map(np.array_equal, first, second))
    assert np.array_equal(np.load(path), first[3])


def test_what_cannot_be_kept_is_computed_with_a_warning(
    fresh: Path, searched: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, write: Callable[[Path], Any]) -> None:
        raise StoreError("no") from OSError(28, "No space left on device")

    part = train_part(fresh)
    part.photos  # noqa: B018 - decoded, and kept, before
    monkeypatch.setattr(selective_search.files, "write_atomically", full)
    found = selective_search.proposals(kept_of(fresh, part), 1)
    assert len(found) == IMAGES and caplog.text.count("No space left on device") == 1


def test_a_folder_that_may_not_be_made_is_no_obstacle(
    fresh: Path, searched: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    part = train_part(fresh)
    part.photos  # noqa: B018 - decoded, and kept, before
    (fresh.parent / "file").write_text("in the way")
    kept = replace(kept_of(fresh, part), folder=fresh.parent / "file" / "folder")
    assert len(selective_search.proposals(kept, 1)) == IMAGES
    assert "cannot be kept" in caplog.text


def test_processes_find_what_one_finds(fresh: Path, stand_in: Path) -> None:
    part = train_part(fresh, data_limit=4)
    assert all(map(np.array_equal, selective_search.proposals(kept_of(fresh, part), 2), _one_by_one(part)))
    about = json.loads((kept_of(fresh, part).folder / selective_search.ABOUT).read_text())
    assert about["opencv"] == [selective_search.opencv().__version__] and about["search"]["base_k"] == 150
    assert not list(kept_of(fresh, part).folder.glob(".*.tmp"))


def _one_by_one(part: ImageSplit) -> Iterator[np.ndarray]:
    return (Search().boxes(part.photos[number]) for number in range(len(part)))


def test_another_version_of_opencv_is_mentioned(
    fresh: Path, searched: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    part = train_part(fresh)
    folder = kept_of(fresh, part).folder
    folder.mkdir(parents=True)
    sealed.write_record(folder / selective_search.ABOUT, {"opencv": ["4.1.0"]})
    selective_search.proposals(kept_of(fresh, part), 1)
    assert "by OpenCV 4.1.0" in caplog.text


def test_an_interrupted_search_goes_on_where_it_was(
    fresh: Path, searched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    part, quick = train_part(fresh), Search.boxes

    def interrupted(self: Search, photo: Tensor) -> np.ndarray:
        if len(searched) == 4:
            raise KeyboardInterrupt
        return quick(self, photo)

    monkeypatch.setattr(Search, "boxes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        regions.proposals(part, source(), 1)
    monkeypatch.setattr(Search, "boxes", quick)
    assert len(regions.proposals(part, source(), 1)) == IMAGES
    assert len(searched) == IMAGES


def test_a_killed_command_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Interrupted, it says so and leaves nothing half-written; started again, it does the rest."""
    (tmp_path / "voc2007").mkdir()
    voc2007.write(tmp_path / "voc2007")
    for split, count in (("train", 12), ("val", 2)):
        path = tmp_path / "voc2007/VOCdevkit/VOC2007/ImageSets/Main" / f"{split}.txt"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:count]))
    wanted = ["compute", "--root", str(tmp_path), "--splits", "train/val", "--jobs", "2", "--no-verify"]
    folder = tmp_path / FOLDER / "proposals" / Search().key
    started = multiprocessing.get_context("fork").Process(target=_compute_apart, args=(wanted, tmp_path / "said"))
    started.start()
    while len(list(folder.glob("*.npy"))) < 3 and started.is_alive():
        time.sleep(0.01)
    os.killpg(started.pid or 0, signal.SIGINT)  # as Ctrl-C on a terminal: every process gets it
    started.join(timeout=30)
    said = (tmp_path / "said").read_text()
    assert started.exitcode == 130 and "Traceback" not in said and "goes on from there" in said, said
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    assert 3 <= len(done) < 14 and not list(folder.glob(".*.tmp"))
    assert proposals.main(wanted) == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(list(folder.glob("*.npy"))) == 14
    assert re.search(r"proposals of 12 images are in .*\n.*proposals of 2 images are in", capsys.readouterr().out)


@pytest.mark.parametrize("given", [(), ("--no-verify",), ("--synthetic",)], ids=str)
@pytest.mark.parametrize("splits", SPLITS)
def test_the_command_takes_the_data_as_a_run_does(
    stand_in: Path, tmp_path: Path, splits: str, given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a run finds the images that the command has decoded: of test images both know, or neither."""
    shutil.copytree(stand_in, tmp_path / "voc2007")
    monkeypatch.setattr(Dataset, "verify", lambda *_: None)  # as published, but for the number of images
    monkeypatch.setattr(Dataset, "_lacks_members", lambda *_: False)
    asked = proposals._parser().parse_args(["compute", f"--root={tmp_path}", f"--splits={splits}", *given])
    own = ["data=synthetic"] if "--synthetic" in given else [f"data.verify={'--no-verify' not in given}"]
    wanted = ["task=od", f"data.root={tmp_path}", f"task.splits={splits}", *own]
    with initialize_config_dir(str(ROOT / "conf")):
        config = hydra_compose("config", overrides=wanted)
    told: list[TaskSettings] = []
    compose.make_task(config, torch.device("cpu"), lambda _, settings, __: told.append(settings))  # type: ignore[arg-type,func-returns-value]
    found = proposals._settings(asked)
    assert (found.data_folder, found.fingerprint) == (told[0].data_folder, told[0].fingerprint)


def _compute_apart(arguments: Sequence[str], said: Path) -> None:
    """The command in a process group of its own, with what it says in a file."""
    os.setsid()
    with said.open("w") as file:
        os.dup2(file.fileno(), 2)
        sys.stderr = file
        code = proposals.main(arguments)
    os._exit(code)


@pytest.mark.parametrize("lack", ["package", "modules"])
def test_a_missing_opencv_is_named_with_the_fix(fresh: Path, lack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part = train_part(fresh)
    monkeypatch.setitem(sys.modules, "cv2", None if lack == "package" else json)
    with pytest.raises(DataError, match=r"pip install -e '\.\[od\]'"):
        regions.proposals(part, source(), 1)


def test_kept_proposals_need_no_opencv(fresh: Path, searched: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    part = train_part(fresh)
    first = regions.proposals(part, source(), 1)
    monkeypatch.setitem(sys.modules, "cv2", None)
    again = regions.proposals(train_part(fresh, fingerprint="the same in another place"), source(), 1)
    assert torch.equal(first.boxes, again.boxes)


def test_small_and_surplus_proposals_are_left_out(fresh: Path, searched: list[int]) -> None:
    part = train_part(fresh)
    everything = regions.proposals(part, source(), 1)
    some = regions.proposals(part, source(limit=3), 1)
    large = regions.proposals(part, source(min_side=5), 1)
    for number in range(IMAGES):
        own = everything[number]
        assert torch.equal(some[number], own[:3])
        assert torch.equal(large[number], own[((own[:, 2:] - own[:, :2]) >= 5).all(dim=1)])
    assert len(some.boxes) == 3 * IMAGES and 0 < len(large.boxes) < len(everything.boxes)


# --- proposals from elsewhere --------------------------------------------------------------------------------------


def write_mat(path: Path, sets: dict[str, np.ndarray]) -> Path:
    """As Girshick's files: (y1, x1, y2, x2) counted from 1, both ends included."""
    cells, names = np.empty((1, len(sets)), object), np.empty((len(sets), 1), object)
    for number, (name, own) in enumerate(sets.items()):
        cells[0, number] = (own + np.array([1, 1, 0, 0]))[:, [1, 0, 3, 2]].astype(np.float64)
        names[number, 0] = name
    scipy.io.savemat(path, {"boxes": cells, "images": names})
    return path


def write_npz(path: Path, sets: dict[str, np.ndarray]) -> Path:
    boxes = np.concatenate([np.zeros((0, 4)), *sets.values()])
    np.savez(path, names=np.array(list(sets)), counts=np.array([len(own) for own in sets.values()]), boxes=boxes)
    return path


def some_sets(part: ImageSplit) -> dict[str, np.ndarray]:
    return {name: (random_boxes(4 + n, n, extent=80.0).round().numpy()) for n, name in enumerate(part.names)}


@pytest.mark.parametrize("write", [write_mat, write_npz])
def test_imported_proposals_are_those_of_the_file(
    fresh: Path, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    part = train_part(fresh)
    sets = some_sets(part)
    path = write(fresh.parent / f"girshick.{write.__name__[-3:]}", sets)
    root = fresh.parent
    (root / "synthetic").symlink_to(root)
    assert proposals.main(["import", str(path), "--root", str(root), "--synthetic"]) == 0
    name = re.search(r"model\.proposals\.kind=(imported-[0-9a-f]{16})\n$", capsys.readouterr().out)
    assert name
    found = regions.proposals(part, source(kind=name[1]), 1)
    for number, own in enumerate(sets.values()):
        np.testing.assert_array_equal(found[number].numpy(), own)
    limited = regions.proposals(part, source(kind=name[1], limit=2), 1)
    assert torch.equal(limited[5], found[5][:2])


def test_the_name_says_what_is_in_it_and_not_where_it_came_from(fresh: Path, tmp_path: Path) -> None:
    sets = some_sets(train_part(fresh))
    turned = dict(reversed(sets.items()))
    first, second = dict(list(sets.items())[:2]), dict(list(sets.items())[2:])
    names = {
        imported.keep(tmp_path / "kept", [write_mat(tmp_path / "a.mat", sets)]),
        imported.keep(tmp_path / "kept", [write_npz(tmp_path / "b.npz", turned)]),
        imported.keep(tmp_path / "kept", [write_mat(tmp_path / "c.mat", first), write_npz(tmp_path / "d.npz", second)]),
    }
    assert len(names) == 1
    sets[train_part(fresh).names[0]][0, 2] += 1
    assert imported.keep(tmp_path / "kept", [write_npz(tmp_path / "e.npz", sets)]) not in names
    with pytest.raises(DataError, match=r"c\.mat"):
        imported.keep(tmp_path / "kept", [tmp_path / "a.mat", tmp_path / "c.mat"])


def refused(path: Path, contents: bytes | dict[str, Any] | None) -> str:
    if isinstance(contents, bytes):
        path.write_bytes(contents)
    elif contents is not None:
        np.savez(path, **contents)
    with pytest.raises(DataError) as raised:
        imported.read(path)
    text = str(raised.value)
    assert str(path) in text and "\n" not in text and text.endswith(".")
    return text


BOX = np.array([[0.0, 0.0, 2.0, 2.0]])


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (None, "No such file"),
        (b"nothing", ""),
        ({"names": ["a"], "counts": [1]}, "boxes"),
        ({"names": ["a"], "counts": [2], "boxes": BOX}, "do not belong together"),
        ({"names": ["a"], "counts": [1.0], "boxes": BOX}, "do not belong together"),
        ({"names": ["a", "b"], "counts": [1], "boxes": BOX}, "2 names and the proposals of 1"),
        ({"names": ["a", "a"], "counts": [1, 0], "boxes": BOX}, "twice"),
        ({"names": ["a"], "counts": [1], "boxes": BOX - 1}, "a has a proposal"),
        ({"names": ["a"], "counts": [1], "boxes": BOX * [0, 0, 0, 1]}, "a has a proposal"),
        ({"names": ["a"], "counts": [1], "boxes": BOX * math.nan}, "a has a proposal"),
        ({"names": ["a"], "counts": [1], "boxes": np.array([[{}] * 4])}, "pickle"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named(tmp_path: Path, contents: Any, reason: str) -> None:
    assert reason in refused(tmp_path / "some.npz", contents)


def test_a_mat_file_of_something_else_is_named(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "other.mat", {"pictures": np.zeros(3)})
    assert "images" in refused(tmp_path / "other.mat", None)
    refused(tmp_path / "cut.mat", (tmp_path / "other.mat").read_bytes()[:150])
    refused(tmp_path / "list.txt", b"")


def test_imported_proposals_must_be_there_whole_and_of_these_images(fresh: Path) -> None:
    part, folder = train_part(fresh), regions.folder(fresh)
    sets = some_sets(part)
    with pytest.raises(DataError, match=r"imported-0{16}\.npz"):
        regions.proposals(part, source(kind="imported-" + 16 * "0"), 1)
    lacking = imported.keep(folder, [write_npz(fresh.parent / "a.npz", dict(list(sets.items())[1:]))])
    with pytest.raises(DataError, match=part.names[0]):
        regions.proposals(part, source(kind=lacking), 1)
    outside = imported.keep(folder, [write_npz(fresh.parent / "b.npz", sets | {part.names[0]: BOX * 500})])
    with pytest.raises(DataError, match=f"outside .*{part.names[0]}"):
        regions.proposals(part, source(kind=outside), 1)
    shutil.copyfile(folder / f"{outside}.npz", folder / f"{lacking}.npz")
    with pytest.raises(DataError, match=f"{lacking}.npz"):
        regions.proposals(part, source(kind=lacking), 1)


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "model.width"),
        ({"short_side": 1.5}, "model.short_side"),
        ({"long_side": 63}, "model.long_side"),
        ({"frozen_stages": 6}, "model.frozen_stages"),
        ({"frozen_stages": True}, "model.frozen_stages"),
        ({"hidden": 0}, "model.hidden"),
        ({"feature_scale": 0}, "model.feature_scale"),
        ({"flip": 1}, "model.flip"),
        ({"keep_features": "yes"}, "model.keep_features"),
        ({"keep_features": True}, "model.frozen_stages=5"),
        ({"test_proposals": 0}, "model.test_proposals"),
        ({"weights": "coco"}, "model.weights"),
        ({"weights": "imagenet"}, "model.width=64"),
        ({"extra": 1}, "model.extra"),
        ({"proposals": None}, "model.proposals"),
        ({"proposals": PROPOSALS | {"more": 1}}, "model.proposals"),
        ({"proposals": PROPOSALS | {"kind": "edge_boxes"}}, "model.proposals.kind"),
        ({"proposals": PROPOSALS | {"kind": "imported-1"}}, "model.proposals.kind"),
        ({"proposals": PROPOSALS | {"mode": "slow"}}, "model.proposals.mode"),
        ({"proposals": PROPOSALS | {"base_k": 0}}, "model.proposals.base_k"),
        ({"proposals": PROPOSALS | {"increment_k": "1"}}, "model.proposals.increment_k"),
        ({"proposals": PROPOSALS | {"sigma": -1.0}}, "model.proposals.sigma"),
        ({"proposals": PROPOSALS | {"sigma": math.nan}}, "model.proposals.sigma"),
        ({"proposals": PROPOSALS | {"limit": 0}}, "model.proposals.limit"),
        ({"proposals": PROPOSALS | {"min_side": -1}}, "model.proposals.min_side"),
    ],
)
def test_a_bad_setting_is_named(stand_in: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as raised:
        make(stand_in, changes)
    assert "\n" not in str(raised.value)


def test_the_yaml_has_the_settings_and_the_commands_defaults() -> None:
    options = yaml.safe_load((ROOT / "conf/model/fast_rcnn.yaml").read_text(encoding="utf-8"))
    assert (
        set(options) == {"_target_", "name", "detector", *FAST_RCNN.required}
        and options["detector"] == options["name"] == "fast_rcnn"
    )
    assert {field.name: options["proposals"][field.name] for field in fields(Search)} == {
        field.name: field.default for field in fields(Search)
    }
    assert options["proposals"] == PROPOSALS
    assert Source.of(options["proposals"]) == Source("selective_search", Search(), proposals.LIMIT, 0)


@pytest.mark.parametrize("jobs", ["0", "-1"])
def test_a_command_that_cannot_work_says_so(fresh: Path, jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert proposals.main(["compute", "--synthetic", "--root", str(fresh.parent), "--jobs", jobs]) == 2
    assert "--jobs" in capsys.readouterr().err


# --- the real data -------------------------------------------------------------------------------------------------


def real_photos(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Photos of VOC2007 with boxes of objects, where a copy of it is found."""
    pack = ROOT.parent / "shared/data/packs/voc2007.tar"
    if not pack.is_file():
        pytest.skip("needs the subset of the real VOC2007 in ../shared/data/packs")
    with tarfile.open(pack) as archive:
        rows = json.load(archive.extractfile("boxes.json") or io.BytesIO())
        names = [member.name for member in archive if member.name.endswith(".jpg")][:count]
        for name in names:
            image = Image.open(archive.extractfile(name) or io.BytesIO()).convert("RGB")
            own = torch.tensor([box for *box, _ in rows[Path(name).stem]]).float() - torch.tensor([1.0, 1.0, 0.0, 0.0])
            yield torch.from_numpy(np.array(image)).permute(2, 0, 1), own


def test_selective_search_finds_real_objects() -> None:
    hits, counts = [], []
    for photo, truth in real_photos(1):
        own = Search().boxes(photo)
        counts.append(len(own))
        hits += (box_iou(truth, torch.from_numpy(own).float()).amax(dim=1) >= 0.5).tolist()
    assert np.mean(hits) >= 0.5 and min(counts) > 500


def test_found_has_the_interfaces_types(stand_in: Path) -> None:
    part = image_splits(settings(stand_in), "Main", "train/val")[1]
    made = make(stand_in)
    made.network.eval()
    with torch.no_grad():
        found = made.detect(made.collate([made.evaluation_examples(part)(0)]))
    assert isinstance(found, DetectedBoxes)
    kinds = [found.images.dtype, found.labels.dtype, found.boxes.dtype, found.scores.dtype]
    assert kinds == [torch.int64, torch.int64, torch.float32, torch.float32]
    assert issubclass(DataError, BenchError)


def test_images_of_which_none_has_a_proposal_are_refused(fresh: Path, searched: list[int]) -> None:
    """There would be no background to train on, and nothing to be found."""
    train, test = image_splits(settings(fresh), "Main", "train/val")
    detector = make(fresh, {"proposals": PROPOSALS | {"min_side": 9999}})
    for examples, part in ((detector.training_examples, train), (detector.evaluation_examples, test)):
        with pytest.raises(ConfigError) as raised:
            examples(part)
        said = str(raised.value)
        assert all(words in said for words in (str(len(part)), part.images[0].split, "model.proposals.min_side"))


def test_an_import_without_a_proposal_is_refused(fresh: Path) -> None:
    part = train_part(fresh)
    file = write_npz(fresh.parent / "none.npz", dict.fromkeys(part.names, np.zeros((0, 4), np.float32)))
    with pytest.raises(ConfigError, match=r"model\.proposals\.kind"):
        regions.proposals(part, source(kind=imported.keep(regions.folder(fresh), [file])), 1)


def test_images_without_a_proposal_among_others_are_counted(fresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are trained on with the boxes of their objects, and nothing is found in them."""
    part = train_part(fresh)
    sets = some_sets(part) | {part.names[0]: np.zeros((0, 4), np.float32)}
    kind = imported.keep(regions.folder(fresh), [write_npz(fresh.parent / "some.npz", sets)])
    made = make(fresh, {"proposals": PROPOSALS | {"kind": kind}})
    labels = made.training_examples(part)(0)["labels"]
    assert f"1 of {IMAGES} images of train have no proposal" in caplog.text
    assert (labels == 0).sum() == 0 and (labels > 0).sum() == (~part.objects[0].difficult).sum() > 0
    batch = made.collate([made.evaluation_examples(part)(0)])
    made.network.eval()
    with torch.no_grad():
        assert len(made.detect(batch).boxes) == 0
