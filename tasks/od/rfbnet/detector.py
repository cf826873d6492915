"""RFBNet's examples, loss and detections."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import batched_nms
from torchvision.transforms import v2

from tasks.compute import normalise
from tasks.od import vgg
from tasks.od.detector import Batch, DetectedBoxes, Detector, Example
from tasks.od.features import kept_features
from tasks.od.rfbnet.augmentation import resize, ssd_augmentation
from tasks.od.rfbnet.loss import multi_box
from tasks.od.rfbnet.network import RFBNet
from tasks.od.rfbnet.priors import SIDE, decode, priors
from tasks.voc import ImageSplit
from tmsgd_bench.data.packed import Chosen, Packed
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.task import TaskSettings
from tmsgd_bench.voc import CLASSES, Objects

# All but AT_ONCE change results: whoever changes one raises tmsgd_bench.version.BENCHMARK_VERSION.
SCORE_THRESHOLD = 0.01
"""Boxes with this score or less are left out."""
NMS_IOU = 0.45
"""IoU above which a box is left out if a surer one has its class."""
CANDIDATES = 400
"""Boxes of each image and class that come to non-maximum suppression, as in SSD: an untrained network has thousands."""
AT_ONCE = 3
"""Images whose boxes come to suppression together. Up to 25,000 boxes torchvision compares in one go on a GPU; more it
takes class by class of each image, waiting for each: most of the time of testing a network that is not sure of much."""
MAX_DETECTIONS = 200
"""Boxes of an image at most."""
FEATURES = ("conv4_3", "pool5")
"""Names of VGG16's maps in examples and batches."""


