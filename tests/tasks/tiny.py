"""Every task with settings, and on data, with which it trains in milliseconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor
from whole_runs import Killed, make_options

import tasks
from tmsgd_bench.data.catalog import find
from tmsgd_bench.data.synthetic import avazu
from tmsgd_bench.engine import compose, schema
from tmsgd_bench.engine.runner import Outcome, run
from tmsgd_bench.engine.spec import RunSpec, without
from tmsgd_bench.task import Metric, Task, TaskSettings
from tmsgd_bench.voc import CLASSES

CONF = Path(__file__).resolve().parents[2] / "conf"
CPU = torch.device("cpu")
EPOCHS, SWITCH = 3, 1
"""Of a run; the switch has epochs before and after it."""
Example = list[Tensor]
VOC = Path("VOCdevkit/VOC2007")
VALUES = {name: min(count, 6) for name, count in avazu.VALUES.items()} | {"device_ip": 300, "device_id": 40}
"""How many values each column of the tiny Avazu has."""


def pairs(batch: tuple[Tensor, ...]) -> list[Example]:
    """The examples of a batch that is a tuple of tensors."""
    return [list(parts) for parts in zip(*batch, strict=True)]


def rfbnet_examples(batch: dict[str, Tensor]) -> list[Example]:
    """The images of a batch, each with its own objects, without the padding."""
    rows = zip(batch["images"], batch["boxes"], batch["labels"], strict=True)
    return [[image, boxes[labels > 0], labels[labels > 0]] for image, boxes, labels in rows]


def fast_rcnn_examples(batch: dict[str, Tensor]) -> list[Example]:
    """The images of a batch without the padding, each with its own regions."""
    examples = []
    for number, (image, (height, width)) in enumerate(zip(batch["images"], batch["sizes"].tolist(), strict=True)):
        examples.append([image[:, :height, :width], *regions_of(batch, number)])
    return examples


def region_examples(batch: dict[str, Tensor]) -> list[Example]:
    """The regions of each image of a batch, without its kept features: these depend on the network's weights."""
    return [[size, *regions_of(batch, number)] for number, size in enumerate(batch["sizes"])]


def regions_of(batch: dict[str, Tensor], number: int) -> Example:
    """The regions of one image of a batch."""
    return [batch[name][batch["owners"] == number] for name in ("boxes", "labels", "targets")]


@cache
def composed(*overrides: str) -> DictConfig:
    """A configuration on synthetic data."""
    with initialize_config_dir(str(CONF)):
        return hydra_compose("config", overrides=["data=synthetic", "protocol=smoke", *overrides])


@cache
def values_of(*overrides: str) -> dict[str, Any]:
    """The same as plain values."""
    return compose.checked(composed(*overrides))


