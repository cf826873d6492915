"""Fast R-CNN as a detector of task=od: how its examples are made, what it minimises, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms
from torchvision.transforms.v2.functional import resize

from tasks.compute import normalise
from tasks.od import vgg
from tasks.od.detector import Batch, DetectedBoxes, Detector, Example
from tasks.od.fast_rcnn import boxes as geometry
from tasks.od.fast_rcnn.network import Network
from tasks.od.fast_rcnn.regions import Proposals, Source, proposals
from tasks.od.fast_rcnn.sampling import UNUSED, sample
from tasks.od.features import kept_features
from tasks.voc import ImageSplit
from tmsgd_bench.data.packed import Chosen, Packed
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
        hidden, feature_scale: see :class:`~tasks.od.fast_rcnn.network.Network`.
        keep_features: compute the features of each image once, and keep them on disk; all stages must be frozen.
        flip: flip images for training half the time.
        short_side, long_side: see :class:`Scale`.
        test_proposals: at most so many of an image are tested, the first ones; None for all.
        proposals: see :class:`~tasks.od.fast_rcnn.regions.Source`.

    Raises:
        ConfigError: the weights are of another network.
        DataError: published weights are missing or damaged.
    """

    network: Network
    evaluation_batch = 1

    def __init__(
        self,
        settings: TaskSettings,
        width: int,
        weights: str,
        frozen_stages: int,
        hidden: int | None,
        feature_scale: float,
        keep_features: bool,
        flip: bool,
        short_side: int,
        long_side: int,
        test_proposals: int | None,
        proposals: Mapping[str, Any],
    ) -> None:
        self.scale, self.flip, self.keep_features = Scale(short_side, long_side), flip, keep_features
        self.source = Source.of(proposals)
        self.test_source = replace(self.source, limit=min(self.source.limit, test_proposals or self.source.limit))
        self.network = Network(width, frozen_stages, hidden, feature_scale)
        if start := vgg.initial_weights(weights, width, settings.weights_folder):
            self.network.load_published(*start)
        self.network.to(settings.device)

    def training_examples(self, split: ImageSplit) -> Callable[[int], Example]:
        """See :class:`~tasks.od.detector.Detector`; an example has 64 regions, some of which may be unused."""
        pictures = self._pictures(split, self.flip)
        return _TrainingExamples(pictures, split.objects, proposals(split, self.source), self.flip)

    def evaluation_examples(self, split: ImageSplit) -> Callable[[int], Example]:
        """See :class:`~tasks.od.detector.Detector`; an example has the proposals of its image that are tested."""
        return _EvaluationExamples(self._pictures(split, flip=False), proposals(split, self.test_source))

    def _pictures(self, split: ImageSplit, flip: bool) -> Pictures:
        """What the network sees of a split's images.

        Raises:
            ConfigError: the features that are to be kept do not fit into memory.
        """
        pictures = Pictures(split.photos, self.scale)
        if not self.keep_features:
            return pictures
        frozen, options = self.network.stages, {"scale": asdict(self.scale), "flip": flip}
        sides = [False, True] if flip else [False]
        shapes = [self.network.shape(*pictures.size(number)) for _ in sides for number in range(len(split))]

        def compute(number: int) -> Tensor:
            flipped, image = divmod(number, len(split))
            pixels = pictures.image(image, bool(flipped)).to(split.settings.device)
            return self.network.features(normalise(pixels[None]))[0]

        features = kept_features(split, "fast-rcnn-features", frozen, options, shapes, compute)
        return replace(pictures, features=features)

    @staticmethod
    def collate(examples: Sequence[Any]) -> Batch:
        """Images padded at the right and at the bottom to the size of the largest, and the regions of all of them.

        Returns:
            ``images``: uint8, (images, 3, height, width), or their ``features``, float32, (images, channels, rows,
            columns); ``sizes``: int64, (images, 2), their heights and widths without the padding; ``boxes``: float32,
            (regions, 4); ``owners``: int64, (regions,), each region's image; of training examples ``labels``,
            (regions,), and ``targets``, (regions, 4); of test examples ``published``, (images, 2), the heights and
            widths of the images as published.
        """
        seen, together = ("image", "images") if "image" in examples[0] else ("features", "features")
        counts = torch.tensor([len(example["boxes"]) for example in examples])
        batch = {
            together: _padded([example[seen] for example in examples]),
            "sizes": torch.stack([example["size"] for example in examples]),
            "owners": torch.arange(len(examples)).repeat_interleave(counts),
        }
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

    def detect(self, batch: Batch) -> DetectedBoxes:
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
        detected = DetectedBoxes(owners[whole], classes[whole], boxes[whole], scores[rows, classes + 1][whole])
        return _as_published(_non_maximum_suppressed(detected), batch)

    def _outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        boxes, owners = batch["boxes"], batch["owners"]
        if "features" in batch:
            logits, deltas = self.network.of_regions(batch["features"], boxes, owners)
        else:
            logits, deltas = self.network(normalised(batch), boxes, owners)
        return logits.float(), deltas.float()


