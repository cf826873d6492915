"""CIFAR image classification with VGG and ResNet."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks import build_model, classification
from tasks.compute import to_float
from tasks.ic import data
from tasks.ic.batches import crop_and_flip, draw_crops_and_flips
from tmsgd_bench.checks import Section, choice
from tmsgd_bench.seeding import epoch_order
from tmsgd_bench.task import Metric, Task, TaskSettings

Batch = tuple[Tensor, Tensor]
EVALUATION_BATCH = 500
CHANNELS_LAST_FROM = 32
"""The batch size from which channels_last was measured to be faster on a CPU; docs/tasks/ic.md has the times."""


class ImageClassification(Task):
    """Photos of 32 × 32 pixels, scaled to [0, 1] and nothing else; cross-entropy; accuracy on the test split.

    Args:
        settings: the run's.
        augment: "none", as in the paper, or "standard": random crops out of 40 × 40 pixels, and flips.
        channels_last: whether a pixel's channels lie together in memory; "auto" where that was measured to be faster.
    """

    options = Section({"augment": choice("none", "standard"), "channels_last": choice("auto", True, False)})
    splits_training = True
    model_arguments = ("classes",)
    metrics: tuple[Metric, ...] = classification.METRICS

    def __init__(self, settings: TaskSettings, augment: str, channels_last: bool | str) -> None:
        super().__init__(settings)
        self.options("task", {"augment": augment, "channels_last": channels_last})
        self.augment = augment
        self.memory_format = _memory_format(channels_last, settings)
        self.data = data.load(settings)
        model = build_model(nn.Module, settings.model, classes=self.data.classes)
        self.model = model.to(settings.device).to(memory_format=self.memory_format)
        self.modules = {"classifier": self.model}
        self.train_size = len(self.data.train_labels)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Pairs of images (float32, (batch, 3, 32, 32), from 0 to 1) and labels (int64, (batch,))."""
        order = epoch_order(self.train_size, self.settings.seed, epoch).to(self.settings.device)
        augment = self._augmentation(epoch)
        for chosen in order.split(self.settings.batch_size):
            pixels = augment(self.data.train_images[chosen], chosen)
            yield to_float(pixels, self.memory_format), self.data.train_labels[chosen]

    def _augmentation(self, epoch: int) -> Callable[[Tensor, Tensor], Tensor]:
        """What an epoch does to images (uint8, (batch, 3, 32, 32)) of the given numbers (batch,)."""
        if self.augment == "none":
            return lambda pixels, _: pixels
        drawn = draw_crops_and_flips(self.train_size, self.settings.seed, epoch)
        corners, flips = (part.to(self.settings.device) for part in drawn)
        return lambda pixels, chosen: crop_and_flip(pixels, corners[chosen], flips[chosen])

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy in nats."""
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def evaluate(self) -> dict[str, float]:
        """Accuracy in percent and mean cross-entropy in nats on the split that is evaluated."""
        images, labels = (split.split(EVALUATION_BATCH) for split in (self.data.test_images, self.data.test_labels))
        logits = (self.model(to_float(pixels, self.memory_format)) for pixels in images)
        return classification.evaluate(zip(logits, labels, strict=True), self.settings.device)


def _memory_format(channels_last: bool | str, settings: TaskSettings) -> torch.memory_format:
    if channels_last == "auto":  # on a GPU, where nothing was measured, as torch has it
        channels_last = settings.device.type == "cpu" and settings.batch_size >= CHANNELS_LAST_FROM
    return torch.channels_last if channels_last else torch.contiguous_format
