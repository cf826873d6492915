"""Measures the sharpness at the ends of epochs, to record it in the history and to let TM-SGD (auto) switch."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tmsgd_bench.engine.observers import Observer, Row
from tmsgd_bench.engine.spec import AutoSwitchPlan, RunSpec, SharpnessLog
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.optim.auto_switch import AutoSwitch
from tmsgd_bench.optim.curvature import NotConverged, NotFinite, Sharpness, sharpness
from tmsgd_bench.seeding import derive, seed_globally
from tmsgd_bench.task import Task

if TYPE_CHECKING:
    from tmsgd_bench.engine.loop import Trainer

log = logging.getLogger(__name__)


class SharpnessMonitor(Observer):
    """Measures the training loss's sharpness on a fixed sample of training examples, if the settings ask for it.

    A measurement changes neither weights nor buffers nor random streams, so a run is the same with and without it.

    Args:
        trainer: of the run. If the run has ``auto_switch``, the measurements decide when its optimizer switches, and
            the decisions become part of the trainer's state.
        recorded: how to record the sharpness in the history; None to record nothing.

    Raises:
        ConfigError: the task has several losses to minimise, or the optimizer cannot be switched.
    """

    def __init__(self, trainer: Trainer, recorded: SharpnessLog | None) -> None:
        self.spec, self.task, self.recorded, self.plan = trainer.spec, trainer.task, recorded, trainer.spec.auto_switch
        self.products, self.seconds = 0, 0.0
        if self.active:
            _check_measurable(self.spec, self.task)
        self.auto = _auto_switch(self.spec, self.plan, trainer.optimizers) if self.plan else None
        trainer.parts["monitor"] = self

    @property
    def active(self) -> bool:
        """Whether the run measures its sharpness at all."""
        return self.plan is not None or self.recorded is not None

    @property
    def chosen_epoch(self) -> int | None:
        """First epoch with the multistep method, if the measurements decided it."""
        decisions = self.auto.decisions if self.auto else []
        return next((d.step // self.task.steps_per_epoch for d in decisions if d.switched), None)

    @property
    def switch_epoch(self) -> int | None:
        """First epoch with the multistep method, whether measured or set; None if the run has not switched yet."""
        epoch = self.chosen_epoch if self.plan else self.spec.switch_epoch
        return epoch if isinstance(epoch, int) else None

    def epoch(self, trainer: Trainer, row: Row) -> None:
        """Add ``sharpness`` and ``lr_times_sharpness`` to the row, NaN if not measured; let the optimizer switch.

        In a run that measures nothing, the row stays as it is.
        """
        if not self.active:
            return
        measured: Sharpness | None = None
        epoch = int(row["epoch"])
        if self._decides_after(epoch):
            measured = self._decide(epoch)
        if self.recorded and trainer.epoch % self.recorded.every_epochs == 0:
            same = measured is not None and self.plan is not None and self.plan.examples == self.recorded.examples
            measured = measured if same else self._measure(epoch, self.recorded.examples)
        value = math.nan if measured is None else float(measured)
        row |= {"sharpness": value, "lr_times_sharpness": trainer.lr * value}

    def state_dict(self) -> dict[str, Any]:
        """The decisions so far and their cost, as plain values; empty without ``auto_switch``."""
        if self.auto is None:
            return {}
        return {"auto": self.auto.state_dict(), "products": self.products, "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that :meth:`state_dict` gave."""
        if self.auto is not None:
            self.auto.load_state_dict(state["auto"])
            self.products, self.seconds = state["products"], state["seconds"]

    def result(self) -> dict[str, Any]:
        """The entries of result.json about the sharpness.

        Returns:
            ``auto_switch``: the chosen epoch and step or None, every measurement with the epoch it followed, and the
            Hessian-vector products and seconds they took. ``log_sharpness``: how the history's sharpness was measured.
        """
        entries: dict[str, Any] = {}
        if self.auto is not None:
            per_epoch, chosen = self.task.steps_per_epoch, self.chosen_epoch
            entries["auto_switch"] = {
                "epoch": chosen,
                "step": None if chosen is None else chosen * per_epoch,
                "measurements": [{"epoch": d.step // per_epoch - 1, **asdict(d)} for d in self.auto.decisions],
                "products": self.products,
                "seconds": self.seconds,
            }
        if self.recorded is not None:
            entries["log_sharpness"] = asdict(self.recorded)
        return entries

    def _decides_after(self, epoch: int) -> bool:
        """Whether a decision is due after an epoch; never after the last one, when a switch would have no effect."""
        if self.auto is None or self.plan is None or not self.auto.waiting or epoch + 1 == self.spec.epochs:
            return False
        return (epoch + 1) % self.plan.every_epochs == 0

    def _decide(self, epoch: int) -> Sharpness:
        assert self.auto is not None and self.plan is not None  # _decides_after() said so
        start = time.perf_counter()
        measured = self._measure(epoch, self.plan.examples)
        self.products += measured.products
        self.seconds += time.perf_counter() - start
        if self.auto.observe(measured):
            last = self.auto.decisions[-1]
            log.info(
                "%s: the multistep method begins with epoch %d (lr × sharpness %.3g, its limit %.3g)",
                *(self.spec.run_id, epoch + 1, last.lr_times_sharpness, last.limit),
            )
        return measured

    def _measure(self, epoch: int, examples: int) -> Sharpness:
        """The sharpness in training mode; NaN and a warning in the log if the loss is not finite."""
        (module,) = self.task.modules.values()
        training = module.training
        module.train()
        try:
            measured = self._sharpness(module, examples)
        except NotFinite as error:
            log.warning("%s: no sharpness after epoch %d: %s", self.spec.run_id, epoch, error)
            return Sharpness(math.nan, math.nan, 0, False)
        except ValueError as error:
            raise ConfigError(
                f"the sharpness of task {self.spec.task['name']!r} cannot be measured: {error}"
            ) from error
        finally:
            module.train(training)
        if not measured.converged:
            log.warning(
                "%s: the sharpness after epoch %d, %.4g, is uncertain by %.2g",
                *(self.spec.run_id, epoch, measured.value, measured.residual),
            )
        return measured

    def _sharpness(self, module: nn.Module, examples: int) -> Sharpness:
        losses, seed = self._losses(examples), derive(self.spec.seed, "sharpness")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConverged)  # _measure() logs it, with the epoch
            return sharpness(losses, module.parameters(), buffers=module.buffers(), seed=seed)

    def _losses(self, examples: int) -> list[Callable[[], Tensor]]:
        """The losses of the sample's batches, weighted so that their mean is the mean over all examples."""
        device = self.task.settings.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            seed_globally(self.spec.seed, "epoch", 0)  # the augmentation of epoch 0
            sample = list(self.task.probe(examples))
        mean = sum(size for _, size in sample) / len(sample)
        return [partial(self._weighted_loss, batch, size / mean) for batch, size in sample]

    def _weighted_loss(self, batch: Any, weight: float) -> Tensor:
        return weight * self.task.loss(batch)


def _auto_switch(spec: RunSpec, plan: AutoSwitchPlan, optimizers: Mapping[str, Optimizer]) -> AutoSwitch:
    (optimizer,) = optimizers.values()
    try:
        return AutoSwitch(optimizer, plan.margin, plan.patience)  # type: ignore[arg-type]  # it checks the type itself
    except ValueError as error:
        raise ConfigError(f"optimizer {spec.optimizer['name']!r} cannot choose its switch: {error}") from error


def _check_measurable(spec: RunSpec, task: Task) -> None:
    if len(task.modules) != 1 or type(task).training_step is not Task.training_step:
        raise ConfigError(
            f"task {spec.task['name']!r} trains several modules or has a training step of its own, so that its "
            "sharpness cannot be measured: leave log_sharpness at null, and use another optimizer than tmsgd_auto."
        )
