"""Batches made ahead: the same with any number of workers, without a trace in the global streams, and no orphans."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing.synchronize
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from tmsgd_bench.data.loading import Loader
from tmsgd_bench.errors import BenchError, ConfigError, DataError
from tmsgd_bench.seeding import derive, generator
from tmsgd_bench.task import TaskSettings

ROOT = Path(__file__).parents[2]
WORKERS = (0, 1, 3)
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores


def settings(workers: int = 0, seed: int = 0) -> TaskSettings:
    return TaskSettings(Path(), None, 2, seed, torch.device("cpu"), {}, workers=workers)


def noisy(number: int) -> Tensor:
    """An example with augmentation: its number, and what it draws."""
    return torch.cat([torch.tensor([float(number)]), torch.rand(3)])


def expected(number: int, *purpose: object, seed: int = 0) -> Tensor:
    """What :func:`noisy` makes at the start of the example's own stream."""
    drawn = torch.rand(3, generator=generator(seed, "example", *purpose, number))
    return torch.cat([torch.tensor([float(number)]), drawn])


OPEN: list[Loader] = []


def loader(workers: int = 0, make: Callable[[int], Any] = noisy, **changes: Any) -> Loader:
    OPEN.append(Loader(make, torch.stack, settings(workers, changes.pop("seed", 0)), **changes))
    return OPEN[-1]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """No test waits for the workers of the one before."""
    yield
    while OPEN:
        OPEN.pop().close()


# --- what is in a batch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("seed", [0, 3])
def test_an_example_depends_on_seed_purpose_and_number_alone(workers: int, seed: int) -> None:
    """Whatever its batch and its place; pass after pass, in the order asked for."""
    made = loader(workers, seed=seed)
    for order, size, purpose in (([4, 0, 2, 1, 3], 2, (0,)), ([1, 4], 5, (7,)), ([3, 3, 0], 1, ("eval", 1))):
        batches = list(made.batches(torch.tensor(order), size, *purpose))
        assert [len(batch) for batch in batches] == [len(part) for part in torch.tensor(order).split(size)]
        wanted = [expected(number, *purpose, seed=seed) for number in order]
        assert torch.equal(torch.cat(batches), torch.stack(wanted))


def test_streams_of_other_seeds_purposes_and_numbers_differ() -> None:
    drawn = {
        tuple(expected(number, purpose, seed=seed)[1:].tolist())
        for seed in (0, 1)
        for purpose in (0, 1)
        for number in (0, 1)
    }
    assert len(drawn) == 8


def test_an_examples_stream_begins_where_its_words_hash_to() -> None:
    """Typed in once more, because a change would change the result of every run and no run's identity."""
    begins = int.from_bytes(hashlib.sha256(b"3/example/7/1").digest()[:8], "big") >> 1
    drawn = torch.rand(3, generator=torch.Generator().manual_seed(begins))
    (batch,) = loader(seed=3).batches(torch.tensor([1]), 1, 7)
    assert torch.equal(batch[0, 1:], drawn)


@pytest.mark.parametrize("workers", WORKERS)
def test_an_empty_order_has_no_batches(workers: int) -> None:
    assert list(loader(workers).batches(torch.arange(0), 2)) == []


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("keep", [True, False])
def test_the_global_stream_is_left_where_it_was(workers: int, keep: bool) -> None:
    """Also by a pass's start: otherwise the first epoch of a process would drop other units than later ones."""
    made = loader(workers, keep=keep)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for epoch in range(2):
        for _ in made.batches(torch.arange(4), 3, epoch):
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", WORKERS)
def test_what_the_training_draws_meanwhile_changes_nothing(workers: int) -> None:
    drawn = []
    for batch in loader(workers).batches(torch.arange(6), 2, 0):
        torch.rand(17)
        drawn.append(batch)
    assert torch.equal(torch.cat(drawn), torch.stack([expected(number, 0) for number in range(6)]))


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("seen", [1, 3])
def test_an_abandoned_pass_leaves_nothing_for_the_next(workers: int, seen: int) -> None:
    made = loader(workers)
    abandoned = made.batches(torch.arange(10), 2, "first")
    for _ in range(seen):
        next(abandoned)
    del abandoned
    for epoch in range(2):
        found = torch.cat(list(made.batches(torch.tensor([8, 1, 5]), 2, epoch)))
        assert torch.equal(found, torch.stack([expected(number, epoch) for number in (8, 1, 5)]))


# --- epoch after epoch ---------------------------------------------------------------------------------------------


def order_of(epoch: int) -> Tensor:
    return torch.randperm(5, generator=generator(0, "order", epoch))


def epoch_expected(epoch: int) -> Tensor:
    return torch.stack([expected(number, epoch) for number in order_of(epoch).tolist()])


