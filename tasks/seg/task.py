"""VOC segmentation with LRASPP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from tasks import build_model, voc
from tasks.compute import CHANNELS_LAST, PRECISION, autocast, memory_format, normalise
from tasks.seg import model
from tasks.seg.figure import SHOWN, Masks
from tasks.seg.folded import unfold
from tasks.seg.quality import accuracy, confusion, intersections_over_unions
from tasks.voc import IGNORED, ImageSplit
from tmsgd_bench.checks import Section, whole
from tmsgd_bench.data.loading import Loader
from tmsgd_bench.data.packed import Chosen
from tmsgd_bench.results.figure_parts import spread_evenly
from tmsgd_bench.seeding import epoch_order
from tmsgd_bench.task import Metric, Task, TaskSettings

Batch = tuple[Tensor, Tensor]


class Segmentation(Task):
    """A class for every pixel; cross-entropy; mean intersection over union on the test split.

    The recipe is torchvision's reference for segmentation: for training an image is rescaled so that its shorter side
    is 0.5 to 2 times ``base_size``, mirrored or not, and a square of ``crop`` pixels is cut out; to test, its shorter
    side is brought to ``base_size``, and its mask with it.

    Args:
        settings: the run's.
        splits: lists to train on and to test on, such as "train/val".
        base_size, crop: pixels.
        evaluate_every: evaluate after every so many epochs.
        precision: "float32", or "bfloat16" for convolutions.
        channels_last: whether a pixel's channels lie together in memory.
    """

    options = Section(
        {
            "splits": voc.SPLIT,
            "base_size": whole(16, 8192),  # pixels of one of the last features
            "crop": whole(16, 8192),
            "evaluate_every": whole(1),
            "precision": PRECISION,
            "channels_last": CHANNELS_LAST,
        }
    )
    splits_training = True
    model_arguments = ("classes", "weights_folder")
    metrics: tuple[Metric, ...] = (
        Metric("miou", "%", "max", "mIoU"),
        Metric("pixel_accuracy", "%", "max", "pixel accuracy"),
        *(Metric(f"iou_{name}", "%", "max", f"IoU {name}", detail=True) for name in model.NAMES),
    )

    def __init__(
        self,
        settings: TaskSettings,
        splits: str,
        base_size: int,
        crop: int,
        evaluate_every: int,
        precision: str,
        channels_last: bool,
    ) -> None:
        super().__init__(settings)
        given = {"splits": splits, "base_size": base_size, "crop": crop, "evaluate_every": evaluate_every}
        self.options("task", {**given, "precision": precision, "channels_last": channels_last})
        self.autocast = lambda: autocast(precision, settings.device)
        self.memory_format = memory_format(channels_last)
        segmenter = build_model(
            model.Segmenter, settings.model, classes=len(model.NAMES), weights_folder=settings.weights_folder
        )
        self.evaluate_at_start = segmenter.trained
        self.model = segmenter.network.to(settings.device).to(memory_format=self.memory_format)
        self.modules = {"segmenter": self.model}
        self.train, self.test = voc.image_splits(settings, "Segmentation", splits)
        self.train_size, self.evaluate_every = len(self.train), evaluate_every
        self.base_size, self.crop = base_size, crop
        if segmenter.folded is not None:
            unfold(segmenter.folded, self._whole_training_images())
        self.train_loader = Loader(training_examples(self.train, base_size, crop), stack, settings)
        self.evaluation_example = evaluation_examples(self.test, base_size)
        self.evaluation_loader = Loader(self.evaluation_example, stack, settings, keep=False)

    def _whole_training_images(self) -> Iterator[Tensor]:
        """One by one, as they would be tested: float32, (1, 3, height, width), normalised."""
        example = evaluation_examples(self.train, self.base_size)
        for number in range(self.train_size):
            yield self._on_device(stack([example(number)]))[0]

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Pairs of images (float32, (batch, 3, crop, crop), normalised) and masks (int64, (batch, crop, crop))."""
        order = partial(epoch_order, self.train_size, self.settings.seed)
        for batch in self.train_loader.epoch(order, self.settings.batch_size, epoch):
            yield self._on_device(batch)

    def _on_device(self, batch: Batch) -> Batch:
        device = self.settings.device
        pixels, masks = (tensor.to(device, non_blocking=True) for tensor in batch)
        images = normalise(pixels).contiguous(memory_format=self.memory_format)
        return images, masks[:, 0].long()

    def close(self) -> None:
        """End the workers that make batches."""
        self.train_loader.close()

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy in nats over the pixels that count."""
        images, masks = batch
        with self.autocast():
            logits = self.model(images)["out"]
        # As a list of pixels: of masks as they are, torch has no deterministic loss on a GPU.
        pixels = logits.float().movedim(1, -1).flatten(0, -2)
        total = F.cross_entropy(pixels, masks.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (masks != IGNORED).sum().clamp(min=1)  # of padding alone there is no mean

    def evaluate(self) -> dict[str, float]:
        """Mean IoU, accuracy, each class's IoU, in percent; NaN for a class without pixels, left out of the mean."""
        classes = len(model.NAMES)
        matrix = torch.zeros((classes, classes), dtype=torch.int64, device=self.settings.device)
        for batch in self.evaluation_loader.batches(torch.arange(len(self.test)), 1):
            images, masks = self._on_device(batch)
            matrix += confusion(self._predict(images), masks, classes)
        ious = 100.0 * intersections_over_unions(matrix)
        by_class = {f"iou_{name}": float(iou) for name, iou in zip(model.NAMES, ious, strict=True)}
        return {"miou": float(ious.nanmean()), "pixel_accuracy": 100.0 * accuracy(matrix), **by_class}

    def _predict(self, images: Tensor) -> Tensor:
        """The likeliest class of every pixel, int64, (batch, height, width)."""
        with self.autocast():
            logits: Tensor = self.model(images)["out"]
        return logits.argmax(dim=1)

    def draw(self, folder: Path) -> None:
        """Write ``masks.png``: a few test images, the same for every run, with their true and predicted masks.

        Raises:
            StoreError: the folder cannot be written.
        """
        self.predicted().draw(folder)

    def predicted(self) -> Masks:
        """What the model predicts on test images that are spread evenly over the split."""
        images, truths, predictions = [], [], []
        for number in spread_evenly(len(self.test), SHOWN):
            pixels, mask = self.evaluation_example(number)
            batch, _ = self._on_device(stack([(pixels, mask)]))
            images.append(pixels.permute(1, 2, 0).numpy())
            truths.append(mask[0].numpy())
            predictions.append(self._predict(batch)[0].cpu().numpy())
        return Masks(images, truths, predictions, model.NAMES)


