"""Batch normalisation that is folded into kernels is told from others; unfolded, it computes the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large

from tasks.seg import Segmentation
from tasks.seg.folded import is_folded, unfold
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.task import TaskSettings


def network() -> nn.Sequential:
    """Two convolutions, whose normalisations have biases alone."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5)
    )
    fold(layers)
    return layers


def fold(layers: nn.Module) -> None:
    for layer in layers.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_var is not None
            layer.running_var.fill_(1 - layer.eps)
            nn.init.normal_(layer.bias)


def images(seed: int = 0) -> Tensor:
    return 2 * torch.rand((6, 3, 9, 8), generator=torch.Generator().manual_seed(seed)) - 0.5


def test_only_a_normalisation_that_adds_is_folded() -> None:
    assert is_folded(network())
    assert not is_folded(nn.Sequential(nn.Conv2d(3, 4, 3)))
    for name in ("running_mean", "running_var", "weight"):
        layers = network()
        getattr(layers[4], name).data[0] += 0.1
        assert not is_folded(layers)


@torch.no_grad()
def test_outputs_stay_as_they_are() -> None:
    """In evaluation mode for any images; in training mode for those that the statistics are of."""
    folded = network()
    unfolded = copy.deepcopy(folded)
    unfold(unfolded, images().split(2))
    assert unfolded.training and not is_folded(unfolded)
    assert not unfolded[1]._forward_pre_hooks
    in_training = copy.deepcopy(unfolded).train()(images())
    folded.eval(), unfolded.eval()
    torch.testing.assert_close(in_training, folded(images()), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(unfolded(images(1)), folded(images(1)), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_statistics_are_those_of_the_inputs() -> None:
    """However the images are divided into batches."""
    layers = network()
    inputs = layers[0](images()).double()
    batched = copy.deepcopy(layers)
    unfold(layers, [images()])
    unfold(batched, images().split(1))
    norm = layers[1]
    torch.testing.assert_close(norm.running_mean.double(), inputs.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var.double(), inputs.var((0, 2, 3), unbiased=False))
    for value, other in zip(layers.state_dict().values(), batched.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other)


def make(folder: Path, weights: Path, **changes: Any) -> Segmentation:
    torch.manual_seed(0)
    settings = TaskSettings(
        data_folder=folder,
        data_limit=3,
        batch_size=2,
        seed=0,
        device=torch.device("cpu"),
        model={"_target_": "tasks.seg.model.build", "weights": str(weights), "norm_momentum": 0.1},
        fingerprint="few tests",
    )
    options: dict[str, Any] = {
        "splits": "train/val",
        "base_size": 40,
        "crop": 32,
        "evaluate_every": 1,
        "precision": "float32",
    }
    return Segmentation(replace(settings, **changes), **options, channels_last=False)


def backbone(task: Segmentation) -> nn.Module:
    return task.model.get_submodule("backbone")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a backbone's weights with folded batch normalisation."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("weights") / "encoder.pth"
    whole = mobilenet_v3_large(weights=None)
    fold(whole)
    torch.save({name: value for name, value in whole.state_dict().items() if name.startswith("features.")}, path)
    return path


def test_a_backbone_with_folded_normalisation_is_unfolded(tiny_data: Callable[[str], Path], encoder: Path) -> None:
    """By the training images alone: neither the run's seed nor the global stream has a part in it."""
    voc = tiny_data("voc2007")
    task, other = make(voc, encoder), make(voc, encoder, seed=1)
    assert not is_folded(backbone(task))
    for name, value in backbone(task).state_dict().items():
        assert torch.equal(backbone(other).state_dict()[name], value)
    fewer = backbone(make(voc, encoder, data_limit=2)).state_dict()
    assert not torch.equal(fewer["0.1.running_mean"], backbone(task).state_dict()["0.1.running_mean"])
    kernels = torch.load(encoder, weights_only=True)
    assert torch.equal(backbone(task).state_dict()["0.0.weight"], kernels["features.0.0.weight"])


def test_a_folded_file_of_another_network_is_refused(
    tiny_data: Callable[[str], Path], encoder: Path, tmp_path: Path
) -> None:
    weights = torch.load(encoder, weights_only=True)
    del weights["features.3.block.0.1.bias"]
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"other\.pth lacks '3\.block\.0\.1\.bias'"):
        make(tiny_data("voc2007"), tmp_path / "other.pth")
