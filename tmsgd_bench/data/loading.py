"""Batches made ahead by worker processes, so that training does not wait for decoding and augmentation.

An example depends only on (seed, epoch, its number): torch's CPU generator is seeded for each example, and restored
afterwards. So the batches are the same with any number of workers, and do not change dropout or initial weights.
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
"""The seed of an example's random stream, and the example's number."""
PR_SET_PDEATHSIG = 1
NO_WORKERS = "set workers=0"
START = "fork" if sys.platform == "linux" else "spawn"
"""How workers start. In a worker process of joblib the default method would be one that torch cannot use."""


class Loader:
    """The examples of one split, in batches.

    Args:
        make: makes an example from its number; may draw from torch's global CPU generator.
        collate: makes a batch of CPU tensors from several examples.
        settings: the run's seed, device and number of workers; with 0 workers each batch is made when it is needed.
        keep: whether the workers stay for the next epoch.
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
            generator=torch.Generator(),  # when workers start, torch draws from this and not from the global generator
        )

    def batches(self, order: Tensor, size: int, *purpose: object) -> Iterator[Any]:
        """The examples of an order (int64, (examples,)), ``size`` at a time.

        Args:
            purpose: distinguishes the random streams of this pass; the epoch, for instance.

        Raises:
            BenchError: an example cannot be made, raised by ``make`` in any process; or there is no shared memory for
                the workers' batches.
            Exception: any other error; if a worker raised it, the message is the worker's traceback.
        """
        self.ahead = None  # this pass takes over the workers, so batches that were begun ahead are lost
        self.keys.batches = self._keys(order, size, *purpose)
        for batch in self._start():
            yield _batch_or_error(batch)

    def _start(self) -> Iterator[Any]:
        if self.workers:
            shared_memory.check(self.workers, NO_WORKERS)
        return iter(self.loader)

    def epoch(self, order_of: Callable[[int], Tensor], size: int, epoch: int) -> Iterator[Any]:
        """The batches of one training epoch, like :meth:`batches`, while the first batches of the next are begun.

        So the next epoch does not wait for its first batch. If another epoch is asked for next, or this one is not
        consumed to its end, the batches made ahead are lost.

        Args:
            order_of: returns an epoch's order from its number.
        """
        number, stream = self.ahead or (None, iter(()))
        if number != epoch:
            keys = (self._keys(order_of(later), size, later) for later in itertools.count(epoch))
            self.keys.batches = itertools.chain.from_iterable(keys)
            stream = self._start()
        self.ahead = None
        for batch in itertools.islice(stream, len(order_of(epoch).split(size))):
            yield _batch_or_error(batch)
        self.ahead = (epoch + 1, stream)

    def close(self) -> None:
        """End the workers now, also if an error that one of them raised is still held somewhere.

        Without this they end 5 s late each: this object is part of a reference cycle, and the garbage collector
        destroys the loader in an order in which torch waits for workers that were not told to end.
        """
        self.ahead = None
        workers, self.loader._iterator = self.loader._iterator, None
        if end := getattr(workers, "_shutdown_workers", None):  # what torch does when nobody holds them any more
            end()

    def _keys(self, order: Tensor, size: int, *purpose: object) -> list[list[Key]]:
        keys = [(derive(self.seed, "example", *purpose, number), number) for number in order.tolist()]
        return [keys[start : start + size] for start in range(0, len(keys), size)]


def _batch_or_error(batch: Any) -> Any:
    if isinstance(batch, _Failed):
        raise batch.error
    return batch


@dataclass(frozen=True)
class _Failed:
    """An error in place of an example or a batch. If a worker raised it, torch would add the worker's traceback."""

    error: BenchError


class _Keys(Sampler[list[Key]]):
    """The keys of each batch of the next pass; in training there is no end."""

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
            torch.default_generator.manual_seed(stream)  # torch.manual_seed would also seed the GPU's generator
            try:
                return self.make(number)
            except BenchError as error:
                return _Failed(error)


def _collate(collate: Callable[[list[Any]], Any], examples: list[Any]) -> Any:
    """The batch, or the error of the first example that could not be made."""
    if failed := next((example for example in examples if isinstance(example, _Failed)), None):
        return failed
    batch = collate(examples)
    if get_worker_info() is None:
        return batch
    try:
        _share(batch)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for some errors of the system
        return _Failed(shared_memory.lacking(error, NO_WORKERS))
    return batch


def _share(batch: Any) -> None:
    """Move a batch's tensors to shared memory. torch would do it later, in a thread whose errors are not reported."""
    if isinstance(batch, Tensor):
        batch.share_memory_()
    elif isinstance(batch, Mapping):
        _share(list(batch.values()))
    elif isinstance(batch, list | tuple):
        for item in batch:
            _share(item)


def end_with_parent(worker: int) -> None:
    """Let a worker end at once when its run's process ends: until then it may hold inherited locks.

    A worker ignores a signal that goes to all processes, such as Ctrl-C, so that the run can finish its epoch.
    """
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_sigterm, daemon=True).start()
    if sys.platform == "linux":  # elsewhere torch ends it, after some seconds
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        run = multiprocessing.parent_process()
        if run is not None and run.pid != os.getppid():  # the run ended before this was set
            os.kill(os.getpid(), signal.SIGKILL)


def _end_by_sigterm() -> None:
    """End this worker on SIGTERM: at once if the run sent it, as torch does, otherwise after the run's grace time."""
    sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
    if sender != os.getppid():
        time.sleep(GRACE_SECONDS)
    os._exit(0)
