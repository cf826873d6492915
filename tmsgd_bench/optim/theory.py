"""Accuracy, linear stability and noise of explicit multistep methods, from their coefficients.

With E the shift to the next instant, the method x⁺ = a₀ x + … + a_{k−1} x_{−(k−1)} + b τ x' is ρ(E) x = b τ E^{k−1} x'
with ρ(z) = z^k − Σ a_j z^{k−1−j}. On x' = −λ x with h = τ λ, and with the heavy ball v⁺ = μ v + g in place of the
gradient g, its solutions are combinations of zⁿ over the roots z of (Hairer, Nørsett, Wanner, Solving ODEs I, III.3;
Polyak 1964 for the heavy ball)

    (z − μ) ρ(z) + b h z^k = 0.

Vectors of polynomial coefficients begin with the highest power.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

ROUNDING = sys.float_info.epsilon
SAME_STEP = 1e-9
"""Steps with a smaller relative difference are one crossing, found twice: by a complex root and its conjugate."""


def defect(weights: Sequence[float], gain: float, degree: int) -> Fraction:
    """Exact value minus computed value of x = tⁿ stepped from t = 0 to 1, without rounding: n! C_n for n ≥ 1."""
    past = sum((Fraction(weight) * (-j) ** degree for j, weight in enumerate(weights)), Fraction(0))
    return 1 - past - (Fraction(gain) if degree == 1 else 0)


def order(weights: Sequence[float], gain: float, tolerance: float) -> int:
    """Largest degree up to which a consistent method is exact on polynomials.

    A defect counts as zero if it is below ``tolerance`` times the sum of its terms' moduli.
    """
    degree = 2
    while True:  # it ends, because k + 1 coefficients cannot satisfy k + 2 conditions
        terms = math.fsum([1.0, *(abs(weight) * j**degree for j, weight in enumerate(weights))])
        if abs(defect(weights, gain, degree)) > tolerance * terms:
            return degree - 1
        degree += 1


def first_polynomial(weights: Sequence[float]) -> Tensor:
    """ρ(z) = z^k − Σ a_j z^{k−1−j}, k + 1 coefficients."""
    return -vector([-1.0, *weights])


def characteristic_polynomial(weights: Sequence[float], gain: float, step: complex, momentum: float) -> Tensor:
    """(z − μ) ρ(z) + b h z^k, k + 2 coefficients; complex if the step h is."""
    polynomial = _with_momentum(weights, momentum)
    if isinstance(step, complex):
        polynomial = polynomial.to(torch.complex128)
    polynomial[1] += gain * (complex(step) if isinstance(step, complex) else float(step))  # also from NumPy's numbers
    return polynomial


def spectral_radius(weights: Sequence[float], gain: float, step: complex, momentum: float) -> float:
    """Largest modulus of the characteristic roots: the factor by which the slowest mode changes in a step."""
    return max(map(abs, roots(characteristic_polynomial(weights, gain, step, momentum))))


def boundary_locus(weights: Sequence[float], gain: float, theta: Any, momentum: float) -> Tensor:
    """The step h for which z = e^{iθ} is a characteristic root: h = −(z − μ) ρ(z) / (b z^k), of θ's shape."""
    angle = vector(theta)
    return -evaluated(_with_momentum(weights, momentum), on_circle(angle)) / (gain * on_circle(len(weights) * angle))


def _with_momentum(weights: Sequence[float], momentum: float) -> Tensor:
    """(z − μ) ρ(z), k + 2 coefficients."""
    padded = torch.cat([first_polynomial(weights), vector([0.0])])
    padded[1:] -= momentum * padded[:-1].clone()
    return padded


# ---------------------------------------------------------------- polynomials


def vector(values: Any) -> Tensor:
    """Numbers in float64 on the CPU, whatever torch's defaults are."""
    return torch.as_tensor(values, dtype=torch.float64, device="cpu")


def on_circle(angle: Tensor) -> Tensor:
    """e^{iθ}, of θ's shape."""
    return torch.polar(torch.ones_like(angle), angle)


def evaluated(polynomial: Tensor, z: Tensor) -> Tensor:
    """The polynomial's value at each z, by Horner's rule."""
    value = torch.zeros_like(z)
    for coefficient in polynomial:
        value = value * z + coefficient
    return value


def roots(polynomial: Tensor) -> tuple[complex, ...]:
    """The roots of a polynomial whose highest coefficient is 1, as eigenvalues of its companion matrix.

    Trailing zeros give roots that are exactly 0.
    """
    degree = max(power for power, coefficient in enumerate(polynomial.tolist()) if coefficient != 0.0)
    if degree == 0:
        return (0j,) * (len(polynomial) - 1)
    companion = _shift(degree).to(polynomial.dtype)
    companion[0] = -polynomial[1 : degree + 1]
    return (*map(complex, torch.linalg.eigvals(companion).tolist()), *[0j] * (len(polynomial) - 1 - degree))


