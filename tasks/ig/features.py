"""Networks whose features tell sets of images apart; a Fréchet distance is taken between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tmsgd_bench.seeding import generator
from tmsgd_bench.task import Metric


class FeatureNetwork(nn.Module, ABC):
    """Features of images, one kind for each distance that is measured.

    Attributes:
        key: identifies the network, so that features kept on disk are not taken for another's.
        distances: the metric of each kind of features; the first is the task's primary one.
        sizes: how many features each has, by the metric's name.
    """

    key: str
    distances: tuple[Metric, ...]
    sizes: Mapping[str, int]

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features (images, size) by the metric's name, of images (uint8, (images, 3, height, width))."""


class RandomFeatures(FeatureNetwork):
    """A fixed random network: three convolutions with ReLU, from 64 × 64 to 8 × 8, averaged to 2 × 2.

    Its weights are N(0, 2 / inputs), from a stream of their own, and the same for every run. Distances between its
    features are cheap and need nothing, and are no FID: they go by colours and coarse shapes.
    """

    key = "random-1"
    distances = (Metric("random_features_distance", "", "min", "random-features distance"),)
    CHANNELS = (3, 32, 64, 64)

    def __init__(self) -> None:
        super().__init__()
        stream = generator(0, "random features")
        for number, (before, after) in enumerate(zip(self.CHANNELS, self.CHANNELS[1:], strict=False)):
            weight = torch.randn((after, before, 4, 4), generator=stream) * (2.0 / (16 * before)) ** 0.5
            self.register_buffer(f"weight{number}", weight)
        self.sizes = {self.distances[0].name: 4 * self.CHANNELS[-1]}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """256 features."""
        x = images / 127.5 - 1.0
        for weight in self.buffers():
            x = F.relu(F.conv2d(x, weight, stride=2, padding=1))
        return {self.distances[0].name: F.adaptive_avg_pool2d(x, 2).flatten(1)}
