"""How good and how diverse generated images are."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tasks.ig import inception, stem
from tasks.ig.features import FeatureNetwork, RandomFeatures
from tmsgd_bench.data import cache
from tmsgd_bench.task import Metric, TaskSettings

if TYPE_CHECKING:  # importing it takes as long as importing torch, which looking at the settings should not cost
    from torchmetrics.image.fid import FrechetInceptionDistance

log = logging.getLogger(__name__)

BATCH = 64
COMPARED = 500
"""Images whose pairwise distances are the diversity: 124,750 pairs."""
DIVERSITY = Metric("diversity", "", "max", "diversity")
VERSION = 1  # to be raised when what is made of a photo changes: it was kept on disk


def choose_network(features: str, weights_folder: Path) -> FeatureNetwork:
    """The network that an option asks for: "inception", where its weights are found, its first layers, or "random".

    Without "inception"'s weights there is one warning, and the random network: a distance under its own name, never
    called FID.

    Raises:
        DataError: the weights are damaged; those of "fid64" are missing.
        ConfigError: the weights of "fid64" are of another network.
    """
    if features == "random":
        return RandomFeatures()
    if features == "fid64":
        return stem.load(weights_folder)
    if lack := inception.lacking(weights_folder):
        log.warning(
            "FID is not measured, for %s. Training goes on; %s of a fixed random network is recorded in its place, and "
            "the generator is kept, for 'python -m tasks.ig.score'",
            lack,
            RandomFeatures.distances[0].name,
        )
        return RandomFeatures()
    return inception.load(weights_folder)


class Quality:
    """Distances of generated images to the photos, and the generated images' diversity.

    Args:
        settings: the run's; the photos' features are kept on disk beside its data.
        network: whose features count.
        photos: uint8, shape (photos, 3, 64, 64).
    """

    def __init__(self, settings: TaskSettings, network: FeatureNetwork, photos: Tensor) -> None:
        self.network = network.to(settings.device).eval()
        # Several settings choose the photos, so their own digest is part of the key. Other devices round otherwise.
        of_photos = hashlib.sha256(photos.cpu().numpy().tobytes()).hexdigest()
        options = {"version": VERSION, "network": network.key, "device": settings.device.type, "photos": of_photos}
        real = cache.tensors(settings, "features", options, lambda: self._all_features(photos))
        self.distances = {name: _frechet(real[name].to(settings.device)) for name in network.sizes}

    @torch.no_grad()
    def measure(self, images: Tensor) -> dict[str, float]:
        """Every distance of images (uint8, (images, 3, 64, 64)) to the photos, and their diversity, by metric."""
        for distance in self.distances.values():
            distance.reset()
        for features in self._features(images):
            for name, distance in self.distances.items():
                distance.update(features[name].double(), real=False)
        metrics = {name: float(distance.compute()) for name, distance in self.distances.items()}
        return metrics | {DIVERSITY.name: diversity(images)}

    def _features(self, images: Tensor) -> Iterator[dict[str, Tensor]]:
        for batch in images.split(BATCH):
            yield self.network(batch)

    @torch.no_grad()
    def _all_features(self, images: Tensor) -> dict[str, Tensor]:
        parts = list(self._features(images))
        return {name: torch.cat([part[name] for part in parts]).cpu() for name in self.network.sizes}


class _Given(nn.Module):
    """Takes features for images: lets several distances share one pass through a network."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.num_features = size

    def forward(self, features: Tensor) -> Tensor:
        return features


def _frechet(real: Tensor) -> FrechetInceptionDistance:
    """The Fréchet distance to features (images, size) of photos, in double precision."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    distance = FrechetInceptionDistance(_Given(real.shape[1]), reset_real_features=False).to(real.device)
    distance.update(real.double(), real=True)
    return distance


def diversity(images: Tensor) -> float:
    """Mean distance between two of the first 500 images: 0 where all are the same, 1 between black and white.

    The distance of two images is the root of their mean squared difference over pixels and colours.

    Args:
        images: uint8, shape (images, 3, height, width), at least two.
    """
    pixels = images[:COMPARED].flatten(1).double()  # whole numbers, so that all but the root is exact
    lengths = pixels.square().sum(dim=1)
    squares = lengths[:, None] + lengths - 2.0 * pixels @ pixels.T
    above = torch.ones_like(squares, dtype=torch.bool).triu(1)
    return float(squares[above].sqrt().mean()) / (255.0 * math.sqrt(pixels.shape[1]))
