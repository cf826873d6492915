"""The training loop of one run: epochs, evaluation, history, checkpoints."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tmsgd_bench import interrupt
from tmsgd_bench.engine import checkpoint
from tmsgd_bench.engine.clocks import Clocks
from tmsgd_bench.engine.monitor import SharpnessMonitor
from tmsgd_bench.engine.optimizers import build_optimizer, build_schedulers
from tmsgd_bench.engine.progress import Reporter
from tmsgd_bench.engine.spec import RunSpec, SharpnessLog
from tmsgd_bench.errors import BenchError
from tmsgd_bench.seeding import seed_globally
from tmsgd_bench.task import Task


class Diverged(Exception):
    """A training loss stopped being finite."""

    def __init__(self, loss: str, epoch: int, step: int) -> None:
        super().__init__(f"{loss} is not finite at epoch {epoch}, step {step}")
        self.loss, self.epoch, self.step = loss, epoch, step


class LossRecord:
    """Every step's losses, left on the device: reading them would make a GPU wait at every step."""

    FOLD = 1024  # single values become one tensor now and then, so that a long epoch holds few small ones

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}
        self.folded: dict[str, list[Tensor]] = {}

    def add(self, step: dict[str, Tensor]) -> None:
        """Keep the scalar losses of one step."""
        for name, value in step.items():
            values = self.values.setdefault(name, [])
            values.append(value)
            if len(values) == self.FOLD:
                self._fold(name)

    def all(self) -> dict[str, Tensor]:
        """Each loss as one tensor of shape (steps,)."""
        for name in self.values:
            self._fold(name)
        return {name: torch.cat(parts) for name, parts in self.folded.items()}

    def _fold(self, name: str) -> None:
        if values := self.values[name]:
            self.folded.setdefault(name, []).append(torch.stack(values))
            self.values[name] = []


