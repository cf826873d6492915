"""VGG16's convolutions, which both detectors begin with, and the weights published for them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import nn
from torchvision.models import VGG16_Weights

from tmsgd_bench.checks import names_weights_file, weights
from tmsgd_bench.data import weights as published
from tmsgd_bench.data.weights import Weights
from tmsgd_bench.errors import ConfigError

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each stage (Simonyan and Zisserman 2015, arXiv 1409.1556, Table 1, D)."""
FULL_WIDTH = 64
WEIGHTS = weights("imagenet", "none")


def stages(width: int) -> list[nn.Sequential]:
    """The five stages of 3 × 3 convolutions, each with its ReLU; the pooling between them is the detectors' own.

    Args:
        width: channels of the first stage; 64 in the paper.
    """
    sequences, inputs = [], 3
    for channels, convolutions in STAGES:
        layers: list[nn.Module] = []
        for _ in range(convolutions):
            outputs = channels * width // FULL_WIDTH
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = outputs
        sequences.append(nn.Sequential(*layers))
    return sequences


def channels(width: int) -> int:
    """Of the last stage's features.

    Args:
        width: channels of the first stage.
    """
    return STAGES[-1][0] * width // FULL_WIDTH


def init_weights(module: nn.Module) -> None:
    """Initial weights of every convolution: He et al. 2015 (arXiv 1502.01852), by outputs; biases are 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initial_weights(wanted: str, width: int, folder: Path) -> tuple[Weights, Path] | None:
    """VGG16's weights under torchvision's names, and their file; None for a model that starts from nothing.

    Args:
        wanted: "imagenet", "none", or the path of a file.
        width: channels of the first stage.
        folder: where published weights are kept.

    Raises:
        ConfigError: the model is too narrow for published weights.
        DataError: the file is missing, cannot be downloaded, or is damaged.
    """
    if wanted == "none":
        return None
    if width != FULL_WIDTH:
        raise ConfigError(f"model.weights={wanted} is for model.width=64, not {width}: set model.weights=none.")
    if names_weights_file(wanted):
        path = Path(wanted).expanduser()
    else:
        file = published.published(str(VGG16_Weights.IMAGENET1K_V1.url))
        path = published.fetch(file, folder, published.OTHERWISE)
    return published.read(path), path


def load_stages(loaded: Iterable[nn.Module], weights: Weights, source: Path) -> None:
    """Give the stages the weights of torchvision's ``features``, whose layers are numbered across pooling layers.

    Raises:
        ConfigError: they are of another network.
    """
    number = 0
    for stage in loaded:
        stage_weights: Weights = {}
        for position, layer in enumerate(stage.children()):
            if isinstance(layer, nn.Conv2d):
                stage_weights |= {
                    f"{position}.{part}": _part(weights, f"features.{number}.{part}", source) for part in PARTS
                }
            number += 1
        number += 1  # the pooling behind the stage
        published.load_into(stage, stage_weights, source)


PARTS = ("weight", "bias")
HIDDEN = {"fc6": "classifier.0.", "fc7": "classifier.3."}
"""How torchvision's names of the hidden layers' weights begin."""


def hidden_layers(weights: Weights, source: Path) -> dict[str, Weights] | None:
    """The hidden layers' weights of torchvision's VGG16; None if the file has the convolutions alone.

    Args:
        source: the file, for messages.

    Returns:
        ``weight`` and ``bias`` of "fc6", (4096, 25088), and of "fc7", (4096, 4096), and their biases, (4096,).

    Raises:
        ConfigError: the file has some of the classifier's tensors, but not all of these.
    """
    if not any(name.startswith("classifier.") for name in weights):
        return None
    for name in [prefix + part for prefix in HIDDEN.values() for part in PARTS]:
        if name not in weights:
            raise ConfigError(
                f"{source} has a part of VGG16's classifier, but lacks {name!r}: model.weights must be torchvision's "
                "VGG16, or its convolutions ('features.…') alone."
            )
    return {layer: {part: weights[prefix + part] for part in PARTS} for layer, prefix in HIDDEN.items()}


def _part(weights: Weights, name: str, source: Path) -> published.Tensor:
    if name not in weights:
        raise ConfigError(f"{source} lacks {name!r}: model.weights must be torchvision's VGG16, not another network.")
    return weights[name]
