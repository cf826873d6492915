"""What stands in for the slow parts of tasks in tests: large networks, selective search, fine pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.od.fast_rcnn.selective_search import Search, mixed
from tasks.od.rfbnet.priors import MAPS


class Glance(nn.Module):
    """A network of milliseconds in RFBNet's place: averages of one normalised layer, and a head for each map.

    It begins with little to find, as a network does that has been trained a while.
    """

    def __init__(self, width: int, *_: Any) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, width, 12, stride=12), nn.BatchNorm2d(width), nn.ReLU()]
        self.eyes = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Conv2d(width, 25 * level.boxes, 1) for level in MAPS)
        with torch.no_grad():
            for name, bias in self.heads.named_parameters():
                if name.endswith("bias"):
                    bias.view(-1, 25)[:, 4] += 4.0  # of the background

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets and logits of every prior."""
        x = self.eyes(images)
        answers = []
        for level, head in zip(MAPS, self.heads, strict=True):
            outputs = head(F.adaptive_avg_pool2d(x, level.cells)).permute(0, 2, 3, 1)
            answers.append(outputs.reshape(len(images), -1, 25))
        together = torch.cat(answers, dim=1)
        return together[..., :4], together[..., 4:]


class Glimpse(nn.Module):
    """A network of milliseconds in LRASPP's place: one normalised layer, and its classes enlarged to the image."""

    def __init__(self, num_classes: int, **_: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, num_classes, 1)
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The logits of every pixel."""
        return {"out": F.interpolate(self.layers(images), images.shape[2:], mode="bilinear")}


def coarse(figure: Figure, kind: str) -> Callable[[Path], None]:
    """Writes a figure with a hundredth of its pixels."""
    return partial(figure.savefig, format=kind, dpi=20)


def few_boxes(search: Search, photo: Tensor) -> np.ndarray:
    """Five proposals that depend on the photo alone, found without looking: int16, (5, 4)."""
    height, width = photo.shape[1:]
    seed = int(photo.long().sum())
    corners = np.random.default_rng(seed).integers(0, [width // 2 + 1, height // 2 + 1], (5, 2))
    return mixed(np.concatenate([corners, corners + 1 + seed % 9], axis=1).astype(np.int16))
