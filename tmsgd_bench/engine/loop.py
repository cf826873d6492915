"""The training loop of one run: epochs, evaluation, history."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tmsgd_bench import interrupt
from tmsgd_bench.engine.clocks import Clocks
from tmsgd_bench.engine.observers import Observer, Row
from tmsgd_bench.engine.optimizers import advance, build_optimizer, build_schedulers
from tmsgd_bench.engine.spec import RunSpec
from tmsgd_bench.errors import BenchError
from tmsgd_bench.seeding import seed_globally
from tmsgd_bench.task import Task


@dataclass(frozen=True)
class Divergence:
    """Which training loss stopped being finite, and where. This is a result, not an error."""

    loss: str
    epoch: int
    step: int

    def __str__(self) -> str:
        return f"{self.loss} is not finite at epoch {self.epoch}, step {self.step}"


class Stateful(Protocol):
    """An object with a state of plain values and tensors."""

    def state_dict(self) -> Mapping[str, Any]:
        """The state."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; it is empty if the checkpoint was written by a version without this object."""


class LossRecord:
    """Every step's losses, left on the device: to read them at every step would make a GPU wait."""

    FOLD = 1024  # so many single values are stacked into one tensor, since a long epoch would hold very many

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
        return {name: torch.cat(tensors) for name, tensors in self.folded.items()}

    def mean(self) -> float:
        """The mean of the first loss so far; reads it from the device."""
        return float(next(iter(self.all().values())).mean())

    def _fold(self, name: str) -> None:
        if values := self.values[name]:
            self.folded.setdefault(name, []).append(torch.stack(values))
            self.values[name] = []


