"""Fast R-CNN as a detector of task=od: how its examples are made, what it minimises, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms
from torchvision.transforms.v2.functional import resize

from tasks.compute import normalise
from tasks.od import vgg
from tasks.od.detector import Batch, Detector, Example, Found
from tasks.od.fast_rcnn import boxes as geometry
from tasks.od.fast_rcnn.network import Network
from tasks.od.fast_rcnn.regions import Proposals, Source, proposals
from tasks.od.fast_rcnn.sampling import UNUSED, sample
from tasks.voc import ImageSplit
from tmsgd_bench.data.packed import Chosen
from tmsgd_bench.task import TaskSettings
from tmsgd_bench.voc import CLASSES, Objects

# Each of these numbers changes results: whoever changes one raises tmsgd_bench.version.BENCHMARK_VERSION.
SCORE_THRESHOLD = 0.05
"""Boxes with this score or less are left out."""
NMS_IOU = 0.3
"""IoU above which a box is left out if a surer one has its class."""
MAX_DETECTIONS = 100
"""Boxes of one image, over all classes."""


@dataclass(frozen=True)
class Scale:
    """How large images are made: as large as keeps both sides within these, in pixels."""

    short_side: int
    long_side: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image of some height and width."""
        short, long = min(height, width), max(height, width)
        factor = min(self.short_side / short, self.long_side / long)
        return max(1, round(height * factor)), max(1, round(width * factor))


