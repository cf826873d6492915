"""Explicit linear k-step methods with one gradient evaluation.

A method is  x⁺ = a₀ x + a₁ x₋₁ + … + a_{k−1} x_{−(k−1)} + b τ x'.  With x' = −∇L and τ the learning rate it is an
optimizer. Its properties follow from its coefficients, and are computed from them here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

from tmsgd_bench.optim import theory

TOLERANCE = 1e-12
"""A condition on the coefficients holds within this; a spurious root must be at least so far inside the unit circle."""


@dataclass(frozen=True)
class MultistepScheme:
    """The method x⁺ = Σ a_j x_{−j} + b τ x', refused unless it converges.

    A linear multistep method converges exactly if it is consistent (it integrates x = 1 and x = t without error) and
    zero-stable (Dahlquist 1956). Strict zero-stability is required: every root but the principal one lies inside the
    unit circle, so that rounding errors and old history die out.

    Args:
        weights: (a₀, a₁, …, a_{k−1}), dimensionless, at least one. Trailing zeros change nothing but the length
            of ``displacement``; equality compares the coefficients as they are written.
        gain: b, the factor of the step τ x', dimensionless.

    Raises:
        ValueError: a coefficient is not finite, or the method is inconsistent or not zero-stable.

    Example:
        >>> MultistepScheme.family(0.5).weights
        (1.5, -1.0, 0.5)
        >>> MultistepScheme((2.0, -1.0, 0.0), 0.0)
        Traceback (most recent call last):
        ValueError: this multistep scheme is not zero-stable: its spurious roots have modulus 1, not below 1.
        >>> MultistepScheme((-1.5, 3.0, -0.5), 3.0)  # the only 3-step method of order 3
        Traceback (most recent call last):
        ValueError: this multistep scheme is not zero-stable: its spurious roots have modulus 2.68614, not below 1.
    """

    weights: tuple[float, ...]
    gain: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", tuple(float(weight) for weight in self.weights))  # also from a list
        object.__setattr__(self, "gain", float(self.gain))
        if not self.weights or not all(math.isfinite(v) for v in (*self.weights, self.gain)):
            raise ValueError("a multistep scheme needs finite weights, at least one, and a finite gain.")
        self._check_consistent()
        modulus = self.spurious_modulus
        if modulus >= 1.0 - TOLERANCE:
            raise ValueError(
                f"this multistep scheme is not zero-stable: its spurious roots have modulus {modulus:.6g}, not below 1."
            )

    def _check_consistent(self) -> None:
        total = math.fsum(self.weights)
        if abs(total - 1.0) > TOLERANCE:
            raise ValueError(f"this multistep scheme is not consistent: its weights sum to {total:.6g}, not 1.")
        gain = math.fsum([1.0, *(j * weight for j, weight in enumerate(self.weights))])
        if abs(gain - self.gain) > TOLERANCE:
            terms = ["1", *(f"{j} a{j}".removeprefix("1 ") for j in range(1, len(self.weights)))]
            raise ValueError(
                f"this multistep scheme is not consistent: its gain must be {' + '.join(terms)} = {gain:.6g}, "
                f"not {self.gain:.6g}."
            )

    @property
    def instants(self) -> int:
        """k, the number of steps of the method: 1 for Euler, 3 for eq. (8). Trailing zero weights do not count."""
        return max(j for j, weight in enumerate(self.weights) if weight != 0.0) + 1

    @property
    def displacement(self) -> tuple[float, ...]:
        """(α₀, …, α_{k−2}, b) of the difference form u⁺ = Σ α_j u_{−j} + b τ x', where u = x − x₋₁.

        α_j = −Σ_{i>j} a_i. As many numbers as there are weights, trailing zeros included; for three weights
        (α, β, b) with α = a₀ − 1 = −a₁ − a₂ and β = −a₂.
        """
        return *(0.0 - math.fsum(self.weights[j + 1 :]) for j in range(len(self.weights) - 1)), self.gain  # no −0.0

    def coefficients(self, instants: int) -> tuple[float, ...]:
        """The flat tuple (a₀, …, a_{instants−1}, b), padded with zeros: what an optimizer's kernel computes with.

        Args:
            instants: how many instants the caller keeps.

        Raises:
            ValueError: the method needs more instants.
        """
        if self.instants > instants:
            raise ValueError(
                f"this multistep scheme looks at {self.instants} instants: choose one of at most {instants}, which is "
                "what the TM-SGD optimizers keep."
            )
        weights = self.weights[:instants]
        return *weights, *[0.0] * (instants - len(weights)), self.gain

    # ------------------------------------------------------------ accuracy

    @property
    def order(self) -> int:
        """The largest p with C₀ = … = C_p = 0: the method is exact on polynomials up to degree p. From 1 to k.

        C_n = [1 − Σ a_j (−j)ⁿ − b n 0^{n−1}] / n!. It counts as zero if n! C_n is below 1e-12 (1 + Σ |a_j| jⁿ), so that
        rounded coefficients do not lower the order.
        """
        return theory.order(*self._stripped(), TOLERANCE)

    @property
    def error_constant(self) -> float:
        """C_{p+1}: one step from exact history misses the solution by C_{p+1} τ^{p+1} x^{(p+1)} + O(τ^{p+2}).

        The coefficient of x⁺ is 1, and the sign is that of solution minus method. Divided by b it is the error constant
        of Hairer, Nørsett, Wanner, Solving ODEs I, (III.2.13), which decides the global error. Correctly rounded.
        """
        degree = self.order + 1
        return float(theory.defect(*self._stripped(), degree) / math.factorial(degree))

    # ------------------------------------------------------------ linear stability

    @property
    def spurious_roots(self) -> tuple[complex, ...]:
        """The k − 1 roots of ρ(z) / (z − 1) = z^{k−1} − Σ α_j z^{k−2−j}: its modes at step 0 besides z = 1."""
        return theory.roots(theory.first_polynomial(self.displacement[: self.instants - 1]))

    @property
    def spurious_modulus(self) -> float:
        """Largest modulus of the spurious roots; 0 if there are none.

        In closed form for k up to 3. For larger k the roots are eigenvalues of the companion matrix. They give a
        multiple root as a cluster whose mean is accurate, so the largest member is not below the root's modulus.
        """
        if self.instants > 3:
            return max(abs(root) for root in self.spurious_roots)
        _, a1, a2 = self.coefficients(3)[:3]
        alpha, beta = -a1 - a2, -a2
        discriminant = alpha * alpha + 4.0 * beta
        if discriminant < 0.0:
            return math.sqrt(-beta)
        return (abs(alpha) + math.sqrt(discriminant)) / 2.0

    def roots(self, step: complex, momentum: float = 0.0) -> tuple[complex, ...]:
        """Characteristic roots on x' = −λ x: the method's solutions are combinations of zⁿ over these z.

        They solve (z − μ) ρ(z) + b h z^k = 0 with ρ(z) = z^k − Σ a_j z^{k−1−j}: k + 1 roots, one of them 0 without
        momentum.

        Args:
            step: h = learning rate × curvature λ, dimensionless; complex for the stability region.
            momentum: μ of the heavy ball v⁺ = μ v + g that replaces the gradient g, 0 ≤ μ < 1.

        Raises:
            ValueError: momentum is outside [0, 1).
        """
        return theory.roots(theory.characteristic_polynomial(*self._stripped(), step, _checked(momentum)))

    def stability_limit(self, momentum: float = 0.0) -> float:
        """The largest h such that no root lies outside the unit circle for any real step between 0 and h.

        It is the first step at which a root crosses the circle, computed up to rounding. A root that only touches the
        circle at one step does not count. For ``family(c)`` it is min((1−c)/c, 4c/(1−c)), for Euler 2 (1 + μ).

        Args:
            momentum: as in :meth:`roots`.

        Raises:
            ValueError: momentum is outside [0, 1).

        Example:
            >>> round(SCHEMES["taylor3"].stability_limit(), 12), SCHEMES["euler"].stability_limit()
            (1.0, 2.0)
        """
        return theory.stability_limit(*self._stripped(), _checked(momentum))

    def stability_boundary(self, theta: Any, momentum: float = 0.0) -> Tensor:
        """The boundary locus: the complex steps h with a characteristic root at e^{iθ}.

        The boundary of the stability region is part of it.

        Args:
            theta: angle of the root, in radians: a number, or numbers in any shape.
            momentum: as in :meth:`roots`.

        Returns:
            A complex tensor of theta's shape.

        Raises:
            ValueError: momentum is outside [0, 1).
        """
        return theory.boundary_locus(*self._stripped(), theta, _checked(momentum))

    # ------------------------------------------------------------ noise

    @property
    def noise_gain(self) -> float:
        """Variance of the displacement u under white gradient noise, relative to Euler's (τ σ)²: 1.5 for eq. (8)."""
        return self.gain**2 * theory.autoregression_variance(self.displacement[: self.instants - 1])

    def stationary_variance(self, step: float, momentum: float = 0.0) -> float:
        """Stationary variance of x on ½ x² with gradient noise of variance 1, at learning rate h.

        In units of the state. With curvature λ and noise of standard deviation σ it is (σ/λ)² times this at
        h = learning rate × λ; for Euler h / (2 − h).

        Args:
            step: h, strictly between 0 and the stability limit.
            momentum: as in :meth:`roots`.

        Raises:
            ValueError: the step is outside the stability interval, where no stationary state exists, or momentum is
                outside [0, 1).
        """
        limit = self.stability_limit(momentum)
        if not 0.0 < step < limit:
            raise ValueError(
                f"no stationary variance at step {step:g}: it must lie in the stability interval (0, {limit:g})."
            )
        # ξ enters as b h z^k over the characteristic polynomial, which is a delay: x is an autoregression.
        polynomial = theory.characteristic_polynomial(*self._stripped(), step, momentum)
        return (self.gain * step) ** 2 * theory.autoregression_variance((-polynomial[1:]).tolist())

    def frequency_response(self, omega: Any, momentum: float = 0.0) -> Tensor:
        """Complex gain from −lr·gradient to displacement, b / [(1 − Σ α_j e^{−i(j+1)ω}) (1 − μ e^{−iω})].

        It is 1 / (1 − μ) at ω = 0 for every consistent method: on a constant gradient all have the same effective
        learning rate.

        Args:
            omega: angular frequency in radians per step, a number or numbers in any shape; π is a gradient that
                changes sign at every step.
            momentum: as in :meth:`roots`.

        Returns:
            A complex tensor of omega's shape.

        Raises:
            ValueError: momentum is outside [0, 1).
        """
        delay = theory.on_circle(-theory.vector(omega))
        feedback = theory.evaluated(theory.first_polynomial(self.displacement[: self.instants - 1]).flip(0), delay)
        return self.gain / (feedback * (1.0 - _checked(momentum) * delay))

    def _stripped(self) -> tuple[tuple[float, ...], float]:
        """Weights and gain without trailing zeros, which would add roots at 0."""
        return self.weights[: self.instants], self.gain

    # ------------------------------------------------------------ the family and the names

    @classmethod
    def family(cls, c: float) -> MultistepScheme:
        """x⁺ = 3c x + (1−4c) x₋₁ + c x₋₂ + (2−2c) τ x', second order and zero-stable for 0 < c < 1.

        Raises:
            ValueError: c is no number, or outside the open interval (0, 1).
        """
        if not isinstance(c, Real):
            raise ValueError(f"c must be a number between 0 and 1, not {c!r}.")
        return cls((3.0 * c, 1.0 - 4.0 * c, c), 2.0 - 2.0 * c)

    @classmethod
    def resolve(cls, scheme: Any) -> MultistepScheme:
        """A scheme from its name, from another scheme, or from its coefficients (a₀, …, a_{k−1}, b) in one sequence.

        Raises:
            ValueError: an unknown name, fewer than two coefficients, something that is not a scheme, or a method that
                does not converge.
        """
        if isinstance(scheme, cls):
            return scheme
        if isinstance(scheme, str):
            if scheme not in SCHEMES:
                raise ValueError(f"unknown scheme {scheme!r}: choose one of {', '.join(SCHEMES)}.")
            return SCHEMES[scheme]
        try:
            coefficients = tuple(float(value) for value in scheme)
        except (TypeError, ValueError):
            raise ValueError(f"a scheme is a name, a MultistepScheme or its coefficients, not {scheme!r}.") from None
        if len(coefficients) < 2:
            raise ValueError(
                f"a scheme is at least two coefficients, the weights a0, a1, … and the gain b, not {len(coefficients)}."
            )
        return cls(coefficients[:-1], coefficients[-1])


def _checked(momentum: float) -> float:
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum is {momentum}: it must be at least 0 and below 1.")
    return momentum


SCHEMES: dict[str, MultistepScheme] = {
    "euler": MultistepScheme((1.0, 0.0, 0.0), 1.0),
    "taylor3": MultistepScheme.family(1 / 2),  # eq. (8) of the paper
    "nine_eighths": MultistepScheme.family(3 / 8),  # 9/8, −1/2, 3/8 with step 5/4
}
"""Named methods: forward Euler (SGD), the paper's eq. (8), and the member of its family with c = 3/8."""
