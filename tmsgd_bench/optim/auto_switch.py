"""Switches TM-SGD automatically, when ε λ has stayed well below the multistep method's stability limit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tmsgd_bench.optim.curvature import Sharpness
from tmsgd_bench.optim.schemes import MultistepScheme
from tmsgd_bench.optim.tmsgd import AUTO, TMSGD


@dataclass(frozen=True)
class Decision:
    """A measurement and the decision that followed.

    Args:
        step: optimizer steps taken before it.
        sharpness: the measured λ, in units of loss / weight².
        lr_times_sharpness: ε (λ + weight decay) of the group that is nearest to its limit, dimensionless.
        limit: the stability limit of that group's method, with its momentum.
        below: whether ε (λ + weight decay) lay below margin × limit.
        switched: whether the switch followed.
    """

    step: int
    sharpness: float
    lr_times_sharpness: float
    limit: float
    below: bool
    switched: bool


class AutoSwitch:
    """Switches a :class:`TMSGD` with ``switch_step="auto"``, once, when its multistep method is stable.

    Experimental. The stability on a quadratic says that switching is safe to second order, not that it helps.

    A measurement counts as below if ε (λ + weight decay) < margin × limit in every parameter group. The limit depends
    on the group's scheme and momentum (:meth:`MultistepScheme.stability_limit`), and λ is the sharpness of the whole
    loss. The optimizer switches after ``patience`` such measurements in a row. A λ that is not finite, or a
    :class:`Sharpness` that did not converge, is not below. After the switch, measurements are recorded and change
    nothing.

    Args:
        optimizer: every group must have ``switch_step="auto"``.
        margin: share of the limit, in (0, 1].
        patience: measurements in a row, at least 1.

    Raises:
        ValueError: an argument is out of its range, a group of the optimizer does not wait for its switch, or it
            maximizes, for which the smallest eigenvalue would be needed.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = TMSGD([weight], lr=0.1, switch_step="auto")
        >>> auto = AutoSwitch(optimizer, patience=2)
        >>> [auto.observe(value) for value in (4.0, 6.0, 4.0, 3.0)]
        [False, False, False, True]
        >>> optimizer.param_groups[0]["switch_step"]
        0
    """

    def __init__(self, optimizer: TMSGD, margin: float = 0.5, patience: int = 3) -> None:
        _check(optimizer, margin, patience)
        self.optimizer, self.margin, self.patience = optimizer, margin, patience
        self.decisions: list[Decision] = []

    @property
    def waiting(self) -> bool:
        """Whether the switch is still to come."""
        return any(group["switch_step"] == AUTO for group in self.optimizer.param_groups)

    def observe(self, sharpness: float | Sharpness) -> bool:
        """Record a measurement at the present weights; returns True if the optimizer switched.

        Args:
            sharpness: largest eigenvalue of the Hessian of the loss, without weight decay.
        """
        product, limit = max(
            (self._product_and_limit(group, float(sharpness)) for group in self.optimizer.param_groups),
            key=lambda pair: pair[0] / pair[1],
        )
        known = math.isfinite(product) and (not isinstance(sharpness, Sharpness) or sharpness.converged)
        below = known and product < self.margin * limit
        recent = [*(decision.below for decision in self.decisions), below][-self.patience :]
        switched = self.waiting and len(recent) == self.patience and all(recent)
        step = int(self.optimizer.param_groups[0]["step"])
        self.decisions.append(Decision(step, float(sharpness), product, limit, below, switched))
        if switched:
            self.optimizer.switch()
        return switched

    def state_dict(self) -> dict[str, Any]:
        """The decisions, as plain values; the optimizer's own state holds the switch."""
        return {"decisions": [asdict(decision) for decision in self.decisions]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` returned."""
        self.decisions = [Decision(**values) for values in state["decisions"]]

    @staticmethod
    def _product_and_limit(group: Mapping[str, Any], sharpness: float) -> tuple[float, float]:
        limit = MultistepScheme.resolve(group["scheme"]).stability_limit(group["momentum"])
        return float(group["lr"]) * (sharpness + group["weight_decay"]), limit


def _check(optimizer: Any, margin: Any, patience: Any) -> None:
    waiting = isinstance(optimizer, TMSGD) and all(group["switch_step"] == AUTO for group in optimizer.param_groups)
    if not waiting:
        raise ValueError('AutoSwitch needs a TMSGD whose groups all wait for it: build it with switch_step="auto".')
    if any(group["maximize"] for group in optimizer.param_groups):
        raise ValueError("AutoSwitch cannot judge an ascent: use maximize=False and negate the loss.")
    for group in optimizer.param_groups:
        MultistepScheme.resolve(group["scheme"]).stability_limit(group["momentum"])  # refuses a momentum that has none
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0.0 < margin <= 1.0:
        raise ValueError(f"Invalid margin: {margin}, must be a number in (0, 1]")
    if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
        raise ValueError(f"Invalid patience: {patience}, must be an integer >= 1")
