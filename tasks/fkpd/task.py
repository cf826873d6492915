"""Facial key points with PreActResNet34."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks import build_model
from tasks.compute import to_float
from tasks.fkpd import data
from tasks.fkpd.figure import FACES, KeyPoints
from tmsgd_bench.checks import Section, choice, whole
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.results.figure_parts import spread_evenly
from tmsgd_bench.seeding import epoch_order
from tmsgd_bench.task import Metric, Task, TaskSettings

Batch = tuple[Tensor, Tensor]
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"smooth_l1": F.smooth_l1_loss, "mse": F.mse_loss}
CENTRE, SCALE = 100.0, 50.0
"""Points of a crop of 224 × 224 pixels are scaled as (pixels - 100) / 50; of another crop in proportion to its side."""
EVALUATION_BATCH = 35


class FacialKeyPoints(Task):
    """Gray square crops of faces; the x and y of 68 points; mean squared error on the test split.

    Args:
        settings: the run's.
        loss: "smooth_l1" (Girshick 2015, equation 3) or "mse", each a mean over all coordinates.
        eval_crop: where frames are cut to evaluate: "centre", or "random", at places drawn once from the run's seed.
        short_side: pixels that a frame's shorter side is rescaled to.
        crop: pixels of a crop in each direction, at most ``short_side``.

    Raises:
        ConfigError: an option cannot be used.
    """

    options = Section(
        {"loss": choice(*LOSSES), "eval_crop": choice("centre", "random")},
        {"short_side": whole(32, 8192), "crop": whole(32, 8192)},
    )
    splits_training = True
    model_arguments = ("side", "outputs")
    metrics: tuple[Metric, ...] = (
        Metric("mse", "", "min", "MSE"),
        Metric("distance", "px", "min", "mean distance"),
    )

    def __init__(
        self,
        settings: TaskSettings,
        loss: str,
        eval_crop: str,
        short_side: int = data.SHORT_SIDE,
        crop: int = data.CROP,
    ) -> None:
        super().__init__(settings)
        self.options("task", {"loss": loss, "eval_crop": eval_crop, "short_side": short_side, "crop": crop})
        if crop > short_side:
            raise ConfigError(
                f"task.crop={crop} is more than task.short_side={short_side}, the pixels of a frame: choose a smaller "
                "task.crop."
            )
        self.loss_function, self.crop = LOSSES[loss], crop
        model = build_model(nn.Module, settings.model, side=crop, outputs=2 * data.POINTS)
        self.model = model.to(settings.device)
        self.modules = {"keypoints": self.model}
        self.train, self.test = data.load(settings, short_side)
        self.train_size = len(self.train)
        self.test_corners = (
            self.test.random_corners(settings.seed, "test crops", side=crop)
            if eval_crop == "random"
            else self.test.centres(crop)
        )

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Pairs of images (float32, (batch, 1, crop, crop), from 0 to 1) and scaled points (float32, (batch, 136))."""
        device, seed = self.settings.device, self.settings.seed
        corners = self.train.random_corners(seed, "crops", epoch, side=self.crop)
        for chosen in epoch_order(self.train_size, seed, epoch).to(device).split(self.settings.batch_size):
            pixels, points = self.train.crop(chosen, corners[chosen], self.crop)
            yield to_float(pixels[:, None]), scale(points, self.crop)

    def loss(self, batch: Batch) -> Tensor:
        """Mean loss of the scaled coordinates."""
        images, points = batch
        return self.loss_function(self.model(images), points)

    def evaluate(self) -> dict[str, float]:
        """Mean squared error of the scaled coordinates, and how far points are off in pixels."""
        squares, distances = [], []
        for chosen in torch.arange(len(self.test), device=self.settings.device).split(EVALUATION_BATCH):
            pixels, points = self.test.crop(chosen, self.test_corners[chosen], self.crop)
            # In double precision: the square of a network far off overflows single precision.
            numbers = self.model(to_float(pixels[:, None])).double()
            squares.append((numbers - scale(points, self.crop)).square())
            distances.append((in_pixels(numbers, self.crop) - points).norm(dim=2))
        return {"mse": float(torch.cat(squares).mean()), "distance": float(torch.cat(distances).mean())}

    def draw(self, folder: Path) -> None:
        """Write the points found on a few test faces, the same for every run: ``keypoints.npz`` and ``.png``.

        Raises:
            StoreError: the folder cannot be written.
        """
        points = self.found()
        points.save(folder)
        points.draw(folder)

    def found(self) -> KeyPoints:
        """What the model finds on faces that are spread evenly over the split that is evaluated."""
        chosen = torch.tensor(spread_evenly(len(self.test), FACES), device=self.settings.device)
        pixels, points = self.test.crop(chosen, self.test_corners[chosen], self.crop)
        predicted = in_pixels(self.model(to_float(pixels[:, None])), self.crop)
        return KeyPoints(*(part.cpu().numpy() for part in (pixels, points, predicted)))


def scale(points: Tensor, crop: int = data.CROP) -> Tensor:
    """Points in pixels of a crop (images, 68, 2) as the network's outputs (images, 136).

    So that errors of crops of different sides can be compared, the outputs are the same for the same face.
    """
    return (points.flatten(1) - _scaled(CENTRE, crop)) / _scaled(SCALE, crop)


def in_pixels(numbers: Tensor, crop: int = data.CROP) -> Tensor:
    """The network's outputs (images, 136) as points in pixels of a crop (images, 68, 2)."""
    return (numbers * _scaled(SCALE, crop) + _scaled(CENTRE, crop)).unflatten(1, (-1, 2))


def _scaled(pixels: float, crop: int) -> float:
    """Pixels of a crop of 224 × 224 as pixels of another one; with 224 the very same number."""
    return pixels * crop / data.CROP
