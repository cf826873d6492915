"""Observers of a run: progress, sharpness, trackers, heartbeat, shared prefixes and checkpoints.

Observers are called in the order of their list, and end in the opposite order::

    with observing(trainer, observers):
        trainer.fit(epochs, observers)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from tmsgd_bench import interrupt

if TYPE_CHECKING:
    from tmsgd_bench.engine.loop import LossRecord, Trainer

Row = dict[str, float]


class Observer:
    """An observer of a run. The methods do nothing here; subclasses override those that they need."""

    def start(self, trainer: Trainer) -> None:
        """Training starts, or goes on after ``trainer.epoch`` epochs. This method may load a later state."""

    def step(self, trainer: Trainer, losses: LossRecord) -> None:
        """An optimizer step of epoch ``trainer.epoch`` has been taken. To read the losses makes a GPU wait."""

    def epoch(self, trainer: Trainer, row: Row) -> None:
        """Epoch ``row["epoch"]`` is finished; ``trainer.epoch`` counts it already.

        Args:
            row: the epoch's row of the history: losses, metrics, learning rate and seconds. This method may add
                columns, which later observers of the list see, and so do checkpoints.
        """

    def end(self, trainer: Trainer, error: BaseException | None) -> None:
        """Training is over; called only if ``start`` returned.

        Args:
            error: the exception that ended it; None otherwise. A divergence is no error: see ``trainer.divergence``.
        """


@contextmanager
def observing(trainer: Trainer, observers: Iterable[Observer]) -> Iterator[None]:
    """Start observers, and end those that have started when the block is over, the last one first."""
    with ExitStack() as stack:
        for observer in observers:
            observer.start(trainer)
            stack.push(_ending(trainer, observer))
        yield


def _ending(trainer: Trainer, observer: Observer) -> Callable[[Any, BaseException | None, Any], None]:
    return lambda _, error, __: observer.end(trainer, error)


class Grace(Observer):
    """Lets a signal wait while the observers after this one save the epoch."""

    def epoch(self, trainer: Trainer, row: Row) -> None:
        interrupt.epoch_ended(last=trainer.finished)
