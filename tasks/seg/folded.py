"""Batch normalisation that a file of weights has folded into the kernels, made trainable again."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4
"""By which the factor of a folded normalisation may differ from 1."""


def is_folded(network: nn.Module) -> bool:
    """Whether every batch normalisation only adds its bias: mean 0, and a factor and a standard deviation of 1."""
    layers = _normalisations(network)
    return bool(layers) and all(
        not bool(_mean(layer).any())
        and torch.allclose(_variance(layer) + layer.eps, torch.ones(()), rtol=0, atol=TOLERANCE)
        and torch.allclose(layer.weight, torch.ones(()), rtol=0, atol=TOLERANCE)
        for layer in layers
    )


@torch.no_grad()
def unfold(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give folded batch normalisations the statistics of their inputs, and leave what the network computes as it is.

    A folded layer computes x + b. With mean m and variance v of its inputs it becomes
    (x − m) / sqrt(v + eps) · sqrt(v + eps) + (b + m): the same in evaluation mode, and nearly the same in training
    mode, where batches have about these statistics. It depends on the weights and the images alone.

    Args:
        network: whose layers :func:`is_folded` told; stays in the mode it is in.
        batches: images, float32, (batch, 3, height, width) each, at least one.
    """
    moments = {layer: _Moments() for layer in _normalisations(network)}
    hooks = [layer.register_forward_pre_hook(moments[layer].add) for layer in moments]
    training = network.training
    network.eval()
    try:
        for images in batches:
            network(images)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    for layer, sums in moments.items():
        mean, variance = sums.mean_and_variance()
        _mean(layer).copy_(mean)
        _variance(layer).copy_(variance)
        layer.weight.copy_((variance + layer.eps).sqrt())
        layer.bias.copy_(layer.bias.double() + mean)


class _Moments:
    """Sums of a layer's inputs and of their squares over images and pixels, in double precision, by channel."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0].double()
        self.count += x.numel() // x.shape[1]
        self.sum = self.sum + x.sum((0, 2, 3))
        self.squares = self.squares + x.square().sum((0, 2, 3))

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        mean = self.sum / self.count
        return mean, (self.squares / self.count - mean.square()).clamp(min=0.0)


def _normalisations(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]


def _mean(layer: nn.BatchNorm2d) -> Tensor:
    assert layer.running_mean is not None
    return layer.running_mean


def _variance(layer: nn.BatchNorm2d) -> Tensor:
    assert layer.running_var is not None
    return layer.running_var
