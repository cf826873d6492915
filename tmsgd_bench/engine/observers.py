"""The one way to observe a run: progress, sharpness, trackers, signs of life, shared prefixes and checkpoints.

Observers are told in the order of their list, and end in the opposite order::

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
    """What is told of a run. Each method does nothing here; subclasses override those that they need."""

    def start(self, trainer: Trainer) -> None:
        """Training begins, or goes on after ``trainer.epoch`` epochs. The trainer may be given a later state."""

    def step(self, trainer: Trainer, losses: LossRecord) -> None:
        """One more optimizer step of epoch ``trainer.epoch``; reading the losses makes a GPU wait."""

    def epoch(self, trainer: Trainer, row: Row) -> None:
        """One more finished epoch, the number of which is ``row["epoch"]``; ``trainer.epoch`` counts it already.

        Args:
            row: losses, metrics, learning rate and seconds, which the history holds. Columns may be added to it;
                observers that come later in the list, checkpoints among them, see them.
        """

    def end(self, trainer: Trainer, error: BaseException | None) -> None:
        """Whatever came after ``start`` is over.

        Args:
            error: what ended it early; None otherwise, also for a divergence, which ``trainer.divergence`` tells.
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
    """A signal waits for the observers that follow in the list: what they keep of the epoch is worth its time."""

    def epoch(self, trainer: Trainer, row: Row) -> None:
        interrupt.epoch_ended(last=trainer.finished)
