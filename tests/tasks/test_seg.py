"""Segmentation: how pixels are counted, the recipe's examples, initial weights, and whole runs on the stand-in."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from modes import evaluating
from PIL import Image
from tiny import EPOCHS, SWITCH, TASKS
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v3_large
from torchvision.models.segmentation import lraspp_mobilenet_v3_large
from whole_runs import Killed, outcome

import tasks
from tasks.compute import IMAGENET_MEAN, IMAGENET_STD, autocast, memory_format, normalise
from tasks.seg import Segmentation, model, quality
from tasks.seg.task import evaluation_examples, stack, training_examples
from tmsgd_bench.data.packed import Chosen, pack
from tmsgd_bench.engine import compose
from tmsgd_bench.errors import ConfigError, DataError
from tmsgd_bench.optim import sharpness
from tmsgd_bench.results import store
from tmsgd_bench.seeding import epoch_order, generator
from tmsgd_bench.task import TaskSettings

CONF = Path(__file__).parents[2] / "conf"
TARGET = "tasks.seg.model.build"
NOTHING: dict[str, Any] = {"weights": "none", "norm_momentum": 0.1}
OPTIONS: dict[str, Any] = {
    "splits": "train/val",
    "base_size": 40,
    "crop": 32,
    "evaluate_every": 1,
    "precision": "float32",
    "channels_last": False,
}


@pytest.fixture(scope="module")
def voc(tiny_data: Callable[[str], Path]) -> Path:
    """A folder with eight images of the stand-in to train on and three to test, to be read only."""
    return tiny_data("voc2007")


def settings(folder: Path, **changes: Any) -> TaskSettings:
    """Those of a small run; ``changes`` replaces some."""
    small = TaskSettings(
        data_folder=folder,
        data_limit=5,
        batch_size=2,
        seed=0,
        device=torch.device("cpu"),
        model=NOTHING,
        fingerprint="few tests",
        weights_folder=folder.parent / "weights",
    )
    made = replace(small, **changes)
    return replace(made, model={"_target_": TARGET, **made.model})


def make(folder: Path, options: dict[str, Any] | None = None, **changes: Any) -> Segmentation:
    torch.manual_seed(0)
    return Segmentation(settings(folder, **changes), **(OPTIONS | (options or {})))


@pytest.fixture(scope="module")
def task(voc: Path) -> Segmentation:
    """A task that tests leave as it is."""
    return make(voc)


# --- how well pixels are told apart --------------------------------------------------------------------------------


def maps(seed: int, classes: int, ignored: float) -> tuple[Tensor, Tensor]:
    """Predicted and true classes of two images; the truth lacks the last class, and some of it does not count."""
    rng = torch.Generator().manual_seed(seed)
    predicted = torch.randint(classes, (2, 9, 7), generator=rng)
    truth = torch.randint(classes - 1, (2, 9, 7), generator=rng)
    truth[torch.rand(truth.shape, generator=rng) < ignored] = 255
    return predicted, truth


@pytest.mark.parametrize("classes", [2, 5, 21])
@pytest.mark.parametrize("ignored", [0.0, 0.3])
def test_quality_agrees_with_torchmetrics(classes: int, ignored: float) -> None:
    """Which has 0 in place of NaN for a class that is nowhere."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_jaccard_index

    predicted, truth = maps(classes, classes, ignored)
    matrix = quality.confusion(predicted, truth, classes)
    assert matrix.dtype == torch.int64
    options: Any = {"num_classes": classes, "ignore_index": 255}
    assert torch.equal(matrix, multiclass_confusion_matrix(predicted, truth, **options))
    expected = multiclass_jaccard_index(predicted, truth, average=None, **options)
    ious = quality.intersections_over_unions(matrix)
    torch.testing.assert_close(ious.nan_to_num(0.0), expected.double(), rtol=1e-6, atol=0)
    assert quality.accuracy(matrix) == pytest.approx(float((predicted == truth)[truth != 255].double().mean()))