def _shift(order: int) -> Tensor:
    """Ones below the diagonal: what every companion matrix has."""
    return torch.diag(vector([1.0] * (order - 1)), -1)


def _chebyshev_derivative(series: Sequence[float]) -> list[float]:
    """The derivative d of Σ c_n T_n in the same form: d_{n−1} = d_{n+1} + 2n c_n, and half of that for d_0."""
    derivative = [0.0] * (len(series) + 1)
    for n in range(len(series) - 1, 0, -1):
        derivative[n - 1] = derivative[n + 1] + 2 * n * series[n]
    derivative[0] /= 2.0
    return derivative[: len(series) - 1]


def _chebyshev_roots(series: Sequence[float]) -> Tensor:
    """Complex roots of Σ c_n T_n, whose last coefficient is not 0, as eigenvalues of its colleague matrix (Good 1961).

    With the first basis polynomial scaled by √½ the matrix is symmetric but for its last column.
    """
    degree = len(series) - 1
    if degree < 1:
        return vector([]).to(torch.complex128)
    if degree == 1:
        return vector([-series[0] / series[1]]).to(torch.complex128)
    beside = vector([math.sqrt(0.5), *[0.5] * (degree - 2)])
    scales = vector([math.sqrt(2.0), *[1.0] * (degree - 1)])
    colleague = torch.diag(beside, 1) + torch.diag(beside, -1)
    colleague[:, -1] -= 0.5 * scales * vector(series[:-1]) / series[-1]
    return torch.linalg.eigvals(colleague)


# ---------------------------------------------------------------- stability


def stability_limit(weights: Sequence[float], gain: float, momentum: float) -> float:
    """Largest h such that no characteristic root lies outside the unit circle for any real step between 0 and h.

    The roots move continuously with the step, so stability is lost only at a step where a root lies on the circle. All
    such steps are computed; the limit is the first one beyond which a root is outside. It exists: since the method is
    zero-stable, z = −1 is a root at a positive step, and one root grows without bound with the step.
    """
    steps = _crossings(weights, gain, momentum)
    beyond = [*((low + high) / 2.0 for low, high in pairwise(steps)), 2.0 * steps[-1]]
    return next(
        step
        for step, sample in zip(steps, beyond, strict=True)
        if spectral_radius(weights, gain, sample, momentum) > 1.0
    )


def _crossings(weights: Sequence[float], gain: float, momentum: float) -> list[float]:
    """Positive real steps, ascending, at which a characteristic root lies on the unit circle.

    There h(e^{iθ}) = Σ c_m e^{imθ} with real c_m, whose imaginary part is
    Σ c_m sin mθ = sin θ Σ c_m sign(m) U_{|m|−1}(cos θ) = sin θ d/dx Σ (c_m / m) T_{|m|}(x) at x = cos θ, because
    T_n' = n U_{n−1}. So θ = π or cos θ is a root of that derivative; θ = 0 belongs to h = 0.
    """
    laurent = (-_with_momentum(weights, momentum) / gain).tolist()  # c_1, c_0, c_{−1}, …, c_{−k}
    series = [0.0] * len(laurent)
    for m, value in zip(range(1, 1 - len(laurent), -1), laurent, strict=True):
        if m != 0:
            series[abs(m)] += value / m
    derivative = _chebyshev_derivative(series)
    # A leading coefficient below rounding moves no root in [−1, 1], but it overflows in the companion matrix.
    least = ROUNDING * max(map(abs, derivative))
    while derivative and abs(derivative[-1]) <= least:
        derivative.pop()
    # A double root, where a characteristic root touches the circle, is computed with an imaginary part of about the
    # square root of the precision. To keep such pairs is harmless, because every candidate is tested afterwards.
    roots = _chebyshev_roots(derivative)
    cosines = roots.real[(roots.imag.abs() < 1e-6) & (roots.real.abs() < 1.0)]
    angles = torch.cat([cosines.arccos(), vector([math.pi])])
    steps = sorted(step for step in boundary_locus(weights, gain, angles, momentum).real.tolist() if step > 0.0)
    return [step for i, step in enumerate(steps) if i == 0 or step > steps[i - 1] * (1.0 + SAME_STEP)]


# ---------------------------------------------------------------- noise


def autoregression_variance(coefficients: Sequence[float]) -> float:
    """Stationary variance of y⁺ = Σ φ_j y_{−j} + ξ for white noise ξ of variance 1; 1 if there are no φ.

    The covariance P of (y, y₋₁, …) solves the discrete Lyapunov equation P = A P Aᵀ + e₁ e₁ᵀ with the companion
    matrix A. It is solved as one linear system; the φ must belong to a stable recursion, which is not checked here.
    """
    order = len(coefficients)
    if order == 0:
        return 1.0
    companion = _shift(order)
    companion[0] = vector(coefficients)
    source = vector([1.0] + [0.0] * (order * order - 1))
    system = torch.diag(torch.ones_like(source)) - torch.kron(companion, companion)
    return float(torch.linalg.solve(system, source)[0])
