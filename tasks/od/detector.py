"""What the task asks of a detector: examples, losses, and boxes found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tasks.voc import ImageSplit

Example = dict[str, Tensor]
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class DetectedBoxes:
    """Boxes found in several images.

    Args:
        images: int64, shape (boxes,): position of each box's image in its batch.
        labels: int64, shape (boxes,): 0 to 19.
        boxes: float32, shape (boxes, 4): x1, y1, x2, y2 in pixels of the image as published (see tmsgd_bench.voc).
        scores: float32, shape (boxes,): from 0 to 1.
    """

    images: Tensor
    labels: Tensor
    boxes: Tensor
    scores: Tensor


class Detector(ABC):
    """A network that finds objects, and how its examples are made.

    The functions that make examples run in worker processes and draw what is random from torch's CPU stream. They must
    not touch the network.

    Attributes:
        network: what is trained.
        evaluation_batch: images that are evaluated together.
    """

    network: nn.Module
    evaluation_batch: int

    @abstractmethod
    def training_examples(self, split: ImageSplit) -> Callable[[int], Example]:
        """A function from an image's number to an augmented training example, of CPU tensors.

        Raises:
            ConfigError: the settings do not fit the images.
            DataError: something that the examples need is missing or damaged.
        """

    @abstractmethod
    def evaluation_examples(self, split: ImageSplit) -> Callable[[int], Example]:
        """The same for images to test on, without anything random."""

    @staticmethod
    @abstractmethod
    def collate(examples: Sequence[Any]) -> Batch:
        """Several examples as one batch."""

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar losses of a batch on the network's device, by name; what is minimised is their sum."""

    @abstractmethod
    def detect(self, batch: Batch) -> DetectedBoxes:
        """What is found in a batch of test examples: finite boxes within their images, after non-maximum suppression.

        Nothing where the network's outputs are not finite. Called in evaluation mode and without gradients.
        """


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch on a device."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
