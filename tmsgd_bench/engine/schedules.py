"""Learning-rate schedules that change the rate after every update, described in epochs.

Each multiplies the learning rate by a factor f(t), where t is the time in epochs, with fractions. They can be combined
with torch's chainable schedulers, such as an optimizer's ``warmup``. A YAML names one under ``schedule``, with
``every: update``; the engine passes ``steps_per_epoch``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class FactorSchedule(LRScheduler):
    """lr(t) = lr · f(t).

    Args:
        optimizer: whose learning rates are scheduled.
        steps_per_epoch: updates of an epoch.
    """

    def __init__(self, optimizer: Optimizer, steps_per_epoch: int) -> None:
        self.steps_per_epoch = steps_per_epoch
        super().__init__(optimizer)

    @abstractmethod
    def factor(self, epochs: float, lr: float) -> float:
        """f(t) for a parameter group; ``epochs`` is t, and ``lr`` the group's initial learning rate."""

    def get_lr(self) -> list[float | Tensor]:
        """The learning rate of the next update, of each group."""
        now, before = self.last_epoch / self.steps_per_epoch, (self.last_epoch - 1) / self.steps_per_epoch
        rates: list[float | Tensor] = []
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            lr = float(base)
            factor = self.factor(now, lr)
            if self.last_epoch > 0:  # the change since the last update, so that the factors of other schedulers stay
                previous = self.factor(before, lr)
                factor = factor / previous if previous else 0.0
            rates.append(group["lr"] * factor)
        return rates


class WarmupSteps(FactorSchedule):
    """Linear from ``start_lr`` over the first epochs; times ``gamma`` at each milestone (Liu et al. 2018, RFBNet).

    Args:
        warmup_epochs: length of the warm-up; 0 for none.
        start_lr: learning rate at its start.
        milestones: the learning rate drops after so many epochs.
        gamma: the factor of each drop.

    Raises:
        ValueError: a value is out of its range.

    Example:
        >>> import torch
        >>> sgd = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        >>> schedule = WarmupSteps(sgd, 1, warmup_epochs=2, start_lr=0.5, milestones=[3], gamma=0.1)
        >>> for _ in range(4):
        ...     print(round(sgd.param_groups[0]["lr"], 6), end=" ")
        ...     sgd.step(); schedule.step()
        0.5 0.75 1.0 0.1
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps_per_epoch: int,
        warmup_epochs: float,
        start_lr: float,
        milestones: Sequence[float],
        gamma: float,
    ) -> None:
        if not (warmup_epochs >= 0 and start_lr > 0 and gamma > 0):  # written so that NaN is refused too
            raise ValueError(f"warmup_epochs >= 0, start_lr > 0, gamma > 0: not {warmup_epochs}, {start_lr}, {gamma}")
        self.warmup_epochs, self.start_lr = warmup_epochs, start_lr
        self.milestones, self.gamma = list(milestones), gamma
        super().__init__(optimizer, steps_per_epoch)

    def factor(self, epochs: float, lr: float) -> float:
        """See the class."""
        drops = sum(epochs >= milestone for milestone in self.milestones)
        start = self.start_lr / lr
        warm = 1.0 if epochs >= self.warmup_epochs else start + (1.0 - start) * epochs / self.warmup_epochs
        return float(warm * self.gamma**drops)


class WarmupPoly(FactorSchedule):
    """Linear over the first epochs, then (1 − share of the rest)^power (torchvision's reference for segmentation).

    Args:
        epochs: of the whole run.
        warmup_epochs: length of the warm-up; 0 for none.
        start_factor: the factor of the learning rate at its start.
        power: of the decay.

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps_per_epoch: int,
        epochs: float,
        warmup_epochs: float,
        start_factor: float,
        power: float,
    ) -> None:
        if not (warmup_epochs >= 0 and 0 < start_factor <= 1 and power > 0):
            raise ValueError(
                f"warmup_epochs >= 0, start_factor in (0, 1], power > 0: not {warmup_epochs}, {start_factor}, {power}"
            )
        self.epochs, self.warmup_epochs, self.start_factor, self.power = epochs, warmup_epochs, start_factor, power
        super().__init__(optimizer, steps_per_epoch)

    def factor(self, epochs: float, lr: float) -> float:
        """See the class."""
        if epochs < self.warmup_epochs:
            return self.start_factor + (1.0 - self.start_factor) * epochs / self.warmup_epochs
        left = (self.epochs - epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return float(max(left, 0.0) ** self.power)