@dataclass
class Trainer:
    """Everything that changes while a run trains, and how to save and restore it.

    Args:
        spec: the run.
        task: data, modules, training step and evaluation.
        device: of modules and data.
        optimizers: one for each module of the task.
        per_update, per_epoch: learning-rate schedulers.
        epoch: finished epochs.
        history: one row for each finished epoch.
        initial: the metrics before the first epoch, where the task asks for them.
        trained_here: epochs that this process has trained.
        divergence: where a loss stopped being finite; None if none has.
        parts: further objects whose state belongs to the run's, by their key in the state.
    """

    spec: RunSpec
    task: Task
    device: torch.device
    optimizers: dict[str, Optimizer]
    per_update: list[LRScheduler]
    per_epoch: list[LRScheduler]
    clocks: Clocks
    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    initial: dict[str, float] = field(default_factory=dict)
    trained_here: int = 0
    divergence: Divergence | None = None
    parts: dict[str, Stateful] = field(default_factory=dict)

    @classmethod
    def build(cls, spec: RunSpec, make_task: Callable[[torch.device], Task], device: torch.device) -> Trainer:
        """Modules with the seed's initial weights, and fresh optimizers and schedulers for them.

        Raises:
            ConfigError: the optimizer or the schedule does not fit the task.
        """
        seed_globally(spec.seed, "weights")
        task = make_task(device)
        optimizers, per_update, per_epoch = {}, [], []
        for name, module in task.modules.items():
            optimizers[name] = build_optimizer(spec.optimizer, module.parameters(), task.steps_per_epoch)
            steps = task.steps_per_epoch
            updates, epochs = build_schedulers(spec.optimizer, spec.schedule, optimizers[name], steps)
            per_update += updates
            per_epoch += epochs
        return cls(spec, task, device, optimizers, per_update, per_epoch, Clocks(device))

    @property
    def finished(self) -> bool:
        """Whether every epoch of the run is trained."""
        return self.epoch == self.spec.epochs

    def fit(self, until: int, observers: Sequence[Observer] = ()) -> None:
        """Train the epochs up to ``until``, or to a divergence.

        Args:
            observers: told of every step and epoch; :func:`~tmsgd_bench.engine.observers.observing` starts and ends
                them.

        Raises:
            Interrupted: a signal asked to stop. After the last epoch it is ignored, and the result is published.
        """
        interrupt.training_begins()
        self._evaluate_at_start()
        while self.epoch < until and self.divergence is None:
            with self.clocks.measure("training"):
                losses = self.train_epoch(observers)
            seconds = self.clocks.last
            if self.trained_here == 0:
                self.clocks.note_warm_up()
            self.divergence = self._divergence(losses)
            if self.divergence is None:
                self._finish_epoch(losses, seconds, observers)

    def _evaluate_at_start(self) -> None:
        if self.task.evaluate_at_start and self.epoch == 0 and not self.initial:
            with self.clocks.measure("evaluation"):
                self.initial = self.evaluate()

    def train_epoch(self, observers: Sequence[Observer] = ()) -> dict[str, Tensor]:
        """One pass over the training split; returns every step's losses, still on the device."""
        seed_globally(self.spec.seed, "epoch", self.epoch)
        for module in self.task.modules.values():
            module.train()
        losses = LossRecord()
        steps = 0
        for batch in self.task.batches(self.epoch):
            losses.add(self.task.training_step(batch, self.optimizers))
            advance(self.per_update)
            for observer in observers:
                observer.step(self, losses)
            steps += 1
        if steps != self.task.steps_per_epoch:
            raise BenchError(f"the task made {steps} batches in an epoch, but declares {self.task.steps_per_epoch}.")
        advance(self.per_epoch)
        return losses.all()

    def _divergence(self, losses: dict[str, Tensor]) -> Divergence | None:
        """The first step with a loss that is not finite; of several such losses the first that the task names."""
        bad = {name: (~torch.isfinite(values)).nonzero() for name, values in losses.items()}
        found = [Divergence(name, self.epoch, int(steps[0])) for name, steps in bad.items() if len(steps)]
        return min(found, key=lambda divergence: divergence.step, default=None)

    def _finish_epoch(self, losses: dict[str, Tensor], seconds: float, observers: Sequence[Observer]) -> None:
        with self.clocks.measure("evaluation"):
            metrics = self.evaluate() if self._evaluates() else {}
            self._tell_task()
        means = {name: float(values.double().mean()) for name, values in losses.items()}
        row: Row = {"epoch": float(self.epoch), **means, **metrics, "lr": self.lr, "training_seconds": seconds}
        self.history.append(row)
        self.epoch += 1
        self.trained_here += 1
        for observer in observers:
            with self.clocks.measure("bookkeeping"):
                observer.epoch(self, row)
        if not self.finished:
            interrupt.stop_if_asked()

    def _evaluates(self) -> bool:
        """Whether to evaluate after this epoch."""
        finished = self.epoch + 1
        return finished % self.task.evaluate_every == 0 or finished == self.spec.epochs

    @torch.no_grad()
    def _tell_task(self) -> None:
        self._to_evaluation_mode()
        self.task.after_epoch(self.epoch)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The task's metrics, checked to be the declared ones."""
        self._to_evaluation_mode()
        values = self.task.evaluate()
        declared = {metric.name for metric in self.task.metrics}
        if set(values) != declared:
            raise BenchError(f"evaluate() returned {sorted(values)}, but the task declares {sorted(declared)}.")
        return values

    @torch.no_grad()
    def draw(self, folder: Path) -> None:
        """Write the task's figures into a folder.

        Raises:
            StoreError: the folder cannot be written.
        """
        self._to_evaluation_mode()  # if other runs trained all epochs, nothing has been evaluated yet
        self.task.draw(folder)

    def _to_evaluation_mode(self) -> None:
        for module in self.task.modules.values():
            module.eval()

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(next(iter(self.optimizers.values())).param_groups[0]["lr"])

    def state_dict(self) -> dict[str, Any]:
        """The whole state as tensors and plain values. Every epoch seeds its generators, so they are not part of it."""
        return {
            "identity": self.spec.identity,
            "epoch": self.epoch,
            "history": self.history,
            "initial": self.initial,
            "clocks": self.clocks.state_dict(),
            "modules": {name: module.state_dict() for name, module in self.task.modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "schedulers": [scheduler.state_dict() for scheduler in (*self.per_update, *self.per_epoch)],
            "task": self.task.state(),
            **{name: part.state_dict() for name, part in self.parts.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same run.

        Raises:
            BenchError: it is not such a state; nothing has changed then.
        """
        before = copied(self.state_dict())
        try:
            self._take(state)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # modules, optimizers and tasks raise many kinds for a foreign state
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
        for name, part in self.parts.items():
            part.load_state_dict(state.get(name, {}))
        self.initial = state.get("initial", {})  # older checkpoints lack this and "task"
        self.task.load_state(state.get("task", {}))

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The modules' weights and buffers."""
        return {name: module.state_dict() for name, module in self.task.modules.items()}


def copied(value: Any) -> Any:
    """A copy of a state that shares no memory with it; tensors are copied to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(entry) for entry in value)
    return copy.deepcopy(value)


def weights_digest(weights: dict[str, dict[str, Tensor]]) -> str:
    """SHA-256 (hexadecimal) of all weights' bits: equal exactly if the weights of two runs are equal."""
    total = hashlib.sha256()
    for module, state in sorted(weights.items()):
        for name, tensor in sorted(state.items()):
            total.update(f"{module}.{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