class RFBDetector(Detector):
    """RFBNet-300 with SSD's augmentation.

    Args:
        settings: the run's.
        width: channels of the first convolution.
        head_width, frozen_stages: see :class:`~tasks.od.rfbnet.network.RFBNet`.
        weights: see :func:`tasks.od.vgg.initial_weights`.
        augment: "ssd" or "none".
        keep_features: compute VGG16's features of each image once, and keep them on disk; all stages must be frozen,
            and ``augment`` "none".

    Raises:
        ConfigError: the weights are of another network.
        DataError: the weights are missing, cannot be downloaded, or are damaged.
    """

    network: RFBNet
    evaluation_batch = 16

    def __init__(
        self,
        settings: TaskSettings,
        width: int,
        head_width: int | None,
        weights: str,
        frozen_stages: int,
        keep_features: bool,
        augment: str,
    ) -> None:
        self.augment, self.keep_features, self.batch_size = augment, keep_features, settings.batch_size
        self.network = RFBNet(width, head_width, frozen_stages)
        if (initial := vgg.initial_weights(weights, width, settings.weights_folder)) is not None:
            self.network.load_vgg(*initial)
        if keep_features:
            self.network.to(settings.device)
        self.priors = priors().to(settings.device)

    def training_examples(self, split: ImageSplit) -> Callable[[int], Example]:
        """See :class:`Detector`. Difficult objects are trained on too, as in the published network.

        Raises:
            ConfigError: a batch would be a single image, whose last map has one cell: nothing to normalise over. Or the
                features that are to be kept do not fit into memory.
        """
        if 1 in (self.batch_size, len(split) % self.batch_size):
            raise ConfigError(
                f"batch_size={self.batch_size} makes a batch of a single one of {len(split)} training images, over "
                "which RFBNet cannot normalise: choose another batch_size or data.limit."
            )
        transform = ssd_augmentation() if self.augment == "ssd" else resize()
        return _TrainingExamples(self._pictures(split, transform), split.objects)

    def evaluation_examples(self, split: ImageSplit) -> Callable[[int], Example]:
        """See :class:`Detector`.

        Raises:
            ConfigError: the features that are to be kept do not fit into memory.
        """
        return _EvaluationExamples(self._pictures(split, resize()))

    def _pictures(self, split: ImageSplit, transform: v2.Transform) -> _Pictures:
        pictures = _Pictures(split.photos, transform)
        if not self.keep_features:
            return pictures
        shapes = self.network.shapes

        def compute(number: int) -> Tensor:
            pixels = pictures.of(number)["image"].to(split.settings.device)
            maps = self.network.features(normalise(pixels[None]))
            return torch.cat([features.flatten() for features in maps])[None, None]

        numbers = sum(map(math.prod, shapes))
        kept = kept_features(
            split, "rfbnet-features", self.network.stages, {"side": SIDE}, [(1, 1, numbers)] * len(split), compute
        )
        return replace(pictures, features=kept, shapes=shapes)

    @staticmethod
    def collate(examples: Sequence[Any]) -> Batch:
        """Images (uint8, (images, 3, 300, 300)), or the two maps of their features (float32, (images, channels, rows,
        columns)), with padded boxes and labels, or with their sizes as published."""
        seen = {"image": "images"} if "image" in examples[0] else {name: name for name in FEATURES}
        batch = {plural: torch.stack([example[key] for example in examples]) for key, plural in seen.items()}
        if "size" in examples[0]:
            return {**batch, "sizes": torch.stack([example["size"] for example in examples])}
        most = max(len(example["labels"]) for example in examples)
        boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(len(examples), most, 1)
        labels = torch.zeros(len(examples), most, dtype=torch.int64)
        for number, example in enumerate(examples):
            count = len(example["labels"])
            boxes[number, :count], labels[number, :count] = example["boxes"], example["labels"]
        return {**batch, "boxes": boxes, "labels": labels}

    def _answers(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if "images" in batch:
            offsets, logits = self.network(normalise(batch["images"]))
        else:
            offsets, logits = self.network.of_features(*(batch[name] for name in FEATURES))
        return offsets.float(), logits.float()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """See :class:`Detector`."""
        loss_boxes, loss_classes = multi_box(*self._answers(batch), batch["boxes"], batch["labels"], self.priors)
        return {"loss_boxes": loss_boxes, "loss_classes": loss_classes}

    def detect(self, batch: Batch) -> DetectedBoxes:
        """See :class:`Detector`."""
        offsets, logits = self._answers(batch)
        # Of the outputs themselves: an infinite offset would end as a box at the image's border.
        usable = offsets.isfinite().all(dim=2) & logits.isfinite().all(dim=2)
        boxes = decode(offsets, self.priors).clamp(0.0, 1.0)
        scores = logits.softmax(dim=2)[..., 1:]
        detected = select(boxes, scores.where(usable[..., None], 0.0))
        rows, columns = batch["sizes"][detected.images].unbind(dim=1)
        scale = torch.stack([columns, rows, columns, rows], dim=1)
        return DetectedBoxes(detected.images, detected.labels, detected.boxes * scale, detected.scores)


# Classes of the module, with what they need: a worker that is not forked gets them pickled.


@dataclass(frozen=True)
class _Pictures:
    """What the network sees of images.

    Args:
        photos: as published.
        transform: makes photos 300 x 300.
        features: of every image, both maps one after the other; None for a network that sees the pixels.
        shapes: of the two maps.
    """

    photos: Chosen
    transform: v2.Transform
    features: Packed | None = None
    shapes: tuple[tuple[int, int, int], ...] = ()

    def of(self, number: int, **objects: Tensor) -> Example:
        """An ``image``, uint8, or its ``features``; and its objects' ``boxes`` and ``labels``, where they are then."""
        if self.features is None:
            made: Example = self.transform({"image": tv_tensors.Image(self.photos[number]), **objects})
            return {name: value.as_subclass(Tensor) for name, value in made.items()}
        numbers = self.features[number].flatten().split([math.prod(shape) for shape in self.shapes])
        maps = {name: of_map.view(shape) for name, of_map, shape in zip(FEATURES, numbers, self.shapes, strict=True)}
        # Without the image: torchvision would take the labels for one if they came along.
        moved = {"boxes": self.transform(objects["boxes"]).as_subclass(Tensor)} if objects else {}
        return {**maps, **objects, **moved}


@dataclass(frozen=True)
class _TrainingExamples:
    pictures: _Pictures
    objects: Sequence[Objects]

    def __call__(self, number: int) -> Example:
        objects, size = self.objects[number], self.pictures.photos[number].shape[1:]
        boxes = tv_tensors.BoundingBoxes(
            objects.boxes, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=tuple(size)
        )
        example = self.pictures.of(number, boxes=boxes, labels=objects.labels + 1)
        return {**example, "boxes": example["boxes"] / SIDE}


@dataclass(frozen=True)
class _EvaluationExamples:
    pictures: _Pictures

    def __call__(self, number: int) -> Example:
        return {**self.pictures.of(number), "size": torch.tensor(self.pictures.photos[number].shape[1:])}


def select(boxes: Tensor, scores: Tensor) -> DetectedBoxes:
    """The boxes that are left after thresholds and non-maximum suppression, of all classes at once.

    Args:
        boxes: float, shape (images, priors, 4): x1, y1, x2, y2 in shares of the image.
        scores: float, shape (images, priors, 20).
    """
    parts = [_select(*chunk) for chunk in zip(boxes.split(AT_ONCE), scores.split(AT_ONCE), strict=True)]
    images = [selected.images + number * AT_ONCE for number, selected in enumerate(parts)]
    others = (torch.cat([getattr(selected, name) for selected in parts]) for name in ("labels", "boxes", "scores"))
    return DetectedBoxes(torch.cat(images), *others)


def _select(boxes: Tensor, scores: Tensor) -> DetectedBoxes:
    best, priors_ = scores.transpose(1, 2).topk(min(CANDIDATES, scores.shape[1]), dim=2)
    images, labels, ranks = (best > SCORE_THRESHOLD).nonzero(as_tuple=True)
    candidates = boxes[images, priors_[images, labels, ranks]]
    candidate_scores = best[images, labels, ranks]
    chosen = batched_nms(candidates * SIDE, candidate_scores, images * len(CLASSES) + labels, NMS_IOU)  # surest first
    chosen = chosen[_first_of_each(images[chosen], MAX_DETECTIONS)]
    return DetectedBoxes(images[chosen], labels[chosen], candidates[chosen], candidate_scores[chosen])


def _first_of_each(images: Tensor, count: int) -> Tensor:
    """Which elements are among the first so many of their image: bool, of the same shape."""
    order = images.argsort(stable=True)
    sorted_ = images[order]
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device) - torch.searchsorted(sorted_, sorted_)
    return ranks < count