@pytest.mark.parametrize("workers", WORKERS)
def test_epochs_follow_each_other_begin_anywhere_and_repeat_as_asked(workers: int) -> None:
    made = loader(workers)
    for epoch in (0, 1, 2, 7, 8, 3, 3, 4):
        batches = list(made.epoch(order_of, 2, epoch))
        assert [len(batch) for batch in batches] == [2, 2, 1]
        assert torch.equal(torch.cat(batches), epoch_expected(epoch))


@pytest.mark.parametrize("workers", WORKERS)
def test_an_epoch_that_was_broken_off_begins_anew_and_other_passes_may_come_between(workers: int) -> None:
    made = loader(workers)
    next(made.epoch(order_of, 2, 0))
    assert torch.equal(torch.cat(list(made.epoch(order_of, 2, 0))), epoch_expected(0))
    assert torch.equal(torch.cat(list(made.batches(torch.tensor([3]), 1, "other"))), expected(3, "other")[None])
    assert torch.equal(torch.cat(list(made.epoch(order_of, 2, 1))), epoch_expected(1))


def numbered_file(folder: Path, number: int) -> Tensor:
    (folder / str(number)).touch()
    return torch.tensor([number])


def test_the_next_epochs_first_batches_are_made_before_they_are_asked_for(tmp_path: Path) -> None:
    made = loader(1, partial(numbered_file, tmp_path))
    list(made.epoch(lambda epoch: torch.arange(4) + 10 * epoch, 2, 0))
    waiting = time.monotonic() + 20.0
    while not (tmp_path / "13").exists() and time.monotonic() < waiting:
        time.sleep(0.01)
    assert (tmp_path / "13").exists()


# --- workers -------------------------------------------------------------------------------------------------------


def failing(number: int) -> Tensor:
    if number == 2:
        raise ValueError("number two is bad")
    return noisy(number)


