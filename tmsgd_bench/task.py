"""The interface that every task implements, and the settings that the engine passes to it.

A task is one row of the paper's Table 1: data, modules, a training step, an evaluation. It never sees the whole
configuration, the results store or an optimizer's name.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tmsgd_bench import splits
from tmsgd_bench.checks import Section
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.seeding import subset, validation_split

Direction = Literal["min", "max"]


@dataclass(frozen=True)
class Metric:
    """A number that an evaluation returns.

    Args:
        name: its key in the dictionary that ``evaluate`` returns.
        unit: "%", "nat" and so on; "" for a pure number.
        direction: "max" if larger is better, "min" if smaller is.
        label: its name in tables; ``name`` if empty.
        detail: a number of one class, for instance, which is stored but not printed in log lines.
    """

    name: str
    unit: str
    direction: Direction
    label: str = ""
    detail: bool = False


class Split(NamedTuple):
    """Which examples of a training split a run uses, by their numbers.

    Args:
        train: int64, sorted: those to train on.
        validation: int64, sorted: those to evaluate on; None to evaluate on the test split.
    """

    train: Tensor
    validation: Tensor | None


@dataclass(frozen=True)
class TaskSettings:
    """A run's settings as its task gets them.

    Args:
        data_folder: the data set's folder, in its publisher's layout.
        data_limit: use this many training examples, the same for every seed; None for all of them.
        batch_size: examples of one step.
        seed: the run's seed; derive random streams from it with :func:`tmsgd_bench.seeding.derive`.
        device: for modules and data.
        model: the settings of the model's YAML, from conf/model.
        fingerprint: the data set's fingerprint, a key for files that are prepared from the data.
        weights_folder: for published weights that a task starts from, or measures with.
        workers: processes that make batches ahead, for tasks whose batches take long; 0 for none.
        save_predictions: save the trained modules' predictions on the evaluated split beside the result.
        validation_share: share of the training split to evaluate on instead of the test split, which must then not be
            read; None to evaluate on the test split.
        evaluation_limit: evaluate on this many examples, the same for every seed; None for all of them.
    """

    data_folder: Path
    data_limit: int | None
    batch_size: int
    seed: int
    device: torch.device
    model: Mapping[str, Any]
    fingerprint: str = ""
    weights_folder: Path = Path("weights")
    workers: int = 0
    save_predictions: bool = False
    validation_share: float | None = None
    evaluation_limit: int | None = None

    @property
    def validates(self) -> bool:
        """Whether the run is evaluated on a validation split."""
        return self.validation_share is not None

    def split(self, size: int) -> Split:
        """Which examples to train on and which to validate on; it depends on no run's seed.

        ``data_limit`` leaves a subset of those to train on, ``evaluation_limit`` one of those to validate on.

        Args:
            size: examples of the training split.

        Raises:
            ConfigError: there are too few to hold any out.
        """
        if self.validation_share is None:
            return Split(subset(size, self.data_limit), None)
        if size < 2:
            raise ConfigError(
                f"{self.data_folder} has {size} training example, too few for a validation split: set "
                "task.evaluate_on=test, or use more data."
            )
        rest, validation = validation_split(size, self.validation_share)
        return Split(rest[subset(len(rest), self.data_limit)], validation[self.evaluated_of(len(validation))])

    def evaluated_of(self, size: int) -> Tensor:
        """Which of ``size`` examples of the evaluated split to evaluate on: int64, sorted; all without a limit."""
        return subset(size, self.evaluation_limit)

    def evaluated(self, options: Mapping[str, Any]) -> tuple[TaskSettings, dict[str, Any]]:
        """The settings of a run on the split that a task's options ask for, and the options without that.

        Args:
            options: of a class with ``splits_training``; without ``evaluate_on`` it is the test split.
        """
        validates = splits.evaluated(options) == splits.VALIDATION
        others = {key: value for key, value in options.items() if key not in splits.SETTINGS}
        return replace(self, validation_share=options["validation_share"] if validates else None), others


class Task(ABC):
    """Data in, modules, a training step, an evaluation.

    Subclasses set ``modules`` (one optimizer is built for each entry) and ``train_size`` (examples of one epoch)
    in their constructor, which receives a :class:`TaskSettings` and the options of their YAML as keywords.
    """

    options: ClassVar[Section | None] = None
    """Checks the options of the task's YAML before data are loaded; if None, the constructor's signature is used."""
    model_arguments: ClassVar[tuple[str, ...] | None] = None
    """Names of the arguments that the task passes to its model's class, besides the options of the model's YAML; None
    for a task that builds no model from the YAML, whose options are then not checked."""

    metrics: tuple[Metric, ...]
    """The numbers that ``evaluate`` returns; the first is the primary metric. Set by the class or its constructor."""

    splits_training: ClassVar[bool] = False
    """Whether the task takes its examples from ``settings.split``. Its YAML then has ``evaluate_on`` and
    ``validation_share``, which the constructor does not get."""

    modules: dict[str, nn.Module]
    train_size: int
    evaluate_every: int = 1
    """Evaluate after every so many epochs, and always after the last one."""
    evaluate_at_start: bool = False
    """Evaluate before the first epoch too; for tasks that start from pretrained weights."""

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings
        self._sample: list[tuple[Any, int]] = []

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last batch may be smaller."""
        return math.ceil(self.train_size / self.settings.batch_size)

    @abstractmethod
    def batches(self, epoch: int) -> Iterable[Any]:
        """The epoch's batches. Their order and augmentation depend only on (seed, epoch)."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The scalar training loss of a batch, a mean over its examples.

        A task that records more losses overrides ``losses``; one that minimises several, ``training_step``.
        """

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """The scalars to record for a batch, by name; ``loss`` is the one that is minimised."""
        return {"loss": self.loss(batch)}

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Every metric on the evaluated split, in the units of ``metrics``; must not change any state."""

    def training_step(self, batch: Any, optimizers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
        """Take exactly one step with every optimizer; returns the detached scalar losses by name.

        Exactly one, because the engine converts the switch epoch into steps by the number of batches.
        """
        losses = self.losses(batch)
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        for optimizer in optimizers.values():
            optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def probe(self, examples: int) -> Iterable[tuple[Any, int]]:
        """A fixed sample of training examples, on which the loss's sharpness is measured.

        Returns:
            Pairs of a batch for ``loss`` and its number of examples, by which the batch's loss is weighted. By default
            the first batches of epoch 0, until there are ``examples``. They are made once and kept, because to ask for
            epoch 0 during training would discard batches that a Loader has made ahead. A task without batch
            normalisation may return the same examples in fewer and larger batches, which is faster.
        """
        size = self.settings.batch_size
        count = math.ceil(min(examples, self.train_size) / size)
        if len(self._sample) < count:
            first = itertools.islice(self.batches(0), count)
            self._sample = [(batch, min(size, self.train_size - size * step)) for step, batch in enumerate(first)]
        return self._sample[:count]

    def after_epoch(self, epoch: int) -> None:  # noqa: B027 - most tasks remember nothing
        """Called after each epoch's evaluation, in evaluation mode and without gradients; must not change weights."""

    def state(self) -> dict[str, Tensor]:
        """The task's own state, such as samples for a figure; saved in checkpoints and in shared trunks."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Restore a state that ``state`` returned."""

    def close(self) -> None:  # noqa: B027 - most tasks start no process
        """Called when training is over: end the processes that make batches."""

    def draw(self, folder: Path) -> None:  # noqa: B027 - most tasks have no figure
        """Write figures of the trained modules into a folder, for tasks that have a figure in the paper.

        Called once, after training, in evaluation mode and without gradients; must not change weights.
        """