@dataclass(frozen=True)
class Tiny:
    """A task that trains in milliseconds.

    Args:
        overrides: of the configuration.
        metrics: what it measures.
        files: of its data set, each of another kind, which it must name if they are damaged.
        modules: the names of what it trains.
        limit, batch_size: training examples, and those of a step; at least two steps an epoch.
        optimizer: of whole runs.
        lr: of every optimizer but Adam.
        schedule: of the learning rate.
        examples: the examples of a batch.
        loads_ahead: whether workers can make its batches.
        manual: of data that cannot be downloaded, the file to get.
    """

    overrides: tuple[str, ...]
    metrics: tuple[Metric, ...]
    files: tuple[str, ...]
    modules: tuple[str, ...]
    limit: int = 8
    batch_size: int = 4
    optimizer: str = "tmsgdm"
    lr: float = 0.02
    schedule: dict[str, Any] | None = None
    examples: Callable[[Any], list[Example]] = pairs
    loads_ahead: bool = False
    manual: str = ""

    @property
    def values(self) -> dict[str, Any]:
        """All settings."""
        return values_of(*self.overrides)

    @property
    def dataset(self) -> str:
        """The name of its data set."""
        name: str = self.values["task"]["dataset"]
        return name

    @property
    def remedy(self) -> str:
        """What the user is told to do about damaged data."""
        return self.manual or f"data prepare {self.dataset}"

    def paths(self, folder: Path) -> list[Path]:
        """The ``files`` in a folder; of an image the first that is trained on."""
        name = (folder / self.files[0]).read_text(encoding="latin-1").split()[0] if self.loads_ahead else ""
        return [folder / file.format(name) for file in self.files]

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return -(-self.limit // self.batch_size)

    def settings(self, folder: Path, **changes: Any) -> TaskSettings:
        """What the task is told about a run; ``changes`` replaces some of it."""
        small = TaskSettings(
            data_folder=folder,
            data_limit=self.limit,
            batch_size=self.batch_size,
            seed=0,
            device=CPU,
            model=without(self.values["model"], "name"),
            fingerprint=find(self.dataset).fingerprint(folder, "synthetic", verify=False),
            weights_folder=folder.parent / "weights",
        )
        return replace(small, **changes)

    def build(self, folder: Path, **changes: Any) -> Task:
        """The task, with initial weights from torch's global stream as it is; ``changes`` replaces settings."""
        options = without(self.values["task"], "name", "dataset", *schema.NOT_OF_THE_TASK)
        return tasks.build(self.values["task"]["_target_"], self.settings(folder, **changes), options)

    def spec(self, optimizer: str, **changes: Any) -> RunSpec:
        """A run by an optimizer; ``changes`` replaces some of the optimizer's settings."""
        described = values_of("task=tc", f"optimizer={optimizer}")["optimizer"] | {
            "lr": 0.001 if optimizer == "adam" else self.lr
        }
        if "switch_epoch" in described:
            described["switch_epoch"] = SWITCH
        return RunSpec(
            task=without(self.values["task"], *schema.NOT_OF_THE_TASK),
            model=self.values["model"],
            data={"kind": "synthetic", "limit": self.limit, "fingerprint": "few examples"},
            optimizer=described | changes,
            epochs=EPOCHS,
            batch_size=self.batch_size,
            schedule=self.schedule,
            seed=0,
        )

    def train(
        self,
        folder: Path,
        root: Path,
        spec: RunSpec,
        dies_at: tuple[int, int] | None = None,
        workers: int = 0,
        **options: Any,
    ) -> Outcome:
        """Start a run, or go on with it; a checkpoint after every epoch.

        Args:
            folder: the data.
            root: the store.
            dies_at: epoch and step before which it is killed; the step behind an epoch's last is the epoch's end, after
                its last update.
            options: of the run.
        """

        def make_task(device: torch.device) -> Task:
            return mortal(self.build(folder, seed=spec.seed, workers=workers, save_predictions=True), dies_at)

        return run(spec, make_options(root, **options), make_task)


def mortal(task: Task, dies_at: tuple[int, int] | None) -> Task:
    """A task that is killed at an epoch and step."""
    batches = task.batches

    def until_death(epoch: int) -> Iterator[Any]:
        for step, batch in enumerate(batches(epoch)):
            if (epoch, step) == dies_at:
                raise Killed
            yield batch
        if (epoch, task.steps_per_epoch) == dies_at:
            raise Killed

    setattr(task, "batches", until_death)  # noqa: B010
    return task


def write(name: str, whole: Path, folder: Path) -> None:
    """Write a few examples of a data set's synthetic data.

    Args:
        whole: the folder of all of them.
        folder: to be made.
    """
    shutil.copytree(whole, folder)
    match name:
        case "voc2007":
            for path in (folder / VOC / "ImageSets").glob("*/*.txt"):
                keep_lines(path, 8 if path.stem in ("train", "trainval") else 3)
        case "sneakers":
            for path in sorted(folder.glob("*.png"))[12:]:
                path.unlink()
        case "fkpd":
            keep_lines(folder / "training_frames_keypoints.csv", 10)
            keep_lines(folder / "test_frames_keypoints.csv", 4)
        case "r8":
            keep_lines(folder / "r8-test-all-terms.txt", 40)
        case "avazu":
            avazu.write_csv(folder / "train.csv", 640, VALUES)


def keep_lines(path: Path, count: int) -> None:
    """Cut a text off behind so many lines."""
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:count]), encoding="utf-8")


def classes_of(kind: str, label: str, names: tuple[str, ...]) -> tuple[Metric, ...]:
    """A metric of each class."""
    return tuple(Metric(f"{kind}_{name}", "%", "max", f"{label} {name}", detail=True) for name in names)


def voc_files(lists: str, train: str, test: str, marked: str) -> tuple[str, ...]:
    """Both lists, and a photo and what is marked in it."""
    folder = f"{VOC}/ImageSets/{lists}"
    return f"{folder}/{train}.txt", f"{folder}/{test}.txt", f"{VOC}/JPEGImages/{{}}.jpg", f"{VOC}/{marked}"


