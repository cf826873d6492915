"""Apollo, as conf/optimizer/apollo.yaml builds it, follows the recurrences of Ma 2020 (arXiv 2009.13586)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from pytorch_optimizer import ApolloDQN
from torch import Tensor

from tmsgd_bench.engine.optimizers import build_optimizer, build_schedulers
from tmsgd_bench.optim.apollo import Apollo

BETA, EPSILON, SIGMA, WARMUP = 0.9, 1e-4, 0.01, 500
SPEC = yaml.safe_load((Path(__file__).parents[2] / "conf/optimizer/apollo.yaml").read_text()) | {"lr": 0.01}


def reference(theta: Tensor, gradients: list[Tensor], lr: float) -> Tensor:
    """The recurrences, written down once more in float64."""
    momentum, hessian, direction = (torch.zeros_like(theta) for _ in range(3))
    for t, gradient in enumerate(gradients, start=1):
        rate = lr * min(1.0, 1e-3 + (1.0 - 1e-3) * (t - 1) / WARMUP)
        average = (1 - BETA) / (1 - BETA**t)
        change = gradient - momentum
        momentum = momentum + average * change
        norm = direction.pow(4).sum().pow(0.25) + EPSILON / SIGMA
        unit = direction / norm
        step = -average * (change / norm * unit).sum() - (hessian * unit.square()).sum()
        hessian = hessian + unit.square() * step
        direction = momentum / hessian.abs().clamp_min(SIGMA)
        theta = theta - rate * direction
    return theta


@pytest.mark.parametrize("steps", [1, 20, 520])
def test_apollo_follows_its_recurrences(steps: int) -> None:
    torch.manual_seed(0)
    start = torch.randn(7, 5, dtype=torch.float64)
    gradients = [torch.randn(7, 5, dtype=torch.float64) * 0.1 for _ in range(steps)]
    parameter = torch.nn.Parameter(start.clone())
    optimizer = build_optimizer(SPEC, [parameter], steps_per_epoch=1)
    (warmup,), _ = build_schedulers(SPEC, None, optimizer, steps_per_epoch=1)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        warmup.step()
    torch.testing.assert_close(parameter.detach(), reference(start, gradients, 0.01), rtol=1e-9, atol=1e-12)


def test_apollo_keeps_one_curvature_for_each_tensor() -> None:
    """The scalar step of the curvature is taken per tensor: a second tensor changes nothing for the first."""
    torch.manual_seed(1)
    one, other = torch.nn.Parameter(torch.randn(3)), torch.nn.Parameter(torch.randn(4))
    alone = torch.nn.Parameter(one.detach().clone())
    together = build_optimizer(SPEC, [one, other], 1)
    single = build_optimizer(SPEC, [alone], 1)
    for _ in range(5):
        one.grad, other.grad = torch.randn(3), torch.randn(4)
        alone.grad = one.grad.clone()
        together.step()
        single.step()
    assert torch.equal(one, alone)


@pytest.mark.parametrize("foreach", [False, True])
def test_the_faster_norm_changes_nothing(foreach: bool) -> None:
    """Against the library's own class, in float64, with either of its implementations."""
    torch.manual_seed(2)
    ours = torch.nn.Parameter(torch.randn(6, 4, dtype=torch.float64))
    theirs = torch.nn.Parameter(ours.detach().clone())
    options = {"lr": 0.01, "warmup_steps": 0, "foreach": foreach}
    pair = (Apollo([ours], **options), ApolloDQN([theirs], **options))
    for _ in range(50):
        ours.grad = torch.randn(6, 4, dtype=torch.float64)
        theirs.grad = ours.grad.clone()
        for optimizer in pair:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_apollo_returns_the_loss_of_a_closure() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = Apollo([weight], lr=0.01, warmup_steps=0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure)) == 2.0
    assert not torch.equal(weight.detach(), torch.ones(2))