def normalised(batch: Batch) -> Tensor:
    """The images as published weights expect them, float32, with zeros as padding."""
    images, sizes = batch["images"], batch["sizes"]
    rows, columns = (torch.arange(extent, device=sizes.device) for extent in images.shape[2:])
    inside = (rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])
    return normalise(images) * inside[:, None]


def _non_maximum_suppressed(detected: DetectedBoxes) -> DetectedBoxes:
    """After non-maximum suppression, the surest first, and not too many of an image."""
    kept = batched_nms(detected.boxes, detected.scores, detected.images * len(CLASSES) + detected.labels, NMS_IOU)
    images = detected.images[kept]
    kept = torch.cat([kept[:0], *(kept[images == image][:MAX_DETECTIONS] for image in images.unique().tolist())])
    return DetectedBoxes(detected.images[kept], detected.labels[kept], detected.boxes[kept], detected.scores[kept])


def _as_published(detected: DetectedBoxes, batch: Batch) -> DetectedBoxes:
    """With boxes in pixels of the images as published."""
    sizes, published = batch["sizes"][detected.images], batch["published"][detected.images]
    boxes = detected.boxes * (published / sizes).float().flip(1).repeat(1, 2)
    return DetectedBoxes(detected.images, detected.labels, geometry.clip(boxes, published), detected.scores)


def _padded(maps: Sequence[Tensor]) -> Tensor:
    """Maps of different sizes, (channels, height, width) each, in one tensor, with zeros at the right and the bottom.

    Zeros behind the features of an image change no region's maxima: after a ReLU nothing is below 0.
    """
    extents = torch.tensor([features.shape[1:] for features in maps])
    padded = maps[0].new_zeros(len(maps), len(maps[0]), *extents.amax(dim=0).tolist())
    for place, features, (height, width) in zip(padded, maps, extents.tolist(), strict=True):
        place[:, :height, :width] = features
    return padded


@dataclass(frozen=True)
class Pictures:
    """What the network sees of images.

    Args:
        photos: as published.
        scale: of the images that the network sees.
        features: of every image, and behind them, where images are flipped, those of every flipped one; None for a
            network that sees the pixels.
    """

    photos: Chosen
    scale: Scale
    features: Packed | None = None

    def size(self, number: int) -> tuple[int, int]:
        """Height and width of a resized image."""
        return self.scale.size(*self.photos[number].shape[1:])

    def image(self, number: int, flipped: bool) -> Tensor:
        """A resized image: uint8, (3, height, width)."""
        image = resize(self.photos[number], list(self.size(number)), antialias=True)
        return image.flip(2) if flipped else image

    def of(self, number: int, flipped: bool = False) -> Example:
        """What an example shows: an ``image`` or its ``features``, and its ``size`` in pixels."""
        size = torch.tensor(self.size(number))
        if self.features is None:
            return {"image": self.image(number, flipped), "size": size}
        return {"features": self.features[number + flipped * len(self.photos)], "size": size}

    def factors(self, number: int) -> Tensor:
        """What coordinates of a photo are multiplied by in its resized image; float32, shape (4,)."""
        (height, width), (own_height, own_width) = self.photos[number].shape[1:], self.size(number)
        return torch.tensor([own_width / width, own_height / height]).repeat(2)


@dataclass(frozen=True)
class _TrainingExamples:
    """Flipped half the time, if at all; the regions are drawn anew each time."""

    pictures: Pictures
    objects: Sequence[Objects]
    proposals: Proposals
    flip: bool

    def __call__(self, number: int) -> Example:
        objects, boxes = self.objects[number], self.proposals[number]
        truth, width = objects.boxes, self.pictures.photos[number].shape[2]
        flipped = self.flip and bool(torch.rand(()) < 0.5)
        if flipped:
            truth, boxes = geometry.mirror(truth, width), geometry.mirror(boxes, width)
        factors = self.pictures.factors(number)
        sampled = sample(boxes * factors, Objects(truth * factors, objects.labels, objects.difficult))
        shown = self.pictures.of(number, flipped)
        return {**shown, "boxes": sampled.boxes, "labels": sampled.labels, "targets": sampled.targets}


@dataclass(frozen=True)
class _EvaluationExamples:
    pictures: Pictures
    proposals: Proposals

    def __call__(self, number: int) -> Example:
        boxes = self.proposals[number] * self.pictures.factors(number)
        published = torch.tensor(self.pictures.photos[number].shape[1:])
        return {**self.pictures.of(number), "boxes": boxes, "published": published}
