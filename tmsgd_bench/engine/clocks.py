"""Three clocks: training, evaluation, bookkeeping. Throughput counts only training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from tmsgd_bench.engine import costs

PHASES = ("training", "evaluation", "bookkeeping")


@dataclass
class Clocks:
    """Seconds spent in each phase. The first epoch of each process, a warm-up, is also counted separately.

    Args:
        device: synchronised at the start and end of a phase, so that queued GPU work counts for the right phase.
        seconds: totals by phase over all processes that trained the run.
        warm_up: seconds of training in the first epochs of processes (allocation, kernel choice, compilation).
        warm_up_epochs: how many such epochs there were.
        last: seconds of the last measured block.
        earlier_processor: processor seconds of the processes that trained the run before this one.
        since: what :func:`~tmsgd_bench.engine.costs.processor_seconds` was when this process had built the run's task.
            Preparing data is not counted: it is done once for many runs.
    """

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    warm_up: float = 0.0
    warm_up_epochs: int = 0
    last: float = 0.0
    earlier_processor: float = 0.0
    since: float = field(default_factory=costs.processor_seconds)

    @property
    def processor(self) -> float:
        """Processor seconds of the run so far, in all phases and with those of batch workers that have ended."""
        return self.earlier_processor + costs.processor_seconds() - self.since

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the time of a block to a phase; ``last`` then holds the seconds of that block."""
        start = self._now()
        try:
            yield
        finally:
            self.last = self._now() - start
            self.seconds[phase] += self.last

    def note_warm_up(self) -> None:
        """Count the training block just measured as warm-up."""
        self.warm_up += self.last
        self.warm_up_epochs += 1

    def throughput(self, epochs: int, examples_per_epoch: int) -> float | None:
        """Training examples per second without warm-up epochs; None if there are no other epochs."""
        steady = self.seconds["training"] - self.warm_up
        measured = epochs - self.warm_up_epochs
        return measured * examples_per_epoch / steady if measured > 0 and steady > 0 else None

    def state_dict(self) -> dict[str, object]:
        return {
            "seconds": dict(self.seconds),
            "warm_up": self.warm_up,
            "warm_up_epochs": self.warm_up_epochs,
            "processor": self.processor,
        }

    def load_state_dict(self, state: dict) -> None:
        self.seconds = {phase: float(state["seconds"][phase]) for phase in PHASES}
        self.warm_up, self.warm_up_epochs = state["warm_up"], state["warm_up_epochs"]
        self.earlier_processor, self.since = state.get("processor", 0.0), costs.processor_seconds()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