@hypothesis_settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), ignored=st.sampled_from([0.0, 0.5, 0.95]))
def test_each_iou_is_that_of_two_sets_of_pixels(seed: int, ignored: float) -> None:
    predicted, truth = maps(seed, 6, ignored)
    ious = quality.intersections_over_unions(quality.confusion(predicted, truth, 6))
    counted = {tuple(place) for place in (truth != 255).nonzero().tolist()}
    for label in range(6):
        sets = [{tuple(place) for place in (one == label).nonzero().tolist()} & counted for one in (predicted, truth)]
        union = len(sets[0] | sets[1])
        if union:
            assert float(ious[label]) == len(sets[0] & sets[1]) / union
        else:
            assert math.isnan(float(ious[label]))


def test_matrices_of_images_are_added_up() -> None:
    predicted, truth = maps(0, 4, 0.2)
    parts = [quality.confusion(*pair, 4) for pair in zip(predicted, truth, strict=True)]
    assert torch.equal(parts[0] + parts[1], quality.confusion(predicted, truth, 4))


def test_of_no_pixels_there_is_no_quality() -> None:
    matrix = quality.confusion(torch.zeros(3, dtype=torch.int64), torch.full((3,), 255), 3)
    assert not matrix.any() and math.isnan(quality.accuracy(matrix))
    assert quality.intersections_over_unions(matrix).isnan().all()


def test_bytes_are_counted_like_integers() -> None:
    """A product of bytes would overflow."""
    truth = torch.tensor([20, 20, 255], dtype=torch.uint8)
    assert int(quality.confusion(torch.tensor([20, 19, 0]), truth, 21)[20].sum()) == 2


# --- examples ------------------------------------------------------------------------------------------------------


def part_of(images: list[np.ndarray], masks: list[np.ndarray]) -> Any:
    """What the examples are made of."""
    sizes = [(len(mask), len(mask[0])) for mask in masks]
    packs = pack(sizes, images, 3), pack(sizes, masks, 1)
    everything = torch.arange(len(masks))
    return SimpleNamespace(photos=Chosen([packs[0]], everything), masks=Chosen([packs[1]], everything))


def coloured(mask: np.ndarray) -> np.ndarray:
    """An image whose pixels tell the class: never black."""
    return np.stack([60 + 9 * mask, 240 - 9 * mask, 100 + 5 * mask], axis=2).astype(np.uint8)


