"""Features of the first layers of FID's network: a distance that needs neither its last blocks nor a package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.ig import inception
from tasks.ig.features import FeatureNetwork
from tmsgd_bench.data import weights
from tmsgd_bench.engine.loop import weights_digest
from tmsgd_bench.errors import DataError
from tmsgd_bench.task import Metric

CUT = "inception-2015-12-05-to-mixed-6e.pth"
"""FID's network without its last three blocks, under pytorch-fid's names, batch normalisation folded into kernels."""
CUT_DIGEST = "08673d321e5163c0277b0453e46d89506a8bdbed1220603edf7447d99b0e9314"
"""Of the file's weights that are used."""
SIDE = 299
"""Pixels that FID's network takes in each direction."""
EPSILON = 1e-3
LAYERS: Mapping[str, tuple[int, int, int, int, int]] = {
    "Conv2d_1a_3x3": (3, 32, 3, 2, 0),
    "Conv2d_2a_3x3": (32, 32, 3, 1, 0),
    "Conv2d_2b_3x3": (32, 64, 3, 1, 1),
    "Conv2d_3b_1x1": (64, 80, 1, 1, 0),
    "Conv2d_4a_3x3": (80, 192, 3, 1, 0),
}
"""Input and output channels, kernel size, stride and padding of each convolution."""
FIRST = 3
"""Convolutions before the first max-pooling."""
GROUP = 4
"""Images at a time: the memory of more is asked for and given back again and again, which takes twice the time."""
COUNT = ".num_batches_tracked"


class Stem(FeatureNetwork):
    """The 64 and 192 averages of the first and second max-pooling of FID's network.

    Szegedy et al. 2016, arXiv 1512.00567, as converted from TensorFlow for FID.

    Args:
        whole: weights of the network or of its first layers, by pytorch-fid's names; those of later layers are ignored.
        source: their file, for messages.

    Attributes:
        digest: SHA-256 (hexadecimal) of the weights that are used.

    Raises:
        ConfigError: they are of another network.
    """

    distances = (Metric("fid64", "", "min", "FID (64-d)"), Metric("fid192", "", "min", "FID (192-d)"))
    sizes: Mapping[str, int] = {"fid64": 64, "fid192": 192}

    def __init__(self, whole: weights.Weights, source: Path) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: _Convolution(*sizes) for name, sizes in LAYERS.items()})
        state = self.layers.state_dict()
        counts = {name: value for name, value in state.items() if name.endswith(COUNT)}  # not in every file
        used = {name: value for name, value in whole.items() if name.partition(".")[0] in LAYERS}
        weights.load_into(self.layers, {**used, **counts}, source)
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # takes a third less time on a CPU
        used_weights = {name: value for name, value in self.layers.state_dict().items() if not name.endswith(COUNT)}
        self.digest = weights_digest({"stem": used_weights})
        self.key = f"inception-stem-{self.digest[:8]}"

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """64 and 192 features."""
        groups = [self._features(group) for group in images.split(GROUP)]
        return {name: torch.cat([features[name] for features in groups]) for name in self.sizes}

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        x = (enlarge(images.float()) - 128.0) / 128.0
        convolutions = list(self.layers.values())
        for layer in convolutions[:FIRST]:
            x = layer(x)
        x = F.max_pool2d(x, 3, 2)
        first = x.mean((2, 3))
        for layer in convolutions[FIRST:]:
            x = layer(x)
        return {"fid64": first, "fid192": F.max_pool2d(x, 3, 2).mean((2, 3))}


class _Convolution(nn.Module):
    """A convolution, normalised and rectified, with the names of pytorch-fid's."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def load(folder: Path) -> Stem:
    """The network with the weights in a folder, in evaluation mode: the whole published file, or the cut one.

    Raises:
        DataError: there is neither, or the one that is there is damaged or holds other weights.
        ConfigError: the file has weights of another network.
    """
    whole, cut = folder / inception.WEIGHTS.name, folder / CUT
    if whole.exists():
        inception.check(whole)
        return Stem(weights.read(whole), whole).eval()
    remedy = f"{inception.remedy(folder)}, or put {CUT} there, or set task.features=random"
    if not cut.exists():
        raise DataError(f"task.features=fid64 needs {whole} or {cut}, and neither is there: {remedy}.")
    stem = Stem(weights.read(cut), cut).eval()
    if stem.digest != CUT_DIGEST:
        raise DataError(f"{cut} holds other weights than FID's network: delete it and {remedy}.")
    return stem


def enlarge(images: Tensor) -> Tensor:
    """Images (float32, (images, 3, height, width)) at 299 × 299 pixels, as TensorFlow 1 interpolates.

    Bilinear, with pixel i of the result at i times the ratio of the sizes, and nothing averaged.
    """
    rows, columns = (_interpolation(size, images.device) for size in images.shape[2:])
    return rows @ images @ columns.T


def _interpolation(size: int, device: torch.device) -> Tensor:
    """What each pixel of a line of ``size`` contributes to each of a line of 299: float32, shape (299, size)."""
    places = torch.arange(SIDE, dtype=torch.float32) * (size / SIDE)
    left = places.long()
    share = places - left
    matrix = torch.zeros((SIDE, size))
    numbers = torch.arange(SIDE)
    matrix[numbers, left] += 1.0 - share
    matrix[numbers, (left + 1).clamp(max=size - 1)] += share
    return matrix.to(device)