@pytest.mark.parametrize("workers", WORKERS)
def test_an_exception_in_the_making_reaches_the_caller(workers: int) -> None:
    made = loader(workers, failing)
    with pytest.raises(ValueError, match="number two is bad"):
        list(made.batches(torch.arange(4), 2))
    assert torch.equal(
        torch.cat(list(made.batches(torch.arange(2), 2, 0))), torch.stack([expected(0, 0), expected(1, 0)])
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_no_worker_outlives_its_loader_while_an_error_is_held(workers: int) -> None:
    """Else they would be waited for, 5 s each, when the garbage collector finds the error: in another run, perhaps."""
    made = loader(workers, failing)
    with pytest.raises(ValueError, match="number two is bad") as held:
        list(made.batches(torch.arange(4), 2))
    assert len(multiprocessing.active_children()) >= workers
    made.close()
    assert not multiprocessing.active_children() and held.value
    made.close()


SENTENCE = "photo 2 is damaged: delete it."


def refusing(kind: type[BenchError], number: int) -> Tensor:
    if number == 2:
        raise kind(SENTENCE)
    return noisy(number)


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("kind", [DataError, ConfigError])
def test_what_a_person_can_mend_is_told_in_the_same_words_by_workers(workers: int, kind: type[BenchError]) -> None:
    """Its batch and those behind it are not made; those before it, and later passes, are as ever."""
    made = loader(workers, partial(refusing, kind))
    batches = made.batches(torch.arange(6), 2, 0)
    assert torch.equal(next(batches), torch.stack([expected(0, 0), expected(1, 0)]))
    with pytest.raises(BenchError) as raised:
        next(batches)
    assert type(raised.value) is kind and str(raised.value) == SENTENCE
    assert next(batches, None) is None
    assert torch.equal(torch.cat(list(made.batches(torch.tensor([3]), 2, 1))), torch.stack([expected(3, 1)]))


NO_ROOM = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
FORMS: dict[str, Callable[[list[Tensor]], Any]] = {
    "tensor": torch.stack,
    "mapping": lambda examples: {"all": torch.stack(examples)},
    "nested": lambda examples: (torch.arange(2), [("name", torch.stack(examples))]),
}


@pytest.mark.parametrize("form", FORMS)
def test_workers_without_room_for_their_batches_end_the_run_with_the_remedy(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left to torch, a batch is lost without a word, and its run waits for it forever."""

    def full(tensor: Tensor) -> Tensor:
        if tensor.numel() > 2:
            raise RuntimeError(NO_ROOM)
        return tensor

    monkeypatch.setattr(Tensor, "share_memory_", full)
    made = Loader(noisy, FORMS[form], settings(1))
    OPEN.append(made)
    with pytest.raises(ConfigError, match=r"/dev/shm.*No space left on device.*workers=0"):
        list(made.batches(torch.arange(4), 2, 0))
    monkeypatch.undo()
    assert len(list(Loader(noisy, FORMS[form], settings(0)).batches(torch.arange(4), 2, 0))) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOENT])
@pytest.mark.parametrize("start", ["batches", "epoch"])
def test_workers_that_cannot_start_end_the_run_with_the_remedy(
    number: int, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system keeps their locks in shared memory too; a run without workers needs none."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(multiprocessing.synchronize.Lock, "__init__", fail)
    for workers in (1, 0):
        made = loader(workers)
        batches = made.batches(torch.arange(4), 2, 0) if start == "batches" else made.epoch(order_of, 2, 0)
        if workers:
            with pytest.raises(ConfigError, match=rf"/dev/shm.*{os.strerror(number)}.*workers=0"):
                next(batches)
        else:
            assert len(list(batches)) >= 2


def worker_of(number: int) -> Tensor:
    info = torch.utils.data.get_worker_info()
    return torch.tensor([-1 if info is None else info.id, number])


@pytest.mark.parametrize("workers", WORKERS)
def test_as_many_workers_as_asked_for_take_turns(workers: int) -> None:
    made = torch.cat(list(loader(workers, worker_of).batches(torch.arange(6), 1)))
    assert made[:, 0].tolist() == ([-1] * 6 if workers == 0 else [number % workers for number in range(6)])


def process_of(number: int) -> Tensor:
    return torch.tensor([os.getpid()])


@pytest.mark.parametrize(("keep", "same"), [(True, True), (False, False)])
def test_workers_are_kept_for_the_next_pass_where_that_is_asked_for(keep: bool, same: bool) -> None:
    made = loader(1, process_of, keep=keep)
    passes = [next(iter(made.batches(torch.arange(1), 1, epoch))).item() for epoch in range(2)]
    assert (passes[0] == passes[1]) is same


def test_closing_ends_the_workers_and_a_later_epoch_has_new_ones() -> None:
    made = loader(1, process_of)
    workers = []
    for _ in range(2):
        workers.append(torch.cat(list(made.epoch(lambda epoch: torch.arange(2), 1, 0))).unique().item())
        made.close()
        with pytest.raises(ProcessLookupError):
            os.kill(int(workers[-1]), 0)
    assert workers[0] != workers[1]


def test_examples_can_be_sent_to_a_worker_that_is_no_fork() -> None:
    """As on macOS, on Windows, and on Linux from Python 3.14 on."""
    examples = pickle.loads(pickle.dumps(loader().loader.dataset))
    assert torch.equal(examples[derive(0, "example", 1), 1], expected(1))


ORPHANS = """
import multiprocessing, sys, time
from pathlib import Path
import torch
from filelock import FileLock
from tmsgd_bench.data.loading import Loader
from tmsgd_bench.task import TaskSettings

def make(number):
    if number > 3:
        time.sleep(60)  # busy, so that no watch of torch's own looks around
    return torch.tensor([number])

lock = FileLock(sys.argv[1])
lock.acquire()
settings = TaskSettings(Path(), None, 2, 0, torch.device("cpu"), {}, workers=2)
batches = Loader(make, torch.stack, settings).batches(torch.arange(40), 2)
first = [next(batches) for _ in range(2)]
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
next(batches)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that holds a lock, as a run does, and its workers, which are busy."""
    command = [sys.executable, "-c", ORPHANS, str(tmp_path / "lock")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = [int(number) for number in process.stdout.readline().split()]
    yield process, workers
    for number in (process.pid, *workers):
        if alive(number):
            os.kill(number, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended and whose end nobody has asked for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch's own watch ends workers, after some seconds")
def test_workers_die_with_a_killed_run_and_its_lock_is_free(
    holder: tuple[subprocess.Popen[str], list[int]], tmp_path: Path
) -> None:
    """They may have inherited the lock's file: as long as one lives, nobody can go on with the run."""
    process, workers = holder
    lock = FileLock(tmp_path / "lock")
    with pytest.raises(Timeout):
        lock.acquire(timeout=0)
    assert len(workers) == 2 and all(alive(number) for number in workers)
    process.send_signal(signal.SIGKILL)
    process.wait()
    started = time.monotonic()
    lock.acquire(timeout=10)
    while any(alive(number) for number in workers) and time.monotonic() - started < 10:
        time.sleep(0.01)
    assert time.monotonic() - started < 1.0
    lock.release()


def batches_in_a_worker(workers: int) -> list[int]:
    """What a run in a worker of joblib sees of a loader with workers of its own."""
    loader = Loader(int, list, settings(workers))
    return [number for batch in loader.batches(torch.arange(4), 2, 0) for number in batch]


def test_a_worker_of_joblib_can_have_workers_of_its_own() -> None:
    """As runs of a sweep with hydra/launcher=cores have."""
    joblib = pytest.importorskip("joblib")
    with joblib.parallel_config(backend="loky"):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(batches_in_a_worker)(workers) for workers in (1, 0))
    assert found == [[0, 1, 2, 3], [0, 1, 2, 3]]
