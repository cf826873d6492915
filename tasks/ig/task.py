"""Sneakers by a DCGAN."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from tasks import build_model
from tasks.ig import data
from tasks.ig.figure import SAMPLES, Samples
from tasks.ig.inception import InceptionFeatures
from tasks.ig.model import SIDE, Networks
from tasks.ig.quality import DIVERSITY, Quality, choose_network
from tmsgd_bench import files
from tmsgd_bench.checks import Section, choice, items, number, optional, whole
from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.seeding import epoch_order, generator, subset
from tmsgd_bench.task import Metric, Task, TaskSettings

Batch = tuple[Tensor, Tensor]
GENERATION_BATCH = 256
GENERATOR = "generator.pt"


class ImageGeneration(Task):
    """A generator against a discriminator, with an optimizer each; quality and diversity of generated images.

    Args:
        settings: the run's.
        features: "inception", for FID; "fid64", for the distance of 64 features of its network's first layers; or
            "random", for a distance that needs no weights and is no FID.
        evaluation_images: how many images to generate and how many photos to compare them with; None for as many as
            there are photos.
        evaluate_every: evaluate after every so many epochs.
        sample_epochs: after how many epochs to keep images for Figure 2; those of the last epoch are kept in any case.
        label_smoothing: the discriminator's target for photos is 1 minus this, that for generated images stays 0
            (Salimans et al. 2016, arXiv 1606.03498); from 0 to 0.5.
    """

    options = Section(
        {
            "features": choice("inception", "fid64", "random"),
            "evaluation_images": optional(whole(2)),
            "evaluate_every": whole(1),
            "sample_epochs": items(whole(1)),
            "label_smoothing": number(0.0, 0.5, example=0.1),
        }
    )
    splits_training = True
    model_arguments = ()
    metrics: tuple[Metric, ...] = (*InceptionFeatures.distances, DIVERSITY)

    def __init__(
        self,
        settings: TaskSettings,
        features: str,
        evaluation_images: int | None,
        evaluate_every: int,
        sample_epochs: list[int],
        label_smoothing: float,
    ) -> None:
        super().__init__(settings)
        given = {"features": features, "evaluation_images": evaluation_images, "evaluate_every": evaluate_every}
        self.options("task", {**given, "sample_epochs": sample_epochs, "label_smoothing": label_smoothing})
        made = build_model(Networks, settings.model)  # before anything else that may draw from torch's global stream
        self.generator, self.discriminator = made.generator.to(settings.device), made.discriminator.to(settings.device)
        self.modules = {"generator": self.generator, "discriminator": self.discriminator}
        self.photos, to_compare = data.load(settings)
        self.train_size = len(self.photos)
        _check_count(self.photos, to_compare)
        self.reference = _some(to_compare, evaluation_images)
        self.network = choose_network(features, settings.weights_folder)
        self.metrics = (*self.network.distances, DIVERSITY)
        self.evaluate_every, self.sample_epochs = evaluate_every, sample_epochs
        self.photo_target = 1.0 - label_smoothing
        self.samples: dict[int, Tensor] = {}

    @cached_property
    def quality(self) -> Quality:
        """Made at the first evaluation: the photos' features may take minutes, and are kept on disk."""
        return Quality(self.settings, self.network, self.reference)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Pairs of photos (float32, (batch, 3, 64, 64), from −1 to 1) and noise (float32, (batch, numbers))."""
        seed, device = self.settings.seed, self.settings.device
        order = epoch_order(self.train_size, seed, epoch).to(device)
        noise = self._noise(self.train_size, "noise", epoch)
        size = self.settings.batch_size
        for chosen, part in zip(order.split(size), noise.split(size), strict=True):
            yield self.photos[chosen] / 127.5 - 1.0, part

    def _noise(self, count: int, *purpose: object) -> Tensor:
        """N(0, 1), the same for every optimizer: float32, shape (count, numbers)."""
        stream = generator(self.settings.seed, *purpose)
        return torch.randn((count, self.generator.noise), generator=stream).to(self.settings.device)

    def loss(self, batch: Batch) -> Tensor:
        """The discriminator's: cross-entropy in nats on photos and on generated images, each a mean, added."""
        photos, noise = batch
        return self._discriminator_loss(photos, self.generator(noise).detach())

    def _discriminator_loss(self, photos: Tensor, generated: Tensor) -> Tensor:
        of_photos = _cross_entropy(self.discriminator(photos), self.photo_target)
        return of_photos + _cross_entropy(self.discriminator(generated), 0.0)

    def training_step(self, batch: Batch, optimizers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
        """A step of the discriminator, then one of the generator against it, on the same generated images.

        The generator minimises −log D(G(z)), the non-saturating loss (Goodfellow et al. 2014, arXiv 1406.2661).
        """
        photos, noise = batch
        generated = self.generator(noise)
        loss_d = self._discriminator_loss(photos, generated.detach())
        optimizers["discriminator"].zero_grad(set_to_none=True)
        loss_d.backward()
        optimizers["discriminator"].step()
        loss_g = _cross_entropy(self.discriminator(generated), 1.0)
        optimizers["generator"].zero_grad(set_to_none=True)
        loss_g.backward(inputs=list(self.generator.parameters()))  # the discriminator's gradients are not needed
        optimizers["generator"].step()
        return {"loss_d": loss_d.detach(), "loss_g": loss_g.detach()}

    def evaluate(self) -> dict[str, float]:
        """Every metric on as many generated images as there are photos to compare with, always of the same noise.

        NaN where the generator's images are not finite, so that there is nothing to measure.
        """
        images = self._images(len(self.reference), "evaluation")
        if images is None:
            return {metric.name: math.nan for metric in self.metrics}
        return self.quality.measure(images)

    def _images(self, count: int, *purpose: object) -> Tensor | None:
        """Generated images (uint8, (count, 3, 64, 64)) of a purpose's noise; None if they are not finite."""
        parts = []
        for noise in self._noise(count, *purpose).split(GENERATION_BATCH):
            images = self.generator(noise)
            if not bool(images.isfinite().all()):
                return None
            parts.append(((images + 1.0) * 127.5).round().to(torch.uint8))
        return torch.cat(parts)

    def after_epoch(self, epoch: int) -> None:
        """Keep images of the same noise; black ones where the generator's are not finite."""
        images = self._images(SAMPLES, "samples")
        if images is None:
            images = torch.zeros((SAMPLES, 3, SIDE, SIDE), dtype=torch.uint8)
        kept = {done: earlier for done, earlier in self.samples.items() if done in self.sample_epochs}
        self.samples = {**kept, epoch + 1: images.cpu()}

    def state(self) -> dict[str, Tensor]:
        """The kept images and the numbers of epochs after which they were made."""
        if not self.samples:
            return {}
        return {"sample_epochs": torch.tensor(list(self.samples)), "samples": torch.stack(list(self.samples.values()))}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state` returned."""
        if state:
            self.samples = dict(zip(state["sample_epochs"].tolist(), state["samples"].cpu(), strict=True))

    def draw(self, folder: Path) -> None:
        """Write ``samples.npz`` and ``samples.png``; where FID was not measured, the generator too.

        Raises:
            StoreError: the folder cannot be written.
        """
        if self.samples:
            samples = Samples(np.array(list(self.samples)), torch.stack(list(self.samples.values())).numpy())
            samples.save(folder)
            samples.draw(folder)
        if self.metrics[0].name != "fid":
            self._save_generator(folder)

    def _save_generator(self, folder: Path) -> None:
        try:
            files.write_atomically(folder / GENERATOR, lambda path: torch.save(self.generator.state_dict(), path))
        except RuntimeError as error:  # torch's word for a full disk
            raise StoreError(
                f"could not write {GENERATOR} into {folder} ({files.os_reason(error)}): free some space, then start "
                "the same command again."
            ) from error


def _check_count(photos: Tensor, reference: Tensor) -> None:
    """Refuse photos so few that they have no spread."""
    if len(photos) < 2:
        raise ConfigError("task=ig needs at least 2 photos: set data.limit to null or to a larger number.")
    if len(reference) < 2:
        raise ConfigError("task=ig needs at least 2 photos to validate on: raise task.validation_share.")


def _some(photos: Tensor, count: int | None) -> Tensor:
    """The same ``count`` of the photos for every run, or all of them."""
    if count is None or count >= len(photos):
        return photos
    return photos[subset(len(photos), count).to(photos.device)]


def _cross_entropy(logits: Tensor, target: float) -> Tensor:
    """Mean binary cross-entropy in nats, of logits for stability; the same as that of their sigmoids."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
