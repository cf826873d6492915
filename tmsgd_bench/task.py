"""The interface that every task implements, and what the engine hands to it.

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

from tmsgd_bench.checks import Section
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.seeding import subset, validation_split

EVALUATION = ("evaluate_on", "validation_share")
"""The settings of a task's YAML that say which split it is evaluated on; see :attr:`Task.splits_training`."""
Direction = Literal["min", "max"]


@dataclass(frozen=True)
class Metric:
    """One number an evaluation returns.

    Args:
        name: its key in the dictionary that ``evaluate`` returns.
        unit: what it is counted in ("%", "nat", "" for a pure number).
        direction: "max" if larger is better, "min" if smaller is.
        label: how a table prints it; the name if empty.
        detail: one of many, such as one class's, that belongs in the record and not in every line of a log.
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
    """What a task is told about the run it serves.

    Args:
        data_folder: the data set, in its publisher's layout.
        data_limit: use a seeded subset of this many training examples; None for all of them.
        batch_size: examples of one step.
        seed: the run's seed; derive streams from it with :func:`tmsgd_bench.seeding.derive`.
        device: where modules and data live.
        model: the model's own options, from conf/model.
        fingerprint: what identifies the data set's contents; keys what is prepared from it.
        weights_folder: where published weights that a task begins with, or measures with, are kept.
        workers: processes that make batches ahead, for tasks whose batches take long; 0 for none.
        save_predictions: keep what the trained modules predict on the split that is evaluated, beside the result.
        validation_share: share of the training split to evaluate on in place of the test split, which is then not to be
            read; None to evaluate on the test split.
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

    @property
    def validates(self) -> bool:
        """Whether the run is evaluated on a validation split."""
        return self.validation_share is not None

    def split(self, size: int) -> Split:
        """Which examples to train on and which to validate on; it depends on no run's seed.

        ``data_limit`` leaves a subset of those to train on.

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
        return Split(rest[subset(len(rest), self.data_limit)], validation)

    def evaluated(self, options: Mapping[str, Any]) -> tuple[TaskSettings, dict[str, Any]]:
        """The settings of a run on the split that a task's options ask for, and the options without that.

        Args:
            options: of a class with ``splits_training``; without ``evaluate_on`` it is the test split.
        """
        validates = options.get("evaluate_on", "test") == "validation"
        others = {key: value for key, value in options.items() if key not in EVALUATION}
        return replace(self, validation_share=options["validation_share"] if validates else None), others


class Task(ABC):
    """Data in, modules, a training step, an evaluation.

    Subclasses set ``modules`` (one optimizer is built for each entry) and ``train_size`` (examples of one epoch)
    in their constructor, which receives a :class:`TaskSettings` and the options of their YAML as keywords.
    """

    options: ClassVar[Section | None] = None
    """Checks the options of the task's YAML, before any data are loaded; None: the constructor's signature does."""
    model_arguments: ClassVar[tuple[str, ...] | None] = None
    """Names of what the task hands to its model's class besides the options of the model's YAML; None for a task that
    makes no model of them: whatever there is is accepted."""

    metrics: tuple[Metric, ...]
    """What ``evaluate`` returns; the first is the primary one. Of the class, or set by the constructor."""

    splits_training: ClassVar[bool] = False
    """Whether it takes its examples as ``settings.split`` says. Its YAML then has the settings of ``EVALUATION``, which
    the constructor does not get."""

    modules: dict[str, nn.Module]
    train_size: int
    evaluate_every: int = 1
    """Evaluate after every so many epochs; after the last one in any case."""
    evaluate_at_start: bool = False
    """Evaluate before the first epoch too, where training begins with weights that were trained before."""

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings
        self._sample: list[tuple[Any, int]] = []

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last batch may be smaller."""
        return math.ceil(self.train_size / self.settings.batch_size)

    @abstractmethod
    def batches(self, epoch: int) -> Iterable[Any]:
        """The epoch's batches. Their order and augmentation depend on (seed, epoch) alone."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The scalar training loss of a batch, a mean over its examples.

        Tasks with several losses override ``losses`` if one of them is minimised, and else ``training_step``.
        """

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """``loss``, which is minimised, and the scalars that are recorded beside it, by name; of one evaluation."""
        return {"loss": self.loss(batch)}

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Every metric on the split that is evaluated, in the units of ``metrics``; changes nothing."""

    def training_step(self, batch: Any, optimizers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
        """One step of every optimizer; returns the detached scalar losses by name.

        Exactly one: the engine counts an optimizer's steps in batches, to tell where its switch epoch begins.
        """
        losses = self.losses(batch)
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        for optimizer in optimizers.values():
            optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def probe(self, examples: int) -> Iterable[tuple[Any, int]]:
        """A fixed sample of training examples, to measure the loss's curvature on.

        Pairs of a batch that ``loss`` takes and the number of examples in it, by which the batches' losses are
        weighted. Here: epoch 0's first batches, until there are ``examples``; made once and kept, since asking for
        epoch 0 in the midst of training throws away what a Loader has begun ahead. A task whose loss does not depend
        on the batch size (no batch normalisation) may hand out the same examples in fewer, larger batches: that is
        faster.
        """
        size = self.settings.batch_size
        count = math.ceil(min(examples, self.train_size) / size)
        if len(self._sample) < count:
            first = itertools.islice(self.batches(0), count)
            self._sample = [(batch, min(size, self.train_size - size * step)) for step, batch in enumerate(first)]
        return self._sample[:count]

    def after_epoch(self, epoch: int) -> None:  # noqa: B027 - most tasks remember nothing
        """Called after each epoch's evaluation, in evaluation mode and without gradients; changes no weights."""

    def state(self) -> dict[str, Tensor]:
        """What the task remembers across epochs, for its pictures; saved in checkpoints and in shared trunks."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Take back what ``state`` returned."""

    def close(self) -> None:  # noqa: B027 - most tasks hold nothing
        """Called when training is over: end the processes that make its batches."""

    def draw(self, folder: Path) -> None:  # noqa: B027 - most tasks have no picture, and need not say so
        """Write figures of the trained modules into a folder, where the paper has some.

        Called once, after training, in evaluation mode and without gradients; changes no weights.
        """