def quarters(height: int, width: int) -> np.ndarray:
    """A different class in each quarter, so that a mirrored or shifted mask differs."""
    mask = np.ones((height, width), np.uint8)
    mask[: height // 2, width // 2 :] = 7
    mask[height // 2 :, : width // 2] = 13
    mask[height // 2 :, width // 2 :] = 20
    return mask


@pytest.mark.parametrize("size", [(40, 60), (64, 30), (10, 10)], ids=str)
@pytest.mark.parametrize("crop", [8, 32, 50])
def test_image_and_mask_are_rescaled_mirrored_and_cut_together(size: tuple[int, int], crop: int) -> None:
    mask = quarters(*size)
    example = training_examples(part_of([coloured(mask)], [mask]), base_size=24, crop=crop)
    torch.manual_seed(0)
    agreeing = counted = 0
    for _ in range(40):
        image, made = example(0)
        assert image.shape == (3, crop, crop) and made.shape == (1, crop, crop)
        assert image.dtype == made.dtype == torch.uint8
        outside = made[0] == 255
        assert torch.equal(image == 0, outside.expand(3, -1, -1))  # padding is black, and counts nowhere
        assert set(made.unique().tolist()) <= {1, 7, 13, 20, 255}
        told = (image[0].float() - 60) / 9
        agreeing += int(((told - made[0].float()).abs() < 0.5)[~outside].sum())
        counted += int((~outside).sum())
    assert agreeing / counted > 0.75  # all but the seams, where colours mix; about 0.4 if either were mirrored alone


def test_the_shorter_side_is_half_to_twice_the_base_size_and_half_of_the_images_are_mirrored() -> None:
    """Every whole number between both ends, as often as the others; nothing is cut off where all has room."""
    mask = quarters(30, 36)
    example = training_examples(part_of([coloured(mask)], [mask]), base_size=8, crop=24)
    torch.manual_seed(0)
    sizes: Counter[int] = Counter()
    mirrored = tries = 0
    for _ in range(325):
        _, made = example(0)
        inside = (made[0] != 255).nonzero()
        height, width = (inside.max(0).values - inside.min(0).values + 1).tolist()
        sizes[height] += 1
        assert width == int(36 * height / 30)
        left = made[0][tuple(inside.min(0).values.tolist())]
        mirrored, tries = mirrored + int(left == 7), tries + 1
    assert sorted(sizes) == list(range(4, 17))
    assert min(sizes.values()) > 8 and max(sizes.values()) < 48  # 25 each
    assert 0.38 < mirrored / tries < 0.62


def test_the_crop_is_taken_anywhere() -> None:
    rows = np.repeat(np.arange(20, dtype=np.uint8)[:, None], 20, axis=1)
    example = training_examples(part_of([coloured(rows)], [rows]), base_size=20, crop=10)
    torch.manual_seed(0)
    first = [int(example(0)[1][0, 0, 0]) for _ in range(150)]
    assert {0, 5, 10} <= set(first) and max(first) >= 12


@pytest.mark.parametrize("size", [(40, 60), (64, 30), (24, 24), (10, 31)], ids=str)
def test_to_test_the_shorter_side_is_the_base_size(size: tuple[int, int]) -> None:
    mask = quarters(*size)
    example = evaluation_examples(part_of([coloured(mask)], [mask]), base_size=24)
    image, made = example(0)
    assert min(image.shape[1:]) == 24 and image.shape[1:] == made.shape[1:]
    assert max(image.shape[1:]) == int(24 * max(size) / min(size))
    assert set(made.unique().tolist()) == {1, 7, 13, 20}
    assert torch.equal(example(0)[0], image)
    if size == (24, 24):
        assert torch.equal(made[0], torch.from_numpy(mask))


def test_examples_can_be_sent_to_a_worker_that_is_no_fork(task: Segmentation) -> None:
    """As on macOS, on Windows, and on Linux from Python 3.14 on."""
    again = pickle.loads(pickle.dumps(task.train_loader.loader.dataset))
    key = (5, 1)
    assert all(torch.equal(a, b) for a, b in zip(again[key], task.train_loader.loader.dataset[key], strict=True))


def test_a_batch_is_normalised_images_and_masks_of_classes(task: Segmentation) -> None:
    batches = list(task.batches(0))
    assert [len(images) for images, _ in batches] == [2, 2, 1] and task.steps_per_epoch == 3
    for images, masks in batches:
        assert images.dtype == torch.float32 and masks.dtype == torch.int64
        assert images.shape[1:] == (3, 32, 32) and masks.shape[1:] == (32, 32)
        low, high = ((value - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD) for value in (0.0, 1.0))
        for channel in range(3):
            assert low[channel] - 1e-5 <= float(images[:, channel].min())
            assert float(images[:, channel].max()) <= high[channel] + 1e-5
        assert set(masks.unique().tolist()) <= {*range(21), 255}


def test_normalising_follows_its_formula() -> None:
    pixels = torch.randint(256, (2, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, deviation = (torch.tensor(one, dtype=torch.float64)[:, None, None] for one in (IMAGENET_MEAN, IMAGENET_STD))
    expected = (pixels.double() / 255 - mean) / deviation
    torch.testing.assert_close(normalise(pixels).double(), expected, rtol=1e-5, atol=1e-6)


def test_the_order_is_the_epochs(task: Segmentation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image once, in the order that every task has."""

    def epoch(order_of: Callable[[int], Tensor], size: int, epoch: int) -> Iterator[Tensor]:
        orders.append(order_of(epoch).tolist())
        return iter(())

    orders: list[list[int]] = []
    monkeypatch.setattr(task, "train_loader", SimpleNamespace(epoch=epoch))
    assert list(task.batches(3)) == []
    assert orders == [epoch_order(5, 0, 3).tolist()] and sorted(orders[0]) == list(range(5))


# --- loss and evaluation -------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_the_pixels_that_count(task: Segmentation) -> None:
    images, masks = next(iter(task.batches(0)))
    masks = masks.clone()
    masks[:, :5] = 255
    task.model.eval()
    with torch.no_grad():
        expected = F.cross_entropy(task.model(images)["out"].double(), masks, ignore_index=255)
        assert float(task.loss((images, masks))) == pytest.approx(float(expected), rel=1e-6)


def test_a_batch_of_padding_alone_costs_nothing_and_moves_nothing(voc: Path) -> None:
    """A mean over nothing would be NaN, and would end the run."""
    task = make(voc)
    images, masks = next(iter(task.batches(0)))
    task.model.train()
    loss = task.loss((images, torch.full_like(masks, 255)))
    assert float(loss.detach()) == 0.0
    loss.backward()
    gradients = [p.grad for p in task.model.parameters() if p.grad is not None]
    assert gradients and all(not gradient.any() for gradient in gradients)


@torch.no_grad()
def test_evaluation_agrees_with_a_computation_by_hand(task: Segmentation) -> None:
    """One matrix over all test images; classes that are nowhere have no IoU and no say in the mean."""
    task.model.eval()
    predicted, truth = [], []
    for number in range(len(task.test)):
        image, mask = task.evaluation_example(number)
        logits = task.model(normalise(image[None].as_subclass(Tensor)))["out"]
        predicted.append(logits[0].argmax(0).flatten())
        truth.append(mask.as_subclass(Tensor).flatten().long())
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    matrix = multiclass_confusion_matrix(torch.cat(predicted), torch.cat(truth), num_classes=21, ignore_index=255)
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    ious = 100 * matrix.diagonal().double() / union
    found = task.evaluate()
    assert found.keys() == {metric.name for metric in task.metrics}
    assert found["miou"] == pytest.approx(float(ious[union > 0].mean()))
    assert found["pixel_accuracy"] == pytest.approx(100 * float(matrix.diagonal().sum() / matrix.sum()))
    for name, iou in zip(model.NAMES, ious.tolist(), strict=True):
        assert found[f"iou_{name}"] == pytest.approx(iou, nan_ok=True)
    assert math.isnan(found["iou_sheep"])


@torch.no_grad()
def test_a_perfect_and_a_constant_answer(task: Segmentation, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([task.evaluation_example(number)[1].long().clamp(max=20) for number in range(len(task.test))])
    monkeypatch.setattr(task, "_predict", lambda images: next(answers))
    found = task.evaluate()
    assert found["miou"] == found["pixel_accuracy"] == 100.0
    monkeypatch.setattr(task, "_predict", lambda images: torch.zeros(images.shape[:1] + images.shape[2:]).long())
    found = task.evaluate()
    assert found["iou_background"] == found["pixel_accuracy"] and found["iou_cat"] == 0.0
    present = sum(not math.isnan(value) for name, value in found.items() if name.startswith("iou_"))
    assert found["miou"] == pytest.approx(found["pixel_accuracy"] / present)


def logits_of(task: Segmentation, images: Tensor) -> Tensor:
    """In training mode, in the task's arithmetic."""
    with task.autocast(), torch.no_grad():
        found: Tensor = task.model(images)["out"]
    return found.float().flatten()


@pytest.mark.parametrize(
    ("options", "tolerance", "likeness"),
    [({"precision": "bfloat16"}, 0.05, 0.7), ({"channels_last": True}, 1e-4, 0.9999)],
    ids=["bfloat16", "channels last"],
)
def test_another_arithmetic_agrees_within_its_rounding(
    voc: Path, options: dict[str, Any], tolerance: float, likeness: float
) -> None:
    """Loss and logits of one batch, and their gradient, whose roundings statistics of so few images magnify."""
    losses, gradients, logits, images = [], [], [], []
    for one in (make(voc, batch_size=4), make(voc, options, batch_size=4)):
        batch = next(iter(one.batches(0)))
        images.append(batch[0])
        logits.append(logits_of(one, batch[0]))
        loss = one.loss(batch)
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in one.model.parameters() if p.grad is not None]))
        assert loss.dtype == gradients[-1].dtype == torch.float32
    assert losses[1] == pytest.approx(losses[0], rel=tolerance)
    assert float((logits[1] - logits[0]).norm() / logits[0].norm()) < 4 * tolerance
    assert float(F.cosine_similarity(gradients[0], gradients[1], dim=0)) > likeness
    assert torch.equal(*images)
    one.model.eval()
    with torch.no_grad():
        assert all(0 <= value <= 100 for value in one.evaluate().values() if not math.isnan(value))


def test_with_channels_last_images_and_weights_lie_so(voc: Path) -> None:
    task = make(voc, {"channels_last": True})
    images, _ = next(iter(task.batches(0)))
    weight = next(p for p in task.model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1)
    for tensor in (images, weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_bfloat16_is_bfloat16() -> None:
    with autocast("bfloat16", torch.device("cpu")):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast("float32", torch.device("cpu")):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32
    assert [memory_format(flag) for flag in (False, True)] == [torch.contiguous_format, torch.channels_last]


# --- initial weights -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stand-ins for the published files, of the right shapes, under names that tell their digests."""
    folder = tmp_path_factory.mktemp("server")
    torch.manual_seed(7)
    networks = {
        "coco": lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21),
        "backbone": mobilenet_v3_large(weights=None),
    }
    found = {}
    for name, network in networks.items():
        torch.save(network.state_dict(), folder / "new.pth")
        digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()[:8]
        found[name] = (folder / "new.pth").rename(folder / f"{name}-{digest}.pth")
    return found


@pytest.fixture
def served(published: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The stand-ins at the addresses that the task knows."""
    monkeypatch.setattr(
        model, "PUBLISHED", {name: SimpleNamespace(url=path.as_uri()) for name, path in published.items()}
    )
    return published


def loaded(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(path, weights_only=True)
    return found


@pytest.mark.parametrize("by_path", [False, True], ids=["by name", "by path"])
def test_published_weights_of_the_whole_network_end_in_the_model(
    voc: Path, served: dict[str, Path], tmp_path: Path, by_path: bool
) -> None:
    """It can segment already, so it is evaluated before training."""
    chosen = str(served["coco"]) if by_path else "coco"
    task = make(voc, model=NOTHING | {"weights": chosen}, weights_folder=tmp_path / "weights")
    wanted = loaded(served["coco"])
    assert task.model.state_dict().keys() == wanted.keys()
    assert all(torch.equal(task.model.state_dict()[name], value) for name, value in wanted.items())
    assert task.evaluate_at_start
    assert (tmp_path / "weights" / served["coco"].name).exists() is not by_path


@pytest.mark.parametrize("by_path", [False, True], ids=["by name", "by path"])
def test_weights_of_a_classifier_end_in_the_backbone_alone(
    voc: Path, served: dict[str, Path], tmp_path: Path, by_path: bool
) -> None:
    chosen = str(served["backbone"]) if by_path else "backbone"
    task = make(voc, model=NOTHING | {"weights": chosen}, weights_folder=tmp_path / "weights")
    fresh = {name: value for name, value in make(voc).model.state_dict().items() if name.startswith("classifier.")}
    wanted = {name: value for name, value in loaded(served["backbone"]).items() if name.startswith("features.")}
    own = {name.replace("features.", "backbone."): value for name, value in wanted.items()} | fresh
    assert task.model.state_dict().keys() == own.keys()
    assert all(torch.equal(task.model.state_dict()[name], value) for name, value in own.items())
    assert not task.evaluate_at_start


def test_without_weights_the_seed_decides(voc: Path) -> None:
    one, other = make(voc), make(voc)
    assert not one.evaluate_at_start
    for name, value in one.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value)
    assert sum(p.numel() for p in one.model.parameters()) == 3_221_538  # torchvision's num_params for 21 classes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {name: value for name, value in w.items() if name != "backbone.0.0.weight"}, "lacks 'backbone.0.0"),
        (lambda w: {**w, "aux.weight": torch.ones(1)}, "has 'aux.weight' besides"),
        (
            lambda w: {**w, "classifier.low_classifier.weight": torch.ones(11, 40, 1, 1)},
            r"'classifier.low_classifier.weight' has the shape \(11, 40, 1, 1\), not \(21, 40, 1, 1\)",
        ),
        (lambda w: {"features.0.0.weight": torch.ones(16, 3, 3, 3)}, "lacks '0.1.bias'"),
        (lambda w: {}, "lacks 'backbone.0.0.weight'"),
    ],
    ids=["lacks", "besides", "other classes", "half a backbone", "nothing"],
)
def test_weights_of_another_network_are_refused_by_name(
    voc: Path, published: dict[str, Path], tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    path = tmp_path / "mine.pth"
    torch.save(change(loaded(published["coco"])), path)
    with pytest.raises(ConfigError, match=f"mine\\.pth:? {message}") as raised:
        make(voc, model=NOTHING | {"weights": str(path)})
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert all(word in str(raised.value) for word in ("lraspp_mobilenet_v3_large", "features.", "none"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["coco", "backbone"])
def test_without_a_network_one_sentence_names_file_address_and_folder(voc: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as raised:
        make(voc, model=NOTHING | {"weights": name}, weights_folder=tmp_path / "weights")
    said, url = str(raised.value), model.PUBLISHED[name].url
    assert url.startswith("https://download.pytorch.org/models/")
    assert url in said and str(tmp_path / "weights" / url.rpartition("/")[2]) in said
    assert "model.weights=PATH" in said and "model.weights=none" in said and "\n" not in said


@pytest.mark.parametrize("momentum", [0.01, 0.1, 1, 1.0])
def test_every_running_average_has_the_momentum_asked_for(voc: Path, momentum: float) -> None:
    network = make(voc, model=NOTHING | {"norm_momentum": momentum}).model
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(layers) == 47 and {layer.momentum for layer in layers} == {momentum}


# --- pictures ------------------------------------------------------------------------------------------------------


def test_drawing_writes_images_with_true_and_predicted_masks(voc: Path, tmp_path: Path) -> None:
    task = make(voc)
    stream = torch.get_rng_state()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    with evaluating(task):
        task.draw(tmp_path)
        shown = task.predicted()
    assert [path.name for path in tmp_path.iterdir()] == ["masks.png"]
    with Image.open(tmp_path / "masks.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 200
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(torch.equal(task.model.state_dict()[name], value) for name, value in before.items())
    assert len(shown.images) == len(shown.truths) == len(shown.predictions) == 3
    for number in range(3):
        image, mask = task.evaluation_example(number)
        assert np.array_equal(shown.images[number], image.permute(1, 2, 0).numpy())
        assert np.array_equal(shown.truths[number], mask[0].numpy())
        with torch.no_grad():
            expected = task._predict(task._on_device(stack([(image, mask)]))[0])
        assert np.array_equal(shown.predictions[number], expected[0].numpy())


# --- options -------------------------------------------------------------------------------------------------------


def test_the_yaml_has_table_2_as_printed_and_as_read() -> None:
    values = yaml.safe_load((CONF / "task/seg.yaml").read_text(encoding="utf-8"))
    printed, read = values["table2"], values["corrected"]
    paper = {"epochs": 30, "lr": 1e-4, "batch_size": 4, "switch_epoch": 200}
    assert {name: printed[name] for name in paper} == paper
    assert read == printed | {"switch_epoch": 10}  # the cells of OD and SEG look exchanged
    recipe = {"base_size": 520, "crop": 480, "weights": "coco", "norm_momentum": 0.01}
    assert {name: printed[name] for name in recipe} == recipe
    assert values["splits"] == "train/val" and values["dataset"] == "voc2007"
    assert values["smoke"].keys() == {*printed, "limit"}


def composed(*given: str) -> Any:
    """The configuration of a task=seg run on the stand-in."""
    with initialize_config_dir(str(CONF)):
        return hydra_compose("config", overrides=["task=seg", "data=synthetic", *given])


def test_the_schedule_is_the_published_recipes(tmp_path: Path) -> None:
    """Its length is that of the run."""
    spec = compose.run_spec(composed(f"data.root={tmp_path}", "epochs=7"))
    assert spec.schedule is not None and spec.schedule["every"] == "update"
    assert (spec.schedule["epochs"], spec.schedule["power"], spec.schedule["warmup_epochs"]) == (7, 0.9, 1)
    assert compose.run_spec(composed(f"data.root={tmp_path}", "protocol=smoke")).schedule is None


def test_a_file_of_weights_enters_a_runs_identity_by_its_contents(tmp_path: Path) -> None:
    """And not by its path."""
    paths = [tmp_path / name for name in ("one.pth", "the same.pth", "other.pth")]
    for path, data in zip(paths, (b"1", b"1", b"2"), strict=True):
        path.write_bytes(data)
    specs = [compose.run_spec(composed(f"data.root={tmp_path}", f"model.weights='{path}'")) for path in paths]
    assert specs[0].identity == specs[1].identity != specs[2].identity
    assert specs[0].model["weights"] == f"sha256:{hashlib.sha256(b'1').hexdigest()}"
    names = {compose.run_spec(composed(f"data.root={tmp_path}", f"model.weights={name}")).identity for name in PLAIN}
    assert len(names) == 3 and specs[0].identity not in names
    with pytest.raises(DataError, match=r"model\.weights .*absent\.pth"):
        compose.run_spec(composed(f"data.root={tmp_path}", f"model.weights={tmp_path}/absent.pth"))


PLAIN = ("coco", "backbone", "none")


@pytest.mark.parametrize(
    "options",
    [
        {"base_size": 0},
        {"base_size": 40.0},
        {"crop": 0},
        {"crop": True},
        {"evaluate_every": 0},
        {"precision": "float16"},
        {"precision": None},
        {"channels_last": "yes"},
        {"channels_last": 1},
        {"splits": "train/test"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_an_option_that_cannot_be_used_is_refused(voc: Path, options: dict[str, Any]) -> None:
    """In one sentence that names it, before anything is trained."""
    with pytest.raises(ConfigError, match=next(iter(options))) as raised:
        tasks.build("tasks.seg.Segmentation", settings(voc), OPTIONS | options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "imagenet"}, "model.weights"),
        ({"weights": None}, "model.weights"),
        ({"weights": False}, "model.weights"),
        ({"norm_momentum": 0}, "model.norm_momentum"),
        ({"norm_momentum": 1.5}, "model.norm_momentum"),
        ({"norm_momentum": math.nan}, "model.norm_momentum"),
        ({"norm_momentum": True}, "model.norm_momentum"),
        ({"norm_momentum": "slow"}, "model.norm_momentum"),
        ({"width": 2}, "model.width"),
    ],
    ids=str,
)
def test_a_model_that_cannot_be_built_is_refused(voc: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(voc, model=NOTHING | options)


def test_a_model_of_another_task_is_refused(voc: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.weights"):
        make(voc, model={"embedding": 1, "hidden": 2})


# --- learning ------------------------------------------------------------------------------------------------------


def test_every_weight_of_the_network_is_trained(voc: Path) -> None:
    task = make(voc, data_limit=2)
    task.model.train()
    before = [weight.detach().clone() for weight in task.model.parameters()]
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.01)
    for _ in range(2):
        assert bool(task.training_step(next(iter(task.batches(0))), {"segmenter": optimizer})["loss"].isfinite())
    assert all(weight.grad is not None for weight in task.model.parameters())
    moved = [not torch.equal(now, old) for now, old in zip(task.model.parameters(), before, strict=True)]
    assert sum(moved) > 0.9 * len(moved)


def test_the_sharpness_can_be_measured(voc: Path) -> None:
    """The whole network can be differentiated twice."""
    task = make(voc, data_limit=2)
    ((batch, _),) = task.probe(2)
    assert 0 < float(sharpness(lambda: task.loss(batch), list(task.model.parameters()), tolerance=0.5)) < math.inf


# --- runs in the engine --------------------------------------------------------------------------------------------


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each evaluation. What the network predicts is kept beside a run, in place of its picture."""
    evaluate, counted = Segmentation.evaluate, []

    def draw(self: Segmentation, folder: Path) -> None:
        (folder / "predicted").write_bytes(b"".join(mask.tobytes() for mask in self.predicted().predictions))

    monkeypatch.setattr(Segmentation, "evaluate", lambda self: counted.append(1) or evaluate(self))
    monkeypatch.setattr(Segmentation, "draw", draw)
    return counted


def test_what_the_published_weights_can_do_is_measured_once_and_kept(
    voc: Path, published: dict[str, Path], tmp_path: Path, evaluations: list[int]
) -> None:
    """Recorded beside the result, kept through a kill, and handed on with a shared beginning."""
    run = replace(TASKS["seg"], overrides=(*TASKS["seg"].overrides, f"model.weights='{published['coco']}'"))
    start = run.build(voc)
    with evaluating(start):
        expected = start.evaluate()["miou"]

    def train(folder: str, optimizer: str, **options: Any) -> int:
        evaluations.clear()
        run.train(voc, tmp_path / folder, run.spec(optimizer), **options)
        return len(evaluations)

    spec = run.spec("tmsgd")
    assert train("alone", "tmsgd") == 1 + EPOCHS
    alone = outcome(tmp_path / "alone", spec)
    assert alone["initial"] == expected == store.read_runs(tmp_path / "alone")["initial"].item()

    with pytest.raises(Killed):
        train("torn", "tmsgd", dies_at=(1, 1))
    assert train("torn", "tmsgd") == EPOCHS - 1
    assert outcome(tmp_path / "torn", spec) == alone

    shared = {"share_prefix": True, "keep_trunks": True}
    train("shared", "sgd", **shared)
    assert train("shared", "tmsgd", **shared) == EPOCHS - SWITCH
    assert outcome(tmp_path / "shared", spec) == alone


def test_the_smoke_recipe_learns(synthetic_data: Callable[[str], Path]) -> None:
    """Its mean IoU is well above that of calling everything background."""
    values = yaml.safe_load((CONF / "task/seg.yaml").read_text(encoding="utf-8"))["smoke"]
    options = OPTIONS | {"base_size": values["base_size"], "crop": values["crop"]}
    recipe = {"weights": values["weights"], "norm_momentum": values["norm_momentum"]}
    changes = {"data_limit": values["limit"], "batch_size": values["batch_size"], "model": recipe}
    task = make(synthetic_data("voc2007"), options, **changes)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=values["lr"])
    masks = [task.evaluation_example(number)[1] for number in range(len(task.test))]
    background = sum(int((mask == 0).sum()) for mask in masks) / sum(int((mask != 255).sum()) for mask in masks)
    constant = 100 * background / len({label for mask in masks for label in mask.unique().tolist()} - {255})
    for epoch in range(values["epochs"]):
        task.model.train()
        for batch in task.batches(epoch):
            task.training_step(batch, {"segmenter": optimizer})
        with evaluating(task):
            measured = task.evaluate()
        if measured["miou"] > constant + 10 and measured["pixel_accuracy"] > 100 * background:
            return
    pytest.fail(f"{measured} after {values['epochs']} epochs")


# --- the sharpness -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_hard_sigmoid_is_torchs_to_the_bit(dtype: torch.dtype) -> None:
    x = torch.cat([4 * torch.randn(10_000, generator=generator(0)), torch.tensor([-3.0, 3.0, math.inf, math.nan])])
    inputs = [x.to(dtype).requires_grad_() for _ in range(2)]
    outputs = [model.HardSigmoid()(inputs[0]), F.hardsigmoid(inputs[1])]
    along = torch.randn(len(x), generator=generator(1)).to(dtype)
    gradients = [torch.autograd.grad(y, x, along)[0] for x, y in zip(inputs, outputs, strict=True)]
    assert torch.equal(outputs[0].nan_to_num(9), outputs[1].nan_to_num(9)) and torch.equal(*gradients)


def test_the_hard_sigmoid_can_be_differentiated_twice() -> None:
    x = torch.tensor([-4.0, -2.5, 0.1, 2.9, 5.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: model.HardSigmoid()(x).pow(2), x)


def test_no_layer_of_the_network_lacks_a_second_derivative(voc: Path) -> None:
    layers = list(make(voc).model.modules())
    assert not any(isinstance(layer, nn.Hardsigmoid) for layer in layers)
    assert sum(isinstance(layer, model.HardSigmoid) for layer in layers) == 8
