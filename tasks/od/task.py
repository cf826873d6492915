"""VOC detection with RFBNet or Fast R-CNN."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks import build_model, voc
from tasks.compute import CHANNELS_LAST, PRECISION, autocast, memory_format
from tasks.od.detector import Batch, DetectedBoxes, Detector, to_device
from tasks.od.figure import SHOWN, Boxes, Shown
from tasks.od.options import OPTIONS
from tasks.od.rfbnet import RFBDetector
from tmsgd_bench.checks import Section, takes, whole
from tmsgd_bench.data.loading import Loader
from tmsgd_bench.results.figure_parts import spread_evenly
from tmsgd_bench.results.store import PREDICTIONS
from tmsgd_bench.seeding import epoch_order
from tmsgd_bench.task import Metric, Task, TaskSettings
from tmsgd_bench.voc import CLASSES, Detections, as_truth, average_precisions, detection_files, mean_average_precision


class ObjectDetection(Task):
    """Boxes around the objects of 20 classes; mean average precision on the test split, as VOC2007 measures it.

    Args:
        settings: the run's.
        splits: lists to train on and to test on, such as "trainval/test".
        evaluate_every: evaluate after every so many epochs.
        precision: "float32", or "bfloat16" for convolutions and matrix products.
        channels_last: whether a pixel's channels lie together in memory.
    """

    options = Section(
        {"splits": voc.SPLIT, "evaluate_every": whole(1), "precision": PRECISION, "channels_last": CHANNELS_LAST}
    )
    splits_training = True
    model_arguments = ("settings",)
    metrics: tuple[Metric, ...] = (
        Metric("map", "%", "max", "mAP"),
        *(Metric(f"ap_{name}", "%", "max", f"AP {name}", detail=True) for name in CLASSES),
    )

    def __init__(
        self, settings: TaskSettings, splits: str, evaluate_every: int, precision: str, channels_last: bool
    ) -> None:
        super().__init__(settings)
        given = {"splits": splits, "evaluate_every": evaluate_every}
        self.options("task", {**given, "precision": precision, "channels_last": channels_last})
        self.autocast = lambda: autocast(precision, settings.device)
        self.detector = build_model(Detector, settings.model, settings=settings)  # type: ignore[type-abstract]
        network = self.detector.network.to(settings.device).to(memory_format=memory_format(channels_last))
        self.modules = {"detector": network}
        self.train, self.test = voc.image_splits(settings, "Main", splits)
        self.train_size, self.evaluate_every = len(self.train), evaluate_every
        self.test_split = "validation" if settings.validates else splits.split("/")[1]
        collate = self.detector.collate
        # First: a detector may refuse the images by their number, before any of them is decoded.
        self.train_loader = Loader(self.detector.training_examples(self.train), collate, settings)
        self.truth = as_truth(self.test.objects)
        self.evaluation_example = self.detector.evaluation_examples(self.test)
        self.evaluation_loader = Loader(self.evaluation_example, collate, settings, keep=False)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The detector's batches, on the run's device."""
        order = partial(epoch_order, self.train_size, self.settings.seed)
        for batch in self.train_loader.epoch(order, self.settings.batch_size, epoch):
            yield to_device(batch, self.settings.device)

    def close(self) -> None:
        """End the workers that make batches."""
        self.train_loader.close()

    def loss(self, batch: Batch) -> Tensor:
        """The sum of the detector's losses."""
        return self.losses(batch)["loss"]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The sum of the detector's losses, and each of them."""
        with self.autocast():
            parts = self.detector.losses(batch)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def evaluate(self) -> dict[str, float]:
        """Mean average precision, and each class's, in percent; NaN for one without objects, left out of the mean."""
        precisions = 100.0 * average_precisions(self.detections(), self.truth, len(CLASSES))
        by_class = {f"ap_{name}": float(value) for name, value in zip(CLASSES, precisions, strict=True)}
        return {"map": mean_average_precision(precisions), **by_class}

    def detections(self) -> Detections:
        """Everything that the detector finds on the split that is evaluated."""
        parts, first = [], 0
        size = self.detector.evaluation_batch
        for batch in self.evaluation_loader.batches(torch.arange(len(self.test)), size):
            detected = self._detect(batch)
            parts.append(DetectedBoxes(detected.images + first, detected.labels, detected.boxes, detected.scores))
            first += size
        return _joined(parts)

    def _detect(self, batch: Batch) -> DetectedBoxes:
        with self.autocast():
            detected = self.detector.detect(to_device(batch, self.settings.device))
        return DetectedBoxes(
            *(part.cpu() for part in (detected.images, detected.labels, detected.boxes, detected.scores))
        )

    def draw(self, folder: Path) -> None:
        """Write ``boxes.png``; with ``save_predictions`` everything that is found, as VOC's official files.

        Raises:
            StoreError: the folder cannot be written.
        """
        self.shown().draw(folder)
        if self.settings.save_predictions:
            detection_files.write(folder / PREDICTIONS, self.test_split, self.test.names, self.detections())

    def shown(self) -> Boxes:
        """What is found on test images that are spread evenly over the split, the same for every run."""
        images = []
        for number in spread_evenly(len(self.test), SHOWN):
            detected = self._detect(self.detector.collate([self.evaluation_example(number)]))
            objects = self.test.objects[number]
            images.append(
                Shown(
                    image=self.test.photos[number].permute(1, 2, 0).numpy(),
                    true_boxes=objects.boxes.numpy(),
                    true_labels=objects.labels.numpy(),
                    boxes=detected.boxes.numpy(),
                    labels=detected.labels.numpy(),
                    scores=detected.scores.numpy(),
                )
            )
        return Boxes(images, CLASSES)


@takes(OPTIONS)
def build(settings: TaskSettings, detector: str, **options: Any) -> Detector:
    """The detector of a name.

    Args:
        settings: the run's.
        detector: "rfbnet" or "fast_rcnn".
        options: see :class:`~tasks.od.rfbnet.RFBDetector` and :class:`~tasks.od.fast_rcnn.FastRCNN`.

    Raises:
        ConfigError: its initial weights are of another network.
        DataError: they are missing or damaged.
    """
    if detector == "rfbnet":
        return RFBDetector(settings, **options)
    from tasks.od.fast_rcnn import FastRCNN

    return FastRCNN(settings, **options)


def _joined(parts: list[DetectedBoxes]) -> Detections:
    columns = {
        name: np.concatenate([getattr(part, name).numpy() for part in parts]) for name in DetectedBoxes.__annotations__
    }
    return Detections(**columns)
