"""Gradient flows x' = −∇L(x) and optimization problems with known gradients, in float64.

Each is so small that its solution is known to many more digits than the methods reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Vector = NDArray[np.float64]
Field = Callable[[Tensor], Tensor]
REFERENCE_TOLERANCE = 1e-13


@dataclass(frozen=True)
class Flow:
    """An initial value problem x' = −∇L(x), x(0) = start.

    Args:
        name: in tables.
        start: x(0), dimensionless.
        end: the time at which errors are taken, dimensionless.
        gradient: x ↦ ∇L(x), of x's shape.
        steps: the numbers of equal steps from 0 to ``end`` to measure, ascending.
        exact: t ↦ x(t) in closed form, or None where only a numerical reference exists.
    """

    name: str
    start: tuple[float, ...]
    end: float
    gradient: Field
    steps: tuple[int, ...]
    exact: Callable[[float], Sequence[float]] | None = None

    def reference(self) -> Vector:
        """x(end): exact where known, else by DOP853 (Hairer, Nørsett, Wanner) at relative tolerance 1e-13.

        Raises:
            RuntimeError: the integrator gave up.
        """
        if self.exact is not None:
            return np.asarray(self.exact(self.end), dtype=float)
        from scipy.integrate import solve_ivp

        solution = solve_ivp(
            lambda _, x: -self.gradient(torch.from_numpy(x)).numpy(),
            (0.0, self.end),
            np.array(self.start),
            method="DOP853",
            rtol=REFERENCE_TOLERANCE,
            atol=REFERENCE_TOLERANCE,
        )
        if not solution.success:
            raise RuntimeError(f"no reference for {self.name}: {solution.message}")
        return np.asarray(solution.y[:, -1], dtype=float)


@dataclass(frozen=True)
class Descent:
    """A minimization whose largest curvature is high at the start and falls along the way.

    Args:
        name: in tables.
        start: the first point.
        lr: ε, such that ε λ is between 1 and 2 at the start.
        steps: how many steps to take.
        switch_step: a step by which SGD has brought ε λ below 1 for good.
        loss: x ↦ L(x), over the last dimension.
        gradient: x ↦ ∇L(x), of x's shape.
        curvature: x ↦ λ(x), the largest eigenvalue of the Hessian of L, over the last dimension.
        noise: standard deviation of white noise added to each component of the gradient.
    """

    name: str
    start: tuple[float, ...]
    lr: float
    steps: int
    switch_step: int
    loss: Field
    gradient: Field
    curvature: Field
    noise: float = 0.0


def powers_of_two(first: int, last: int) -> tuple[int, ...]:
    """2^first, …, 2^last."""
    return tuple(2**n for n in range(first, last + 1))


def rosenbrock(x: Tensor) -> Tensor:
    """L = (1 − x)² + 100 (y − x²)²."""
    return (1.0 - x[..., 0]) ** 2 + 100.0 * (x[..., 1] - x[..., 0] ** 2) ** 2


def rosenbrock_gradient(x: Tensor) -> Tensor:
    """∇L of :func:`rosenbrock`."""
    gap = x[..., 1] - x[..., 0] ** 2
    return torch.stack([-2.0 * (1.0 - x[..., 0]) - 400.0 * x[..., 0] * gap, 200.0 * gap], dim=-1)


def rosenbrock_curvature(x: Tensor) -> Tensor:
    """Largest Hessian eigenvalue of :func:`rosenbrock`: 1506 at (−1.2, 1), 1002 at the minimum (1, 1)."""
    return _largest_eigenvalue(
        1200.0 * x[..., 0] ** 2 - 400.0 * x[..., 1] + 2.0, -400.0 * x[..., 0], torch.full_like(x[..., 0], 200.0)
    )


WALL, WIDENING, FLOOR = 0.5, 1.0, 0.01


def valley(x: Tensor) -> Tensor:
    """L = ½ (1/2 + x²) y² + x²/200: a gently sloping valley whose walls are steep at first and flatten on the way."""
    return 0.5 * (WALL + WIDENING * x[..., 0] ** 2) * x[..., 1] ** 2 + 0.5 * FLOOR * x[..., 0] ** 2


def valley_gradient(x: Tensor) -> Tensor:
    """∇L of :func:`valley`."""
    along = FLOOR * x[..., 0] + WIDENING * x[..., 0] * x[..., 1] ** 2
    return torch.stack([along, (WALL + WIDENING * x[..., 0] ** 2) * x[..., 1]], dim=-1)


def valley_curvature(x: Tensor) -> Tensor:
    """Largest Hessian eigenvalue of :func:`valley`: 1/2 + x² on the floor y = 0."""
    return _largest_eigenvalue(
        FLOOR + WIDENING * x[..., 1] ** 2,
        2.0 * WIDENING * x[..., 0] * x[..., 1],
        WALL + WIDENING * x[..., 0] ** 2,
    )


def _largest_eigenvalue(xx: Tensor, xy: Tensor, yy: Tensor) -> Tensor:
    """Of the symmetric matrices [[xx, xy], [xy, yy]]."""
    return (xx + yy) / 2.0 + torch.sqrt(((xx - yy) / 2.0) ** 2 + xy**2)


STIFFNESS = torch.tensor([1.0, 25.0], dtype=torch.float64)

FLOWS = (
    Flow("decay", (1.0,), 4.0, lambda x: x, powers_of_two(4, 11), lambda t: [math.exp(-t)]),
    # L = x³/3 − x²/2, from the unstable rest point towards the stable one
    Flow(
        "logistic", (0.1,), 4.0, lambda x: x * (x - 1.0), powers_of_two(4, 11), lambda t: [1 / (1 + 9 * math.exp(-t))]
    ),
    Flow("rosenbrock", (-1.2, 1.0), 0.05, rosenbrock_gradient, powers_of_two(5, 12)),
    Flow(
        "stiff",
        (1.0, 1.0),
        4.0,
        lambda x: STIFFNESS * x,
        powers_of_two(5, 12),
        lambda t: [math.exp(-t), math.exp(-25.0 * t)],
    ),
)
"""Linear decay, the logistic equation, Rosenbrock's function, and a quadratic with curvatures 1 and 25."""

_QUARTIC = Descent(
    "quartic",
    (1.0,),
    0.5,
    60,
    10,
    loss=lambda x: x[..., 0] ** 4 / 4.0,
    gradient=lambda x: x**3,
    curvature=lambda x: 3.0 * x[..., 0] ** 2,
)
_VALLEY = Descent("valley", (1.0, 0.1), 1.0, 150, 60, valley, valley_gradient, valley_curvature)
_ROSENBROCK = Descent(
    "rosenbrock", (-1.2, 1.0), 9.9e-4, 1500, 100, rosenbrock, rosenbrock_gradient, rosenbrock_curvature
)

DESCENTS = (_QUARTIC, _VALLEY, replace(_VALLEY, name="noisy valley", noise=0.01), _ROSENBROCK)
"""Under SGD ε λ falls from 1.5: at once (quartic), within 35 steps (valley), by way of 1.03 (Rosenbrock)."""
