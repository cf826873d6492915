"""Object detection: what the task measures, draws and writes; its settings; and its runs in the engine."""

from __future__ import annotations

import io
import math
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from modes import evaluating
from networks import Glance
from omegaconf import OmegaConf
from PIL import Image
from tiny import TASKS
from torch import nn
from whole_runs import Killed, history, outcome

import tasks
from tasks.od import ObjectDetection
from tasks.od.detector import Batch, DetectedBoxes
from tasks.od.figure import PICTURE, SHOWN
from tasks.od.rfbnet import RFBDetector
from tmsgd_bench import cli
from tmsgd_bench.engine.optimizers import build_schedulers
from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.task import TaskSettings
from tmsgd_bench.voc import CLASSES, read_objects

CONF = Path(__file__).resolve().parents[2] / "conf"
TARGET = "tasks.od.task.build"
WHOLE: dict[str, Any] = {"head_width": None, "frozen_stages": 0, "keep_features": False}
MODEL: dict[str, Any] = {"detector": "rfbnet", "width": 8, "weights": "none", "augment": "ssd", **WHOLE}
OPTIONS: dict[str, Any] = {
    "splits": "trainval/test",
    "evaluate_every": 1,
    "precision": "float32",
    "channels_last": False,
}
DRAWN = ("aeroplane", "bicycle", "bottle", "cat")
"""The classes of the stand-in."""
TRAINED, TESTED = 8, 3
"""Images of the fixture ``few``."""
RUN = TASKS["od rfbnet"]
YEAR = Path("VOCdevkit/VOC2007")


@pytest.fixture(scope="module")
def few(tiny_data: Callable[[str], Path]) -> Path:
    """The stand-in with lists of a few images, to be read only; what is kept of it lies beside."""
    return tiny_data("voc2007")


@pytest.fixture
def glance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let RFBNet's detector train that network, with everything else its own."""
    monkeypatch.setattr("tasks.od.rfbnet.detector.RFBNet", Glance)


def settings(folder: Path, model: dict[str, Any] | None = None, **changes: Any) -> TaskSettings:
    """Those of a small run; ``changes`` replaces some."""
    small = TaskSettings(
        data_folder=folder,
        data_limit=None,
        batch_size=2,
        seed=0,
        device=torch.device("cpu"),
        model={"_target_": TARGET, **MODEL, **(model or {})},
        fingerprint="few",
        weights_folder=folder.parent / "weights",
    )
    return replace(small, **changes)


def make(
    folder: Path, options: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **changes: Any
) -> ObjectDetection:
    torch.manual_seed(0)
    return ObjectDetection(settings(folder, model, **changes), **(OPTIONS | (options or {})))


def evaluated(task: ObjectDetection) -> dict[str, float]:
    with evaluating(task):
        return task.evaluate()


def drawn(task: ObjectDetection, folder: Path) -> None:
    with evaluating(task):
        task.draw(folder)


# --- what it measures ----------------------------------------------------------------------------------------------