@dataclass
class Trainer:
    """Everything that moves while a run trains, and how to save and restore it.

    Args:
        spec: the run.
        task: data, modules, training step and evaluation.
        device: where it all lives.
        optimizers: one for each module of the task.
        per_update, per_epoch: learning-rate schedulers.
        monitor: measures the sharpness after epochs, where that is asked for.
        epoch: finished epochs.
        history: one row for each finished epoch.
        initial: the metrics before the first epoch, where the task asks for them.
        trained_here: epochs that this process has trained itself.
    """

    spec: RunSpec
    task: Task
    device: torch.device
    optimizers: dict[str, Optimizer]
    per_update: list[LRScheduler]
    per_epoch: list[LRScheduler]
    monitor: SharpnessMonitor
    clocks: Clocks
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    initial: dict[str, float] = field(default_factory=dict)
    trained_here: int = 0

    @classmethod
    def build(
        cls, spec: RunSpec, make_task: Callable[[], Task], device: torch.device, log: SharpnessLog | None = None
    ) -> Trainer:
        """Modules with the seed's initial weights, and fresh optimizers and schedulers for them.

        Args:
            log: what of the sharpness to record in the history.

        Raises:
            ConfigError: the optimizer, the schedule or the sharpness asked for does not fit the task.
        """
        seed_globally(spec.seed, "weights")
        task = make_task()
        optimizers, per_update, per_epoch = {}, [], []
        for name, module in task.modules.items():
            optimizers[name] = build_optimizer(spec.optimizer, module.parameters(), task.steps_per_epoch)
            steps = task.steps_per_epoch
            updates, epochs = build_schedulers(spec.optimizer, spec.schedule, optimizers[name], steps)
            per_update += updates
            per_epoch += epochs
        monitor = SharpnessMonitor(spec, task, optimizers, log)
        return cls(spec, task, device, optimizers, per_update, per_epoch, monitor, Clocks(device))

    def fit(self, reporter: Reporter, after_epoch: Callable[[], None], until: int | None = None) -> None:
        """Train the epochs that are left, or those up to ``until``.

        Raises:
            Diverged: a loss is not finite.
            Interrupted: a signal asked to stop; after the last epoch it does not, since only the result is left.
        """
        interrupt.training_begins()
        self._evaluate_at_start()
        fresh = True
        while self.epoch < (self.spec.epochs if until is None else until):
            with self.clocks.measure("training"):
                losses = self._train_epoch(reporter)
            if fresh:
                self.clocks.note_warm_up()
            fresh = False
            self._finish_epoch(losses, reporter)
            interrupt.epoch_ended(last=self.epoch == self.spec.epochs)
            after_epoch()
            if self.epoch < self.spec.epochs:
                interrupt.stop_if_asked()

    def _evaluate_at_start(self) -> None:
        if self.task.evaluate_at_start and self.epoch == 0 and not self.initial:
            with self.clocks.measure("evaluation"):
                self.initial = self.evaluate()

    def _train_epoch(self, reporter: Reporter) -> dict[str, Tensor]:
        """One pass over the training split; returns every step's losses, still on the device."""
        seed_globally(self.spec.seed, "epoch", self.epoch)
        for module in self.task.modules.values():
            module.train()
        losses = LossRecord()
        step = -1
        for step, batch in enumerate(self.task.batches(self.epoch)):
            losses.add(self.task.training_step(batch, self.optimizers))
            for scheduler in self.per_update:
                scheduler.step()
            if reporter.step(self.epoch, step):
                reporter.show_loss(float(next(iter(losses.all().values())).mean()))
        if step + 1 != self.task.steps_per_epoch:
            raise BenchError(f"the task made {step + 1} batches in an epoch, but declares {self.task.steps_per_epoch}.")
        for scheduler in self.per_epoch:
            scheduler.step()
        return losses.all()

    def _finish_epoch(self, losses: dict[str, Tensor], reporter: Reporter) -> None:
        for name, values in losses.items():
            bad = (~torch.isfinite(values)).nonzero()
            if len(bad):
                raise Diverged(name, self.epoch, int(bad[0]))
        seconds = self.clocks.last
        with self.clocks.measure("evaluation"):
            metrics = self.evaluate() if self._evaluates() else {}
            self._tell_task()
        row = {name: float(values.double().mean()) for name, values in losses.items()} | metrics
        with self.clocks.measure("bookkeeping"):
            curvature = self.monitor.after_epoch(self.epoch, self._lr())
        own = {"lr": self._lr(), **curvature, "training_seconds": seconds}
        self.history.append({"epoch": float(self.epoch), **row, **own})
        reporter.epoch(self.epoch, row)
        self.epoch += 1
        self.trained_here += 1

    def _evaluates(self) -> bool:
        """Whether this epoch ends with an evaluation."""
        finished = self.epoch + 1
        return finished % self.task.evaluate_every == 0 or finished == self.spec.epochs

    @torch.no_grad()
    def _tell_task(self) -> None:
        for module in self.task.modules.values():
            module.eval()
        self.task.after_epoch(self.epoch)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The task's metrics, checked to be the declared ones."""
        for module in self.task.modules.values():
            module.eval()
        values = self.task.evaluate()
        declared = {metric.name for metric in self.task.metrics}
        if set(values) != declared:
            raise BenchError(f"evaluate() returned {sorted(values)}, but the task declares {sorted(declared)}.")
        return values

    def _lr(self) -> float:
        """The learning rate of the next step."""
        return float(next(iter(self.optimizers.values())).param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """All of it as tensors and plain values. Generator states are not needed: every epoch starts its own."""
        return {
            "identity": self.spec.identity,
            "epoch": self.epoch,
            "history": self.history,
            "initial": self.initial,
            "clocks": self.clocks.state_dict(),
            "modules": {name: module.state_dict() for name, module in self.task.modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "schedulers": [scheduler.state_dict() for scheduler in (*self.per_update, *self.per_epoch)],
            "monitor": self.monitor.state_dict(),
            "task": self.task.state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of the same run.

        Raises:
            BenchError: it is no such state; then everything is as it was.
        """
        before = copied(self.state_dict())
        try:
            self._take(state)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever modules, optimizers and tasks say to a foreign state
            self._take(before)
            reason = str(error) if isinstance(error, BenchError) else type(error).__name__
            raise BenchError(f"it holds no state of this run, {reason}") from error

    def _take(self, state: dict[str, Any]) -> None:
        if state["identity"] != self.spec.identity:
            raise BenchError("but one of another")
        if state["epoch"] != len(state["history"]) or not all(isinstance(row, dict) for row in state["history"]):
            raise BenchError("since its history has not a row for each epoch")
        self.epoch, self.history = state["epoch"], state["history"]
        self.clocks.load_state_dict(state["clocks"])
        for name, module in self.task.modules.items():
            module.load_state_dict(state["modules"][name])
            self.optimizers[name].load_state_dict(state["optimizers"][name])
        for scheduler, saved in zip((*self.per_update, *self.per_epoch), state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        self.monitor.load_state_dict(state.get("monitor", {}))  # older checkpoints lack these three
        self.initial = state.get("initial", {})
        self.task.load_state(state.get("task", {}))

    @property
    def switched(self) -> bool:
        """Whether training has reached its switch epoch."""
        start = self.monitor.chosen_epoch if self.spec.auto_switch else self.spec.switch_epoch
        return isinstance(start, int) and start < self.spec.epochs and self.epoch >= start

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The modules' weights and buffers."""
        return {name: module.state_dict() for name, module in self.task.modules.items()}


def copied(value: Any) -> Any:
    """A state that shares nothing with the original; tensors lie in main memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(entry) for entry in value)
    return copy.deepcopy(value)


class Checkpointer:
    """Writes a checkpoint after an epoch if enough time has passed since the last one, or if the run is to stop."""

    def __init__(self, trainer: Trainer, folder: Path, every_seconds: float) -> None:
        self.trainer, self.folder, self.every = trainer, folder, every_seconds
        self.latest = time.monotonic()

    def __call__(self) -> None:
        """To be called after each epoch; the last epoch needs none, its result follows at once."""
        finished = self.trainer.epoch == self.trainer.spec.epochs
        due = time.monotonic() - self.latest >= self.every and not finished
        if not (due or interrupt.asked()):
            return
        with self.trainer.clocks.measure("bookkeeping"):
            checkpoint.save(self.folder, self.trainer.epoch, self.trainer.state_dict())
        self.latest = time.monotonic()


def weights_digest(weights: dict[str, dict[str, Tensor]]) -> str:
    """SHA-256 (hexadecimal) of all weights' bits: two runs ended equal exactly if theirs are equal."""
    total = hashlib.sha256()
    for module, state in sorted(weights.items()):
        for name, tensor in sorted(state.items()):
            total.update(f"{module}.{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
