"""Batches made ahead by worker processes, so that decoding and augmentation stay off the training's path.

What an example becomes depends on (seed, epoch, its number) alone: before each, torch's CPU stream is started at a
place of its own, and put back afterwards. So the batches are the same with any number of workers, and neither dropout
nor initial weights notice them.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tmsgd_bench.engine.seeding import derive
from tmsgd_bench.task import TaskSettings

Key = tuple[int, int]
"""Where an example's random stream begins, and its number."""
PR_SET_PDEATHSIG = 1
START = "fork" if sys.platform == "linux" else "spawn"
"""How workers start. Named, because inside a worker of joblib's the default is a way that torch cannot use."""


class Loader:
    """The examples of one split, in batches.

    Args:
        make: an example by its number; may draw from torch's global CPU stream.
        collate: several examples as one batch, of CPU tensors.
        settings: the run's: its seed, its device, and how many workers; 0 makes every batch when it is asked for.
        keep: leave the workers waiting for the next epoch.
    """

    def __init__(
        self,
        make: Callable[[int], Any],
        collate: Callable[[list[Any]], Any],
        settings: TaskSettings,
        keep: bool = True,
    ) -> None:
        self.seed, self.keys = settings.seed, _Keys()
        self.loader: DataLoader[Any] = DataLoader(
            _Examples(make),
            batch_sampler=self.keys,
            num_workers=settings.workers,
            collate_fn=collate,
            pin_memory=settings.device.type == "cuda",
            persistent_workers=keep and settings.workers > 0,
            worker_init_fn=end_with_parent,
            multiprocessing_context=START if settings.workers else None,
            generator=torch.Generator(),  # torch draws from it when workers start; not from the global stream, then
        )

    def batches(self, order: Tensor, size: int, *purpose: object) -> Iterator[Any]:
        """The examples of an order (int64, (examples,)), ``size`` at a time.

        Args:
            purpose: what distinguishes this pass's random streams: the epoch, say.
        """
        keys = [(derive(self.seed, "example", *purpose, number), number) for number in order.tolist()]
        self.keys.batches = [keys[start : start + size] for start in range(0, len(keys), size)]
        yield from self.loader


class _Keys(Sampler[list[Key]]):
    """The batches of the pass that comes next."""

    def __init__(self) -> None:
        self.batches: Sequence[list[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Examples(Dataset[Any]):
    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __getitem__(self, key: Key) -> Any:
        stream, number = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stream)  # torch.manual_seed would start a GPU's stream anew as well
            return self.make(number)


def end_with_parent(worker: int) -> None:
    """Let a worker die with the run, at once: until then it may hold locks that it has inherited."""
    if sys.platform == "linux":  # elsewhere torch's own watch ends it, after some seconds
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
