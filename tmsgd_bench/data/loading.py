"""Batches made ahead by worker processes, so that decoding and augmentation stay off the training's path.

What an example becomes depends on (seed, epoch, its number) alone: before each, torch's CPU stream is started at a
place of its own, and put back afterwards. So the batches are the same with any number of workers, and neither dropout
nor initial weights notice them.
"""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from tmsgd_bench import shared_memory
from tmsgd_bench.errors import BenchError
from tmsgd_bench.interrupt import GRACE_SECONDS, SIGNALS
from tmsgd_bench.seeding import derive
from tmsgd_bench.task import TaskSettings

Key = tuple[int, int]
"""Where an example's random stream begins, and its number."""
PR_SET_PDEATHSIG = 1
NO_WORKERS = "set workers=0"
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
        self.seed, self.workers, self.keys = settings.seed, settings.workers, _Keys()
        self.ahead: tuple[int, Iterator[Any]] | None = None
        self.loader: DataLoader[Any] = DataLoader(
            _Examples(make),
            batch_sampler=self.keys,
            num_workers=settings.workers,
            collate_fn=partial(_collate, collate),
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

        Raises:
            BenchError: an example cannot be made; as it was raised, in whatever process. Or the workers have no room
                to hand over their batches.
            Exception: anything else that was raised; from a worker it has that worker's traceback as its message.
        """
        self.ahead = None  # a pass takes the workers from whatever was begun before
        self.keys.batches = self._keys(order, size, *purpose)
        for batch in self._start():
            yield _made(batch)

    def _start(self) -> Iterator[Any]:
        if self.workers:
            shared_memory.check(self.workers, NO_WORKERS)
        return iter(self.loader)

    def epoch(self, order_of: Callable[[int], Tensor], size: int, epoch: int) -> Iterator[Any]:
        """The batches of one training epoch, as of :meth:`batches`; the first of the next epoch are begun meanwhile.

        So the next epoch does not wait for its first batch. It is begun anew where another one is asked for, or where
        this one was broken off.

        Args:
            order_of: an epoch's order, by its number.
        """
        number, stream = self.ahead or (None, iter(()))
        if number != epoch:
            keys = (self._keys(order_of(later), size, later) for later in itertools.count(epoch))
            self.keys.batches = itertools.chain.from_iterable(keys)
            stream = self._start()
        self.ahead = None
        for batch in itertools.islice(stream, len(order_of(epoch).split(size))):
            yield _made(batch)
        self.ahead = (epoch + 1, stream)

    def close(self) -> None:
        """End the workers now.

        They would end by themselves, but late: the order of the next batches leads back to this object, so that Python
        takes it apart in an order in which torch waits 5 s for workers that have not been told to end.
        """
        self.ahead = None
        self.loader._iterator = None

    def _keys(self, order: Tensor, size: int, *purpose: object) -> list[list[Key]]:
        keys = [(derive(self.seed, "example", *purpose, number), number) for number in order.tolist()]
        return [keys[start : start + size] for start in range(0, len(keys), size)]


def _made(batch: Any) -> Any:
    if isinstance(batch, _Refused):
        raise batch.error
    return batch


@dataclass(frozen=True)
class _Refused:
    """In place of an example or a batch: what a person can mend. Raised, torch would add the worker's traceback."""

    error: BenchError


class _Keys(Sampler[list[Key]]):
    """The batches of the pass that comes next; in training it has no end."""

    def __init__(self) -> None:
        self.batches: Iterable[list[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


class _Examples(Dataset[Any]):
    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __getitem__(self, key: Key) -> Any:
        stream, number = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stream)  # torch.manual_seed would start a GPU's stream anew as well
            try:
                return self.make(number)
            except BenchError as error:
                return _Refused(error)


def _collate(collate: Callable[[list[Any]], Any], examples: list[Any]) -> Any:
    """The batch, or what is wrong with the first example that cannot be made."""
    if refused := next((example for example in examples if isinstance(example, _Refused)), None):
        return refused
    batch = collate(examples)
    if get_worker_info() is None:
        return batch
    try:
        _share(batch)
    except (OSError, RuntimeError) as error:  # RuntimeError is torch's word for either
        return _Refused(shared_memory.lacking(error, NO_WORKERS))
    return batch


def _share(batch: Any) -> None:
    """Move a batch's tensors to shared memory, as torch would do later, in a thread whose errors nobody hears of."""
    if isinstance(batch, Tensor):
        batch.share_memory_()
    elif isinstance(batch, Mapping):
        _share(list(batch.values()))
    elif isinstance(batch, list | tuple):
        for part in batch:
            _share(part)


def end_with_parent(worker: int) -> None:
    """Let a worker die with the run, at once: until then it may hold locks that it has inherited.

    A signal to all processes at once, such as Ctrl-C, leaves the run the time to end its epoch.
    """
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_sigterm, daemon=True).start()
    if sys.platform == "linux":  # elsewhere torch's own watch ends it, after some seconds
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        run = multiprocessing.parent_process()
        if run is not None and run.pid != os.getppid():  # it died before this was set
            os.kill(os.getpid(), signal.SIGKILL)


def _end_by_sigterm() -> None:
    """The run's own SIGTERM, which is torch's way to end a worker, ends it at once; another's does so in a while."""
    sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
    if sender != os.getppid():
        time.sleep(GRACE_SECONDS)
    os._exit(0)