class FastRCNN(Detector):
    """The detector of conf/model/fast_rcnn.yaml.

    Args:
        settings: the run's.
        width: channels of the first stage.
        weights: see :func:`tasks.od.vgg.initial_weights`.
        frozen_stages: how many keep their initial weights.
        short_side, long_side: see :class:`Scale`.
        proposals: see :class:`~tasks.od.fast_rcnn.regions.Source`.

    Raises:
        ConfigError: the weights are of another network.
        DataError: published weights are missing or damaged.
    """

    evaluation_batch = 1

    def __init__(
        self,
        settings: TaskSettings,
        width: int,
        weights: str,
        frozen_stages: int,
        short_side: int,
        long_side: int,
        proposals: Mapping[str, Any],
    ) -> None:
        self.scale = Scale(short_side, long_side)
        self.source = Source.of(proposals)
        self.network = Network(width, frozen_stages)
        if start := vgg.initial_weights(weights, width, settings.weights_folder):
            self.network.load_published(*start)
        self.network.to(settings.device)

    def training_examples(self, split: ImageSplit) -> Callable[[int], Example]:
        """See :class:`~tasks.od.detector.Detector`; an example has 64 regions, some of which may be unused."""
        return _TrainingExamples(split.photos, split.objects, proposals(split, self.source), self.scale)

    def evaluation_examples(self, split: ImageSplit) -> Callable[[int], Example]:
        """See :class:`~tasks.od.detector.Detector`; an example has all proposals of its image."""
        return _EvaluationExamples(split.photos, proposals(split, self.source), self.scale)

    @staticmethod
    def collate(examples: Sequence[Any]) -> Batch:
        """Images padded at the right and at the bottom to the size of the largest, and the regions of all of them.

        Returns:
            ``images``: uint8, (images, 3, height, width); ``sizes``: int64, (images, 2), their heights and widths
            without the padding; ``boxes``: float32, (regions, 4); ``owners``: int64, (regions,), each region's image;
            of training examples ``labels``, (regions,), and ``targets``, (regions, 4); of test examples ``published``,
            (images, 2), the heights and widths of the images as published.
        """
        sizes = torch.tensor([example["image"].shape[1:] for example in examples])
        images = torch.zeros(len(examples), 3, *sizes.amax(dim=0).tolist(), dtype=torch.uint8)
        for place, example, (height, width) in zip(images, examples, sizes.tolist(), strict=True):
            place[:, :height, :width] = example["image"]
        counts = torch.tensor([len(example["boxes"]) for example in examples])
        batch = {"images": images, "sizes": sizes, "owners": torch.arange(len(examples)).repeat_interleave(counts)}
        for name in ("boxes", "labels", "targets"):
            if name in examples[0]:
                batch[name] = torch.cat([example[name] for example in examples])
        if "published" in examples[0]:
            batch["published"] = torch.stack([example["published"] for example in examples])
        return batch

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy in nats and smooth L1 of the boxes of foreground regions, both averaged over all regions."""
        logits, deltas = self._outputs(batch)
        labels, targets = batch["labels"], batch["targets"]
        regions = (labels != UNUSED).sum().clamp(min=1)
        entropy = F.cross_entropy(logits, labels, ignore_index=UNUSED, reduction="sum")
        of_class = deltas[torch.arange(len(labels), device=labels.device), labels.clamp(min=0)]
        distance = F.smooth_l1_loss(of_class, targets, reduction="none").sum(dim=1)
        distances = torch.where(labels > 0, distance, 0.0).sum()
        return {"loss_classes": entropy / regions, "loss_boxes": distances / regions}

    def detect(self, batch: Batch) -> Found:
        """See :class:`~tasks.od.detector.Detector`: scores above SCORE_THRESHOLD, NMS at NMS_IOU in each class, at
        most MAX_DETECTIONS boxes of an image. A region whose outputs are not finite finds nothing."""
        logits, deltas = self._outputs(batch)
        finite = logits.isfinite().all(dim=1) & deltas.isfinite().flatten(1).all(dim=1)
        scores = logits.softmax(dim=1)
        rows, classes = ((scores > SCORE_THRESHOLD) & finite[:, None])[:, 1:].nonzero().unbind(dim=1)
        owners = batch["owners"][rows]
        boxes = geometry.decode(deltas[rows, classes + 1], batch["boxes"][rows])
        boxes = geometry.clip(boxes, batch["sizes"][owners])
        whole = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        detected = Found(owners[whole], classes[whole], boxes[whole], scores[rows, classes + 1][whole])
        return _as_published(_non_maximum_suppressed(detected), batch)

    def _outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits, deltas = self.network(normalised(batch), batch["boxes"], batch["owners"])
        return logits.float(), deltas.float()


def normalised(batch: Batch) -> Tensor:
    """The images as published weights expect them, float32, with zeros as padding."""
    images, sizes = batch["images"], batch["sizes"]
    rows, columns = (torch.arange(extent, device=sizes.device) for extent in images.shape[2:])
    inside = (rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])
    return normalise(images) * inside[:, None]


def _non_maximum_suppressed(found: Found) -> Found:
    """After non-maximum suppression, the surest first, and not too many of an image."""
    kept = batched_nms(found.boxes, found.scores, found.images * len(CLASSES) + found.labels, NMS_IOU)
    images = found.images[kept]
    kept = torch.cat([kept[:0], *(kept[images == image][:MAX_DETECTIONS] for image in images.unique().tolist())])
    return Found(found.images[kept], found.labels[kept], found.boxes[kept], found.scores[kept])


def _as_published(found: Found, batch: Batch) -> Found:
    """With boxes in pixels of the images as published."""
    sizes, published = batch["sizes"][found.images], batch["published"][found.images]
    boxes = found.boxes * (published / sizes).float().flip(1).repeat(1, 2)
    return Found(found.images, found.labels, geometry.clip(boxes, published), found.scores)


@dataclass(frozen=True)
class _TrainingExamples:
    """Flipped half the time; the regions are drawn anew each time."""

    photos: Chosen
    objects: Sequence[Objects]
    proposals: Proposals
    scale: Scale

    def __call__(self, number: int) -> Example:
        photo, objects, boxes = self.photos[number], self.objects[number], self.proposals[number]
        height, width = photo.shape[1:]
        image = resize(photo, list(self.scale.size(height, width)), antialias=True)
        truth = objects.boxes
        if torch.rand(()) < 0.5:
            image, truth, boxes = image.flip(2), geometry.mirror(truth, width), geometry.mirror(boxes, width)
        factors = _factors(photo, image)
        sampled = sample(boxes * factors, Objects(truth * factors, objects.labels, objects.difficult))
        return {"image": image, "boxes": sampled.boxes, "labels": sampled.labels, "targets": sampled.targets}


@dataclass(frozen=True)
class _EvaluationExamples:
    photos: Chosen
    proposals: Proposals
    scale: Scale

    def __call__(self, number: int) -> Example:
        photo = self.photos[number]
        image = resize(photo, list(self.scale.size(*photo.shape[1:])), antialias=True)
        boxes = self.proposals[number] * _factors(photo, image)
        return {"image": image, "boxes": boxes, "published": torch.tensor(photo.shape[1:])}


def _factors(photo: Tensor, image: Tensor) -> Tensor:
    """What coordinates of a photo are multiplied by in its resized image; float32, shape (4,)."""
    (height, width), (own_height, own_width) = photo.shape[1:], image.shape[1:]
    return torch.tensor([own_width / width, own_height / height]).repeat(2)