class Oracle:
    """Knows the truth, in a detector's place; asked for one test image after the other.

    Args:
        worse: an image's detections from its true ones.
    """

    def __init__(
        self, task: ObjectDetection, worse: Callable[[DetectedBoxes, int], DetectedBoxes] = lambda found, number: found
    ) -> None:
        self.objects, self.worse, self.asked = task.test.objects, worse, 0

    def __call__(self, batch: Batch) -> DetectedBoxes:
        parts = []
        for place in range(len(batch["images"])):
            number = self.asked % len(self.objects)
            own = self.objects[number]
            sure = torch.full((len(own),), 0.9)
            true = DetectedBoxes(torch.full((len(own),), place), own.labels, own.boxes, sure)
            parts.append(self.worse(true, number))
            self.asked += 1
        names = ("images", "labels", "boxes", "scores")
        return DetectedBoxes(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def blurred(true: DetectedBoxes, number: int) -> DetectedBoxes:
    """Every object twice, moved by up to half its size, with random scores; a third of another class."""
    stream = torch.Generator().manual_seed(number)
    boxes = true.boxes.repeat(2, 1)
    moved = (torch.rand(len(boxes), 2, generator=stream) - 0.5) * (boxes[:, 2:] - boxes[:, :2])
    other = torch.tensor([0, 1, 4, 7, 14])[torch.randint(5, (len(boxes),), generator=stream)]
    labels = true.labels.repeat(2).where(torch.rand(len(boxes), generator=stream) < 2 / 3, other)
    scores = torch.rand(len(boxes), generator=stream)
    return DetectedBoxes(true.images.repeat(2), labels, boxes + moved.repeat(1, 2), scores)


@pytest.mark.usefixtures("glance")
@pytest.mark.parametrize("together", [1, 2, 5, 16])
def test_perfect_detections_are_worth_100(few: Path, together: int) -> None:
    """However many images are tested together; a class without objects has no average precision."""
    task = make(few)
    task.detector.evaluation_batch = together
    task.detector.detect = Oracle(task)  # type: ignore[method-assign]
    found = evaluated(task)
    seen = {int(label) for own in task.test.objects for label in own.labels[~own.difficult]}
    assert {CLASSES[label] for label in seen} <= set(DRAWN) and seen
    for label, name in enumerate(CLASSES):
        value = found[f"ap_{name}"]
        assert value == pytest.approx(100.0, abs=1e-12) if label in seen else math.isnan(value)
    assert found["map"] == pytest.approx(100.0, abs=1e-12)


@pytest.mark.usefixtures("glance")
def test_the_mean_is_over_the_classes_there_are(few: Path) -> None:
    task = make(few)
    task.detector.detect = Oracle(task, blurred)  # type: ignore[method-assign]
    found = evaluated(task)
    own = [value for name, value in found.items() if name != "map" and not math.isnan(value)]
    assert 0 < found["map"] < 100 and found["map"] == pytest.approx(sum(own) / len(own))
    assert math.isnan(found["ap_person"])  # what is found there is wrong, but there is nothing to find


@pytest.mark.usefixtures("glance")
def test_detections_that_are_of_another_image_are_worth_nothing(few: Path) -> None:
    task = make(few)

    def elsewhere(true: DetectedBoxes, number: int) -> DetectedBoxes:
        return DetectedBoxes(true.images, true.labels, true.boxes + 1000.0, true.scores)

    task.detector.detect = Oracle(task, elsewhere)  # type: ignore[method-assign]
    assert evaluated(task)["map"] == 0.0


@pytest.mark.usefixtures("glance")
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_network_that_is_not_finite_finds_nothing(few: Path, bad: float, tmp_path: Path) -> None:
    task = make(few, save_predictions=True)
    with torch.no_grad():
        for weight in task.detector.network.parameters():
            weight.fill_(bad)
    assert evaluated(task)["map"] == 0.0
    drawn(task, tmp_path)
    assert (tmp_path / PICTURE).is_file()
    assert {path.read_text() for path in (tmp_path / "detections").iterdir()} == {""}


# --- batches and steps ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("glance")
def test_an_epoch_shows_every_image_once(few: Path) -> None:
    task = make(few, model={"augment": "none"}, batch_size=3)
    batches = list(task.batches(3))
    assert [len(batch["images"]) for batch in batches] == [3, 3, 2] and task.steps_per_epoch == 3
    shown = torch.cat([batch["images"] for batch in batches])
    example = task.detector.training_examples(task.train)
    everything = torch.stack([example(number)["image"] for number in range(TRAINED)])
    assert len(shown.flatten(1).unique(dim=0)) == TRAINED
    assert torch.equal(shown.flatten(1).unique(dim=0), everything.flatten(1).unique(dim=0))


@pytest.mark.usefixtures("glance")
def test_the_loss_is_the_sum_of_its_recorded_parts(few: Path) -> None:
    task = make(few)
    batch = next(iter(task.batches(0)))
    expected = float(task.loss(batch).detach())
    fresh = make(few)
    found = fresh.training_step(batch, steppers(fresh))
    assert list(found) == ["loss", "loss_boxes", "loss_classes"]
    assert float(found["loss"]) == expected == pytest.approx(float(found["loss_boxes"] + found["loss_classes"]))
    assert not any(loss.requires_grad for loss in found.values())


def steppers(task: ObjectDetection, lr: float = 0.02) -> dict[str, torch.optim.Optimizer]:
    return {"detector": torch.optim.SGD(task.detector.network.parameters(), lr=lr)}


@pytest.mark.usefixtures("glance")
def test_a_training_step_is_one_of_the_summed_loss(few: Path) -> None:
    """Plain gradient descent by hand ends with the same weights, step by step."""
    ours, theirs = make(few), make(few)
    optimizers = steppers(ours)
    for batch in ours.batches(0):
        ours.training_step(batch, optimizers)
        weights = list(theirs.detector.network.parameters())
        losses = theirs.detector.losses(batch)
        gradients = torch.autograd.grad(losses["loss_boxes"] + losses["loss_classes"], weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(0.02 * gradient)
    expected = theirs.detector.network.state_dict()
    for name, value in ours.detector.network.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


def test_training_lowers_the_loss_of_a_batch(few: Path) -> None:
    """RFBNet itself, an eighth as wide: by a third in eight steps on the same two images."""
    task = make(few, model={"augment": "none"})
    optimizers = steppers(task, lr=0.02)
    batch = next(iter(task.batches(0)))
    first = float(task.training_step(batch, optimizers)["loss"])
    assert math.isfinite(first)
    assert any(float(task.training_step(batch, optimizers)["loss"]) < 2 / 3 * first for _ in range(7))


@pytest.mark.usefixtures("glance")
def test_the_number_format_and_the_layout_change_little(few: Path) -> None:
    """bfloat16 has 8 bits; a layout has rounding alone."""
    batch = next(iter(make(few).batches(0)))
    exact = float(make(few).loss(batch).detach())
    half, last = make(few, {"precision": "bfloat16"}), make(few, {"channels_last": True})
    assert float(half.loss(batch).detach()) == pytest.approx(exact, rel=0.03)
    assert float(half.loss(batch).detach()) != exact
    assert float(last.loss(batch).detach()) == pytest.approx(exact, rel=1e-4)
    weights = [p for p in last.detector.network.parameters() if p.dim() == 4 and p.shape[1] > 1]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    for task in (half, last):
        losses = task.training_step(batch, steppers(task))
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in task.detector.network.parameters())
        assert 0.0 <= evaluated(task)["map"] <= 100.0 + 1e-12


# --- pictures and official files -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("glance")
def test_the_official_files_have_the_runs_own_score(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Written by draw, read by ``python -m tmsgd_bench voc-eval``."""
    task = make(few, save_predictions=True)
    task.detector.detect = Oracle(task, blurred)  # type: ignore[method-assign]
    expected = evaluated(task)
    drawn(task, tmp_path)
    folder = tmp_path / "detections"
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"comp4_det_test_{name}.txt" for name in CLASSES)
    assert cli.main(["voc-eval", str(folder), "--devkit", str(few / YEAR), "--format", "csv"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out)).set_index("class")["ap_percent"]
    assert 0 < expected["map"] < 100 and table["mAP"] == pytest.approx(expected["map"], rel=1e-12)
    found = [expected[f"ap_{name}"] for name in CLASSES]
    np.testing.assert_allclose(table[list(CLASSES)].to_numpy(), found, rtol=1e-12)


@pytest.mark.usefixtures("glance")
def test_without_being_asked_a_run_writes_no_detections(few: Path, tmp_path: Path) -> None:
    drawn(make(few), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [PICTURE]
    with Image.open(tmp_path / PICTURE) as picture:
        assert picture.format == "PNG" and picture.width > 400


@pytest.mark.usefixtures("glance")
def test_shown_are_test_images_with_their_own_objects_and_what_is_found(few: Path) -> None:
    task = make(few)
    task.detector.detect = Oracle(task)  # type: ignore[method-assign]
    names = (few / YEAR / "ImageSets/Main/test.txt").read_text().split()
    with evaluating(task):
        shown = task.shown().images
    assert len(shown) == TESTED < SHOWN
    for name, one in zip(names, shown, strict=True):
        true = read_objects(few / YEAR / "Annotations" / f"{name}.xml")
        with Image.open(few / YEAR / "JPEGImages" / f"{name}.jpg") as image:
            assert np.array_equal(one.image, np.asarray(image.convert("RGB")))
        assert np.array_equal(one.true_boxes, true.boxes.numpy())
        assert np.array_equal(one.boxes, one.true_boxes) and np.array_equal(one.labels, true.labels.numpy())


@pytest.mark.usefixtures("glance")
@pytest.mark.parametrize("found", [0.9, 0.3], ids=["sure", "unsure"])
def test_boxes_are_drawn_where_they_are(few: Path, found: float) -> None:
    """Of what is found, all that is sure; or else the five surest, in thin lines."""

    def many(true: DetectedBoxes, number: int) -> DetectedBoxes:
        rows = 7
        boxes = torch.tensor([10.0, 20.0, 40.0, 60.0]) + torch.arange(rows)[:, None]
        scores = found - 0.01 * torch.arange(rows)
        return DetectedBoxes(true.images[:1].expand(rows), true.labels[:1].expand(rows), boxes, scores)

    task = make(few)
    task.detector.detect = Oracle(task, many)  # type: ignore[method-assign]
    with evaluating(task):
        figure = task.shown().figure()
    for axes, own in zip(figure.axes, task.test.objects, strict=False):
        outlines = [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in axes.patches]  # type: ignore[attr-defined]
        true = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in own.boxes.tolist()]
        np.testing.assert_allclose(outlines[: len(true)], true)
        assert len(outlines) - len(true) == (7 if found > 0.5 else 5) == len(axes.texts)
        assert outlines[len(true)] == pytest.approx((10.0, 20.0, 30.0, 40.0))
        assert {patch.get_linewidth() for patch in axes.patches[len(true) :]} == {1.2 if found > 0.5 else 0.5}
        assert axes.texts[0].get_text() == f"{CLASSES[int(own.labels[0])]} {found:.2f}"


@pytest.mark.usefixtures("glance")
def test_a_folder_that_cannot_be_written_is_named(few: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="absent"):
        drawn(make(few), tmp_path / "absent")


# --- settings ------------------------------------------------------------------------------------------------------


def config(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF)):
        values = OmegaConf.to_container(hydra_compose("config", overrides=["task=od", *overrides]), resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


@pytest.mark.parametrize(("protocol", "switch"), [("table2", 10), ("corrected", 200)])
def test_the_settings_of_table_2_are_the_papers(protocol: str, switch: int) -> None:
    """As printed, and with the switch epochs of detection and segmentation exchanged."""
    values = config(f"protocol={protocol}")
    assert (values["epochs"], values["lr"], values["batch_size"], values["switch_epoch"]) == (210, 4e-3, 32, switch)
    assert values["model"] == {
        "_target_": TARGET,
        "name": "rfbnet",
        "detector": "rfbnet",
        "width": 64,
        "weights": "imagenet",
        "augment": "ssd",
        **WHOLE,
    }
    assert values["task"]["evaluate_every"] == 10 and values["task"]["splits"] == "trainval/test"
    assert values["task"]["dataset"] == "voc2007" and "swapped" in values["task"]["reading"]


def test_the_learning_rate_rises_for_5_epochs_and_drops_at_150_and_200() -> None:
    """Linearly from a millionth to 0.004 in 10 updates an epoch, for 210 epochs."""
    values = config("optimizer=sgd")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=values["lr"])
    per_update, per_epoch = build_schedulers(values["optimizer"], values["schedule"], optimizer, 10)
    assert not per_epoch
    rates = []
    for _ in range(210 * 10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for schedule in per_update:
            schedule.step()
    warm = 5 * 10
    rising = [1e-6 + (4e-3 - 1e-6) * step / warm for step in range(warm)]
    expected = np.concatenate([rising, np.full(145 * 10, 4e-3), np.full(50 * 10, 4e-4), np.full(10 * 10, 4e-5)])
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


def test_the_smoke_protocol_is_small_and_needs_no_weights(few: Path) -> None:
    values = config("protocol=smoke")
    assert values["data"]["limit"] * values["epochs"] <= 100 and values["model"]["weights"] == "none"
    assert values["switch_epoch"] < values["epochs"]
    model = {key: value for key, value in values["model"].items() if key != "name"}
    options = {key: values["task"][key] for key in OPTIONS}
    task = tasks.build(values["task"]["_target_"], settings(few, model), options)
    assert isinstance(task, ObjectDetection) and isinstance(task.detector, RFBDetector)
    assert task.evaluate_every == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"splits": "train/test"}, r"task\.splits .*trainval/test, train/val"),
        ({"evaluate_every": 0}, r"task\.evaluate_every"),
        ({"precision": "float16"}, r"task\.precision .*float32, bfloat16"),
        ({"channels_last": "auto"}, r"task\.channels_last"),
        ({"unknown": 1}, "unknown"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_used_is_refused(few: Path, options: dict[str, Any], words: str) -> None:
    """In one sentence that names it, before anything is trained."""
    with pytest.raises(ConfigError, match=words):
        tasks.build("tasks.od.ObjectDetection", settings(few), OPTIONS | options)


@pytest.mark.parametrize("name", [None, "ssd", 5])
def test_an_unknown_detector_is_refused(few: Path, name: Any) -> None:
    with pytest.raises(ConfigError, match=r"model\.detector .*rfbnet, fast_rcnn"):
        make(few, model={"detector": name})


@pytest.mark.usefixtures("glance")
def test_a_limit_that_leaves_one_image_for_a_batch_is_refused(few: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch_size=2 .* 5 .*data\.limit"):
        make(few, data_limit=5)
    assert make(few, data_limit=4).train_size == 4


# --- runs in the engine --------------------------------------------------------------------------------------------


@pytest.fixture
def one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is enough."""
    monkeypatch.setattr("tasks.od.task.SHOWN", 1)


@pytest.mark.usefixtures("one_picture", "glance")
def test_a_run_records_its_losses_and_writes_its_pictures(
    few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And its official files have the mean average precision that it ended with."""
    spec = RUN.spec("tmsgd")
    RUN.train(few, tmp_path, spec)
    rows, folder = history(tmp_path, spec), tmp_path / spec.run_id
    assert set(rows) == {*("epoch", "loss", "loss_boxes", "loss_classes", "map", "lr"), *(f"ap_{c}" for c in CLASSES)}
    np.testing.assert_allclose(rows["loss"], rows["loss_boxes"] + rows["loss_classes"], rtol=1e-6)
    assert rows["map"].notna().tolist() == [False, True, True]
    assert (folder / PICTURE).stat().st_size > 5_000
    arguments = [str(folder / "detections"), "--devkit", str(few / YEAR), "--split", "test", "--format", "csv"]
    assert cli.main(["voc-eval", *arguments]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out)).set_index("class")["ap_percent"]
    assert table["mAP"] == pytest.approx(rows["map"].iloc[-1], rel=1e-9)
    assert any(path.stat().st_size for path in (folder / "detections").iterdir())


@pytest.mark.usefixtures("one_picture")
def test_rfbnet_itself_goes_on_with_the_same_bits(few: Path, tmp_path: Path) -> None:
    """Its weights, running averages and detections, over a death in the first epoch of the multi-step rule."""
    two_images = replace(RUN, limit=2)
    spec = replace(two_images.spec("tmsgd"), epochs=2)
    two_images.train(few, tmp_path / "whole", spec)
    with pytest.raises(Killed):
        two_images.train(few, tmp_path / "torn", spec, dies_at=(1, 0))
    two_images.train(few, tmp_path / "torn", spec)
    assert outcome(tmp_path / "torn", spec) == outcome(tmp_path / "whole", spec)


# --- the real data -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("glance")
def test_the_real_data_set_has_its_published_sizes() -> None:
    """5,011 images to train on and 4,952 to test on, with 12,032 objects that are not difficult."""
    folder = Path(os.environ.get("TMSGD_DATA", "none")) / "voc2007"
    if not (folder / YEAR / "ImageSets/Main/test.txt").is_file():
        pytest.skip("needs the whole VOC2007, test images too: set TMSGD_DATA to the folder of the data sets")
    task = make(folder, batch_size=32, fingerprint="real")
    assert (task.train_size, len(task.test), task.steps_per_epoch) == (5011, 4952, 157)
    assert int((~task.truth.difficult).sum()) == 12_032


def test_what_makes_batches_can_be_handed_to_a_worker_that_is_not_forked(few: Path) -> None:
    """Which is how workers start on macOS, on Windows, and on Linux from Python 3.14 on. The network stays behind."""
    task = ObjectDetection(settings(few), **OPTIONS)
    for make_one in (task.detector.training_examples(task.train), task.detector.evaluation_examples(task.test)):
        packed = pickle.dumps((make_one, task.detector.collate))
        again, collate = pickle.loads(packed)
        batches = []
        for function, together in ((make_one, task.detector.collate), (again, collate)):
            torch.manual_seed(0)
            batches.append(together([function(1), function(2)]))
        assert all(torch.equal(value, batches[1][name]) for name, value in batches[0].items())
        assert b"RFBNet" not in packed


@pytest.mark.usefixtures("glance")
def test_images_are_refused_by_their_number_before_any_is_decoded(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the whole of VOC that would take minutes."""
    for name in ("decode_photos", "read_objects"):
        monkeypatch.setattr(f"tasks.voc.{name}", lambda *_: pytest.fail("something was read"))
    with pytest.raises(ConfigError, match=r"batch_size=7 .* 8 training images"):
        make(few, batch_size=7, fingerprint="not decoded yet")
