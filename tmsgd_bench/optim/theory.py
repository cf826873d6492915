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
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

Vector = NDArray[Any]

ROUNDING = float(np.finfo(float).eps)
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


def first_polynomial(weights: Sequence[float]) -> Vector:
    """ρ(z) = z^k − Σ a_j z^{k−1−j}, k + 1 coefficients."""
    return np.concatenate([[1.0], -np.asarray(weights, dtype=float)])


def characteristic_polynomial(weights: Sequence[float], gain: float, step: complex, momentum: float) -> Vector:
    """(z − μ) ρ(z) + b h z^k, k + 2 coefficients; complex if the step h is."""
    polynomial = np.convolve([1.0, -momentum], first_polynomial(weights)).astype(np.result_type(step, float))
    polynomial[1] += gain * step
    return polynomial


def spectral_radius(weights: Sequence[float], gain: float, step: complex, momentum: float) -> float:
    """Largest modulus of the characteristic roots: the factor by which the slowest mode changes in a step."""
    return float(np.abs(np.roots(characteristic_polynomial(weights, gain, step, momentum))).max())


def boundary_locus(weights: Sequence[float], gain: float, theta: Any, momentum: float) -> Vector:
    """The step h for which z = e^{iθ} is a characteristic root: h = −(z − μ) ρ(z) / (b z^k), of θ's shape."""
    z = np.exp(1j * np.asarray(theta, dtype=float))
    powers = -np.polyval(np.convolve([1.0, -momentum], first_polynomial(weights)), z)
    return np.asarray(powers / (gain * z ** len(weights)))


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
    laurent = -np.convolve([1.0, -momentum], first_polynomial(weights)) / gain  # c_1, c_0, c_{−1}, …, c_{−k}
    series = np.zeros(len(laurent))
    for m, value in zip(range(1, 1 - len(laurent), -1), laurent, strict=True):
        if m != 0:
            series[abs(m)] += value / m
    derivative = chebyshev.chebder(series)
    # A leading coefficient below rounding moves no root in [−1, 1], but it overflows in the companion matrix.
    roots = chebyshev.chebroots(chebyshev.chebtrim(derivative, ROUNDING * np.abs(derivative).max()))
    # A double root, where a characteristic root touches the circle, is computed with an imaginary part of about the
    # square root of the precision. To keep such pairs is harmless, because every candidate is tested afterwards.
    cosines = np.real(roots[(np.abs(np.imag(roots)) < 1e-6) & (np.abs(np.real(roots)) < 1.0)])
    steps = np.sort(np.real(boundary_locus(weights, gain, np.append(np.arccos(cosines), np.pi), momentum)))
    steps = steps[steps > 0.0]
    return [float(step) for i, step in enumerate(steps) if i == 0 or step > steps[i - 1] * (1.0 + SAME_STEP)]


def autoregression_variance(coefficients: Sequence[float] | Vector) -> float:
    """Stationary variance of y⁺ = Σ φ_j y_{−j} + ξ for white noise ξ of variance 1; 1 if there are no φ.

    The covariance P of (y, y₋₁, …) solves the discrete Lyapunov equation P = A P Aᵀ + e₁ e₁ᵀ with the companion
    matrix A. It is solved as one linear system; the φ must belong to a stable recursion, which is not checked here.
    """
    order = len(coefficients)
    if order == 0:
        return 1.0
    companion = np.eye(order, k=-1)
    companion[0] = coefficients
    source = np.zeros(order * order)
    source[0] = 1.0
    return float(np.linalg.solve(np.eye(order * order) - np.kron(companion, companion), source)[0])