def training_examples(split: ImageSplit, base_size: int, crop: int) -> Callable[[int], Batch]:
    """A function from an image's number to an augmented example.

    That is the image, uint8, (3, crop, crop), and its mask, uint8, (1, crop, crop). What lies outside the published
    image is black, and 255 in the mask.
    """
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORED}
    transform = v2.Compose(
        [
            v2.RandomResize(base_size // 2, 2 * base_size + 1, antialias=True),  # the upper end is exclusive
            v2.RandomHorizontalFlip(0.5),
            v2.RandomCrop(crop, pad_if_needed=True, fill=fill),
        ]
    )
    return partial(_example, transform, split.photos, split.masks)


def evaluation_examples(split: ImageSplit, base_size: int) -> Callable[[int], Batch]:
    """A function from an image's number to the image (uint8, (3, height, width)) and its mask (uint8, (1, …))."""
    return partial(_example, v2.Resize(base_size, antialias=True), split.photos, split.masks)


def _example(transform: nn.Module, photos: Chosen, masks: Chosen, number: int) -> Batch:
    made: Batch = transform(tv_tensors.Image(photos[number]), tv_tensors.Mask(masks[number]))
    return made


def stack(examples: Sequence[Batch]) -> Batch:
    """Images and masks of one size as two tensors."""
    images, masks = zip(*examples, strict=True)
    return torch.stack([image.as_subclass(Tensor) for image in images]), torch.stack(
        [mask.as_subclass(Tensor) for mask in masks]
    )
