"""The problems: gradients, curvatures and reference solutions, against derivatives taken by torch and closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tmsgd_bench.numerics.problems import DESCENTS, FLOWS, Descent, Flow

NOISELESS = [problem for problem in DESCENTS if problem.noise == 0.0]
SOLVED = [flow for flow in FLOWS if flow.exact is not None]


def points(dimension: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(dimension, generator=generator, dtype=torch.float64) for _ in range(8)]


@pytest.mark.parametrize("problem", NOISELESS, ids=lambda problem: problem.name)
def test_the_gradient_is_the_derivative_of_the_loss(problem: Descent) -> None:
    for x in points(len(problem.start)):
        expected = torch.autograd.functional.jacobian(problem.loss, x)
        torch.testing.assert_close(problem.gradient(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("problem", NOISELESS, ids=lambda problem: problem.name)
def test_the_curvature_is_the_largest_eigenvalue_of_the_hessian(problem: Descent) -> None:
    for x in points(len(problem.start)):
        hessian = torch.autograd.functional.hessian(problem.loss, x)
        expected = torch.linalg.eigvalsh(hessian)[-1]
        torch.testing.assert_close(problem.curvature(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("problem", DESCENTS, ids=lambda problem: problem.name)
def test_the_first_step_is_between_the_limits_of_equation_8_and_of_sgd(problem: Descent) -> None:
    h = problem.lr * float(problem.curvature(torch.tensor(problem.start, dtype=torch.float64)))
    assert 1.0 < h < 2.0


@pytest.mark.parametrize("flow", SOLVED, ids=lambda flow: flow.name)
def test_the_numerical_reference_agrees_with_the_closed_solution(flow: Flow) -> None:
    np.testing.assert_allclose(replace(flow, exact=None).reference(), flow.reference(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("flow", SOLVED, ids=lambda flow: flow.name)
def test_the_closed_solution_starts_at_the_start_and_follows_the_flow(flow: Flow) -> None:
    assert flow.exact is not None
    assert tuple(flow.exact(0.0)) == pytest.approx(flow.start, rel=1e-15)
    for t in (0.0, 0.1, 0.3):
        change = (np.array(flow.exact(t + 1e-5)) - np.array(flow.exact(t - 1e-5))) / 2e-5
        gradient = flow.gradient(torch.tensor(flow.exact(t), dtype=torch.float64)).numpy()
        np.testing.assert_allclose(change, -gradient, rtol=1e-5, atol=1e-7)