PRECISIONS = (Metric("map", "%", "max", "mAP"), *classes_of("ap", "AP", CLASSES))
IOUS = (
    Metric("miou", "%", "max", "mIoU"),
    Metric("pixel_accuracy", "%", "max", "pixel accuracy"),
    *classes_of("iou", "IoU", ("background", *CLASSES)),
)
ACCURACY = (Metric("accuracy", "%", "max", "ACC"), Metric("test_loss", "nat", "min", "test loss"))
POLY = {
    "_target_": "tmsgd_bench.engine.schedules.WarmupPoly",
    "every": "update",
    "epochs": EPOCHS,
    "warmup_epochs": 1,
    "start_factor": 0.01,
    "power": 0.9,
}
STEPS = {
    "_target_": "tmsgd_bench.engine.schedules.WarmupSteps",
    "every": "update",
    "warmup_epochs": 1,
    "start_lr": 1e-4,
    "milestones": [2],
    "gamma": 0.5,
}
MULTI_STEP = {"_target_": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [SWITCH, 2], "gamma": 0.5}
CIFAR = tuple(f"cifar-10-batches-py/{name}" for name in ("data_batch_1", "data_batch_5", "test_batch"))


def detection(*model: str, examples: Callable[[Any], list[Example]]) -> Tiny:
    """Object detection by one of its models."""
    files = voc_files("Main", "trainval", "test", "Annotations/{}.xml")
    overrides, sizes = ("task=od", *model), {"limit": 4, "batch_size": 2}
    return Tiny(
        overrides, PRECISIONS, files, ("detector",), schedule=STEPS, examples=examples, loads_ahead=True, **sizes
    )


TASKS = {
    "ic vgg": Tiny(
        ("task=ic", "model=vgg11", "model.width=2", "task.channels_last=true"),
        ACCURACY,
        CIFAR,
        ("classifier",),
        schedule=MULTI_STEP,
    ),
    "ic resnet": Tiny(
        ("task=ic", "model=resnet18", "model.width=2", "task.augment=standard", "task.channels_last=false"),
        ACCURACY,
        CIFAR,
        ("classifier",),
        optimizer="tmsgd",
        schedule=MULTI_STEP,
    ),
    "od rfbnet": detection("model=rfbnet", examples=rfbnet_examples),
    "od fast_rcnn": detection("model=fast_rcnn", "model.width=2", "model.short_side=64", examples=fast_rcnn_examples),
    "od fast_rcnn, features kept": detection(
        "model=fast_rcnn",
        "model.width=2",
        "model.short_side=64",
        "model.frozen_stages=5",
        "model.keep_features=true",
        examples=region_examples,
    ),
    "seg": Tiny(
        ("task=seg", "task.base_size=32", "task.crop=32"),
        IOUS,
        voc_files("Segmentation", "train", "val", "SegmentationClass/{}.png"),
        ("segmenter",),
        optimizer="tmsgd",
        limit=4,
        batch_size=2,
        schedule=POLY,
        loads_ahead=True,
    ),
    "fkpd": Tiny(
        ("task=fkpd", "model.blocks=[1,1,1,1]", "model.width=4", "model.hidden=8"),
        (Metric("mse", "", "min", "MSE"), Metric("distance", "px", "min", "mean distance")),
        ("training_frames_keypoints.csv", "test_frames_keypoints.csv"),
        ("keypoints",),
    ),
    "ig": Tiny(
        ("task=ig", "task.features=random", "task.evaluate_every=1", "model.noise=5", "model.filters=2"),
        (
            Metric("random_features_distance", "", "min", "random-features distance"),
            Metric("diversity", "", "max", "diversity"),
        ),
        (),
        ("generator", "discriminator"),
    ),
    "tc": Tiny(
        ("task=tc", "task.tokens=8", "model.embedding=6", "model.hidden=5"),
        ACCURACY,
        ("r8-train-all-terms.txt", "r8-test-all-terms.txt"),
        ("classifier",),
        optimizer="tmsgd",
    ),
    "ctr": Tiny(
        ("task=ctr", "model.embedding=3", "model.hidden=[5,4]"),
        (
            Metric("auc", "", "max", "AUC"),
            Metric("log_loss", "nat", "min", "log-loss"),
            Metric("calibration_error", "", "min", "|predicted / clicked - 1|"),
        ),
        ("train.csv",),
        ("wide_deep",),
        limit=40,
        batch_size=16,
        manual="train.gz",
    ),
}
