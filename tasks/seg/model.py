"""torchvision's LRASPP on MobileNetV3-Large, and the weights it may begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import MobileNet_V3_Large_Weights
from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights, lraspp_mobilenet_v3_large

from tasks.seg.folded import is_folded
from tmsgd_bench.checks import Section, names_weights_file, number, takes, weights
from tmsgd_bench.data import weights as published
from tmsgd_bench.voc import CLASSES

NAMES = ("background", *CLASSES)
"""Of the classes of pixels."""
PUBLISHED = {
    "coco": LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1,
    "backbone": MobileNet_V3_Large_Weights.IMAGENET1K_V1,
}
OPTIONS = Section({"weights": weights(*PUBLISHED, "none"), "norm_momentum": number(0, 1, 0.01, above=True)})
BACKBONE = "features."
"""What the names of a classifier's weights begin with that the backbone takes over."""
FITS = (
    "model.weights takes the state_dict of torchvision's lraspp_mobilenet_v3_large for as many classes, or that of a "
    "mobilenet_v3_large, whose names begin with 'features.'; none starts from nothing"
)
"""Which files fit, as the end of a message."""


class _HardSigmoid(torch.autograd.Function):
    """torch's, with a derivative that can be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.hardsigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _TimesSlope.apply(gradient, x)


class _TimesSlope(torch.autograd.Function):
    """A gradient times the slope at x, to torch's bits; it does not depend on x, but for the two kinks."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.ops.aten.hardsigmoid_backward(gradient, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return _TimesSlope.apply(gradient, x), None


class HardSigmoid(nn.Module):
    """min(max(x + 3, 0), 6) / 6, which can be differentiated twice, so that the sharpness can be measured."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return _HardSigmoid.apply(x)


class Segmenter(NamedTuple):
    """What the task trains.

    Args:
        network: has a mapping for its output, whose ``out`` are the logits of each pixel's classes.
        trained: whether it can segment already.
        folded: its backbone, if the weights that were loaded into it have batch normalisation folded into the kernels.
    """

    network: nn.Module
    trained: bool
    folded: nn.Module | None = None


@takes(OPTIONS)
def build(classes: int, weights_folder: Path, weights: str, norm_momentum: float) -> Segmenter:
    """LRASPP, with its initial weights.

    Args:
        classes: of a pixel.
        weights_folder: where published weights are kept.
        weights: a name in ``PUBLISHED``, "none", or the path of a file.
        norm_momentum: how much of a running average each step replaces.

    Raises:
        ConfigError: the weights are of another network.
        DataError: the weights are missing, cannot be downloaded, or are damaged.
    """
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=classes)
    _set_momentum(network, norm_momentum)
    _make_twice_differentiable(network)
    path = _weights_file(weights, weights_folder)
    if path is None:
        return Segmenter(network, False)
    loaded = published.read(path)
    if not any(name.startswith(BACKBONE) for name in loaded):
        published.load_into(network, loaded, path, FITS)
        return Segmenter(network, True)
    of_backbone = {name.removeprefix(BACKBONE): value for name, value in loaded.items() if name.startswith(BACKBONE)}
    published.load_into(network.backbone, of_backbone, path, FITS)
    return Segmenter(network, False, network.backbone if is_folded(network.backbone) else None)


def _weights_file(wanted: str, weights_folder: Path) -> Path | None:
    if names_weights_file(wanted):
        return Path(wanted).expanduser()
    if wanted == "none":
        return None
    file = published.published(str(PUBLISHED[wanted].url))
    return published.fetch(file, weights_folder, published.OTHERWISE)


def _set_momentum(network: nn.Module, momentum: float) -> None:
    """How much of a running average each step replaces; torchvision has 0.01, for long training."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = float(momentum)


def _make_twice_differentiable(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, nn.Hardsigmoid):
                setattr(module, name, HardSigmoid())
