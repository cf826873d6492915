"""Explicit linear multistep rules with one gradient and up to three instants.

A rule is  x⁺ = a₀ x + a₁ x₋₁ + a₂ x₋₂ + b τ x'.  With x' = −∇L and τ the learning rate it is an optimizer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

TOLERANCE = 1e-12


@dataclass(frozen=True)
class MultistepScheme:
    """The rule x⁺ = a₀ x + a₁ x₋₁ + a₂ x₋₂ + b τ x', refused unless it converges.

    A linear multistep rule converges exactly if it is consistent (it integrates x = 1 and x = t without
    error) and zero-stable (Dahlquist 1956). Zero-stability is asked for strictly: every root but the
    principal one lies inside the unit circle, so that rounding and old history die out.

    Args:
        weights: (a₀, a₁, a₂), dimensionless.
        gain: b, the factor of the step τ x', dimensionless.

    Raises:
        ValueError: a coefficient is not finite, or the rule is inconsistent or not zero-stable.

    Example:
        >>> MultistepScheme.family(0.5).weights
        (1.5, -1.0, 0.5)
        >>> MultistepScheme((2.0, -1.0, 0.0), 0.0)
        Traceback (most recent call last):
        ValueError: this multistep scheme is not zero-stable: its spurious roots have modulus 1, not below 1.
    """

    weights: tuple[float, float, float]
    gain: float

    def __post_init__(self) -> None:
        if len(self.weights) != 3 or not all(math.isfinite(v) for v in (*self.weights, self.gain)):
            raise ValueError("a multistep scheme needs three finite weights and a finite gain.")
        self._check_consistent()
        modulus = self.spurious_modulus
        if modulus >= 1.0 - TOLERANCE:
            raise ValueError(
                f"this multistep scheme is not zero-stable: its spurious roots have modulus {modulus:.6g}, not below 1."
            )

    def _check_consistent(self) -> None:
        a0, a1, a2 = self.weights
        if abs(a0 + a1 + a2 - 1.0) > TOLERANCE:
            raise ValueError(
                f"this multistep scheme is not consistent: its weights sum to {sum(self.weights):.6g}, not 1."
            )
        if abs(1.0 + a1 + 2.0 * a2 - self.gain) > TOLERANCE:
            raise ValueError(
                f"this multistep scheme is not consistent: its gain must be 1 + a1 + 2 a2 = {1 + a1 + 2 * a2:.6g}, "
                f"not {self.gain:.6g}."
            )

    @property
    def displacement(self) -> tuple[float, float, float]:
        """(α, β, b) of the difference form u⁺ = α u + β u₋₁ + b τ x', where u = x − x₋₁."""
        a0, _, a2 = self.weights
        return a0 - 1.0, -a2, self.gain

    @property
    def spurious_modulus(self) -> float:
        """Largest modulus of the roots of z² − α z − β, the characteristic roots besides z = 1."""
        alpha, beta, _ = self.displacement
        discriminant = alpha * alpha + 4.0 * beta
        if discriminant < 0.0:
            return math.sqrt(-beta)
        return (abs(alpha) + math.sqrt(discriminant)) / 2.0

    @classmethod
    def family(cls, c: float) -> MultistepScheme:
        """x⁺ = 3c x + (1−4c) x₋₁ + c x₋₂ + (2−2c) τ x', second order and zero-stable for 0 < c < 1.

        Raises:
            ValueError: c is outside the open interval (0, 1).
        """
        return cls((3.0 * c, 1.0 - 4.0 * c, c), 2.0 - 2.0 * c)

    @classmethod
    def resolve(cls, scheme: Any) -> MultistepScheme:
        """A scheme from its name, from another scheme, or from its four coefficients (a₀, a₁, a₂, b).

        Raises:
            ValueError: unknown name, wrong number of coefficients, or a rule that does not converge.
        """
        if isinstance(scheme, cls):
            return scheme
        if isinstance(scheme, str):
            if scheme not in SCHEMES:
                raise ValueError(f"unknown scheme {scheme!r}: choose one of {', '.join(SCHEMES)}.")
            return SCHEMES[scheme]
        coefficients = tuple(float(value) for value in scheme)
        if len(coefficients) != 4:
            raise ValueError(f"a scheme is four coefficients (a0, a1, a2, b), not {len(coefficients)}.")
        return cls(coefficients[:3], coefficients[3])


SCHEMES: dict[str, MultistepScheme] = {
    "euler": MultistepScheme((1.0, 0.0, 0.0), 1.0),
    "taylor3": MultistepScheme.family(1 / 2),  # eq. (8) of the paper
    "nine_eighths": MultistepScheme.family(3 / 8),  # 9/8, −1/2, 3/8 with step 5/4
}
"""Named schemes: forward Euler (SGD), the paper's rule, and its sibling with c = 3/8."""
