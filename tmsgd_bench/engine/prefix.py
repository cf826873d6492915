"""Prefix sharing: SGD and every TM-SGD of one seed are the same run until the first switch, so it is trained once.

All runs that agree in everything but what comes after the switch share a *trunk*:

    ROOT/.trunks/<key>/checkpoint-<epochs>-<sha256>.pt   the shared state after so many epochs
    ROOT/.trunks/<key>/pending/<run id>                  a run that still needs the state at the epoch it holds
    ROOT/.trunks/<key>/lock                              held by the run that trains the trunk just now
    ROOT/.trunks/<key>/keep                              there if the states are to stay when nobody needs them

A run takes the newest state up to its own switch, trains what is missing while it holds the lock, and leaves the
states that others wait for. Every epoch of the trunk is trained once, in whatever order and in however many processes
the runs come; a run that finds the lock taken waits for its state. Before the switch TM-SGD is SGD bit for bit, so a
run that begins from a trunk ends with the same bits as one trained alone.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from tmsgd_bench import files, interrupt
from tmsgd_bench.engine import checkpoint
from tmsgd_bench.engine.observers import Observer, Row
from tmsgd_bench.engine.spec import AUTO, RunOptions, RunSpec
from tmsgd_bench.errors import BenchError, StoreError
from tmsgd_bench.results.store import PREFIX, RunFolder

if TYPE_CHECKING:
    from tmsgd_bench.engine.loop import Trainer

log = logging.getLogger(__name__)

FOLDER = ".trunks"
KEEP = "keep"  # marks a trunk whose states are kept; deleted with its folder
POLL_SECONDS = 0.5
ATTEMPTS = 20
ONLY_AFTER_THE_SWITCH = {
    "torch.optim.SGD": frozenset[str](),
    "tmsgd_bench.optim.TMSGD": frozenset({"switch_epoch", "scheme", "restart_every_epochs"}),
}
"""The optimizers that share a trunk, each with the options that have no effect before its switch."""
DEFAULTS = {"momentum": 0.0, "weight_decay": 0.0, "maximize": False, "nesterov": False, "dampening": 0.0}
LABELS = ("_target_", "name", "label")
IMPLEMENTATIONS = ("foreach", "fused")  # of one optimizer may round unlike those of another
SCHEDULED = ("lr", "initial_lr", "max_lr", "min_lr", "momentum", "max_momentum", "base_momentum", "weight_decay")
"""What schedulers keep in parameter groups, or change there."""


def trunk_key(spec: RunSpec) -> str | None:
    """What a run shares with others until its switch, as SHA-256 (hexadecimal); None if it shares nothing."""
    target = spec.optimizer["_target_"]
    if target not in ONLY_AFTER_THE_SWITCH or shared_epochs(spec) == 0:
        return None
    if any(spec.optimizer.get(key) is not None for key in IMPLEMENTATIONS):
        return None
    own = ONLY_AFTER_THE_SWITCH[target].union(LABELS, IMPLEMENTATIONS)
    shared = {key: value for key, value in spec.optimizer.items() if key not in own}
    shared = {key: value for key, value in shared.items() if key not in DEFAULTS or value != DEFAULTS[key]}
    return files.digest({**spec.determinants, "optimizer": shared})


def shared_epochs(spec: RunSpec) -> int:
    """How many of a run's epochs belong to its trunk: all of SGD's, TM-SGD's until the switch."""
    if spec.switch_epoch is None:
        return spec.epochs
    return 0 if spec.switch_epoch == AUTO else min(int(spec.switch_epoch), spec.epochs)


class Trunk:
    """The shared states of one trunk in a store.

    Args:
        options: the store, and whether to keep states that nobody needs.
        key: from :func:`trunk_key`.
    """

    def __init__(self, options: RunOptions, key: str) -> None:
        self.key, self.keep = key, options.keep_trunks
        self.root = options.results_root
        self.folder = self.root / FOLDER / key[:16]
        self.pending = self.folder / "pending"

    def register(self, run_id: str, epoch: int) -> None:
        """Note that a run needs the state after ``epoch`` epochs.

        Raises:
            StoreError: the store cannot be written.
        """
        for attempt in range(ATTEMPTS):
            try:
                self.pending.mkdir(parents=True, exist_ok=True)
                files.write_atomically(
                    self.pending / run_id, lambda path: path.write_text(f"{epoch}\n", encoding="utf-8")
                )
                return
            except FileNotFoundError as error:  # the last other run may be tidying the folder away in this moment
                if attempt + 1 == ATTEMPTS:
                    raise files.unwritable(self.folder, error) from error
            except OSError as error:
                raise files.unwritable(self.folder, error) from error
            except StoreError:  # likewise
                if attempt + 1 == ATTEMPTS or self.pending.exists():
                    raise

    def release(self, run_id: str) -> None:
        """Note that a run is through, and delete what no other needs, unless another run works on the trunk now."""
        (self.pending / run_id).unlink(missing_ok=True)
        if not self.folder.exists():
            with suppress(OSError):  # not empty
                self.folder.parent.rmdir()
            return
        if self.kept():
            return
        lock = self.acquired()
        if lock is None:
            return  # a run that trains it is registered itself, and will tidy up when it is through
        try:
            self._tidy_up()
        finally:
            lock.release()

    def _tidy_up(self) -> None:
        """With the lock held, delete what no pending run needs."""
        if self.wanted():
            self.prune()
        if not self.wanted():  # looked at again: another run may have released its claim, and found the lock taken
            self._clear()

    def kept(self) -> bool:
        """Whether its states stay when nobody needs them: because this run says so, or an earlier one did."""
        mark = self.folder / KEEP
        if self.keep and self.folder.exists():
            mark.touch()
        return self.keep or mark.exists()

    def _clear(self) -> None:
        """Delete what is there, but for a claim that has come in this moment."""
        checkpoint.clear(self.folder)
        for path in self.pending.glob(".*.tmp"):  # left by a kill
            path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            with suppress(FileNotFoundError):
                self.pending.rmdir()
            (self.folder / "lock").unlink(missing_ok=True)
            self.folder.rmdir()
            self.folder.parent.rmdir()

    def wanted(self) -> set[int]:
        """Epochs whose states pending runs need."""
        found = set()
        for path in self.pending.glob("[!.]*"):
            if RunFolder(self.root, path.name).finished():  # killed between its result and its release
                path.unlink(missing_ok=True)
                continue
            try:
                found.add(int(path.read_text(encoding="utf-8")))
            except (OSError, ValueError):  # released in this moment
                continue
        return found

    def acquired(self) -> FileLock | None:
        """The trunk's lock, held; None if another process holds it."""
        lock = FileLock(self.folder / "lock")
        for attempt in range(ATTEMPTS):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=POLL_SECONDS, poll_interval=0.05)
                return lock
            except Timeout:
                return None
            except OSError as error:  # FileNotFoundError: another run has tidied the folder away in this moment
                if not isinstance(error, FileNotFoundError) or attempt + 1 == ATTEMPTS:
                    raise files.unwritable(self.folder, error) from error
        return None

    def has_passed(self, epoch: int) -> bool:
        """Whether the run that trains the trunk is beyond an epoch whose state nobody had asked for by then."""
        reached = checkpoint.epochs(self.folder)
        return bool(reached) and reached[0][0] > epoch and all(saved != epoch for saved, _ in reached)

    def prune(self) -> None:
        """Delete the states that no pending run begins at, but for the newest ones, which a kill goes back to."""
        wanted = self.wanted()
        for epoch, path in checkpoint.epochs(self.folder)[checkpoint.KEPT :]:
            if epoch not in wanted:
                checkpoint.forget(path)


class SharedEpochs(Observer):
    """Brings a run to the end of its shared epochs, by states of its trunk and by training what is missing.

    Either it finds the state that it needs when training starts, or it holds the trunk's lock while it trains, and
    leaves the states that others wait for.

    Args:
        trunk: the run's.
        work: the run's folder, which gets a note of where its epochs came from.
        every_seconds: between two states that nobody waits for, which are what a kill goes back to.
    """

    def __init__(self, trunk: Trunk, work: Path, every_seconds: float) -> None:
        self.trunk, self.work, self.every_seconds = trunk, work, every_seconds
        self.latest = time.monotonic()
        self.lock: FileLock | None = None
        self.under_way = False
        self.trained: dict[str, int] = {}  # epochs that each run has trained, by run id
        self.made_on: dict[str, Any] = {}

    def start(self, trainer: Trainer) -> None:
        """Register; take the newest state that helps, and wait until the rest is there or can be trained here.

        Raises:
            StoreError: the store cannot be written.
            Interrupted: a signal came while it waited.
        """
        until = shared_epochs(trainer.spec)
        self.trunk.register(trainer.spec.run_id, until)
        if trainer.epoch >= until:
            return
        self.under_way = True
        if trainer.epoch:  # trained before the run shared anything
            self.trained = {trainer.spec.run_id: trainer.epoch}
        try:
            while self._adopt(trainer) < until and not self._may_train(trainer):
                interrupt.stop_if_asked()
        except BaseException:
            self._leave(trainer)
            raise
        self._leave_at_its_end(trainer)

    def epoch(self, trainer: Trainer, row: Row) -> None:
        """Leave the state if a run waits for it, enough time has passed, or the run is to stop."""
        if not self.under_way:
            return
        run_id = trainer.spec.run_id
        self.trained[run_id] = self.trained.get(run_id, 0) + 1
        if self.lock is not None:
            self._save_if_needed(trainer)
        self._leave_at_its_end(trainer)

    def end(self, trainer: Trainer, error: BaseException | None) -> None:
        """Give up the lock, if the run ended within its shared epochs."""
        if self.under_way:
            self._leave(trainer)

    def _adopt(self, trainer: Trainer) -> int:
        """Load the newest state that helps; returns the trainer's epoch."""
        folder, until = self.trunk.folder, shared_epochs(trainer.spec)
        use = partial(self._take, trainer)
        if checkpoint.load_between(folder, trainer.epoch + 1, until, trainer.device, use) is not None:
            log.info("%s: taking its first %d epochs from trunk %s", trainer.spec.run_id, trainer.epoch, folder.name)
        return trainer.epoch

    def _take(self, trainer: Trainer, state: dict[str, Any]) -> None:
        """Continue from a state of this trunk.

        Raises:
            BenchError: it is none.
        """
        trained = state.get("trained")
        counted = isinstance(trained, dict) and all(isinstance(epochs, int) for epochs in trained.values())
        if state.get("trunk") != self.trunk.key or not counted:
            raise BenchError("it holds no state of this trunk")
        _load(trainer, state)
        self.trained, self.made_on = state["trained"], state.get("made_on", {})

    def _may_train(self, trainer: Trainer) -> bool:
        """Whether to train what is missing: with the lock, or if nobody else will ever leave the state."""
        self.lock = self.trunk.acquired()
        if self.lock is None:
            return self.trunk.has_passed(shared_epochs(trainer.spec))
        self._adopt(trainer)  # what the run that held it until now has left
        return True

    def _save_if_needed(self, trainer: Trainer) -> None:
        wanted = trainer.epoch in self.trunk.wanted()
        due = time.monotonic() - self.latest >= self.every_seconds and not trainer.finished
        if not (wanted or due or interrupt.asked()):
            return
        self.trunk.folder.mkdir(parents=True, exist_ok=True)  # the last other run may just have tidied it away
        state = _state(trainer, self.trunk.key, self.trained)
        checkpoint.save(self.trunk.folder, trainer.epoch, state, keep=None)
        if due:
            self.latest = time.monotonic()
        if not self.trunk.kept():
            self.trunk.prune()

    def _leave_at_its_end(self, trainer: Trainer) -> None:
        if trainer.epoch >= shared_epochs(trainer.spec):
            self._leave(trainer)

    def _leave(self, trainer: Trainer) -> None:
        """Give up the lock, and note where the run's epochs came from."""
        self.under_way = False
        if self.lock is not None:
            self.lock.release()
        saved = trainer.epoch - self.trained.get(trainer.spec.run_id, 0)
        origin = {
            "trunk": self.trunk.folder.name,
            "epochs": trainer.epoch,
            "saved": saved,
            "trained_by": self.trained,
        }
        if saved:  # another device or torch may round otherwise than this one
            origin["made_on"] = self.made_on
        files.write_json(self.work / PREFIX, origin)


def _state(trainer: Trainer, key: str, trained: dict[str, int]) -> dict[str, Any]:
    """A trainer's state without what tells SGD from TM-SGD before the switch."""
    state = trainer.state_dict()
    for own in ("identity", *trainer.parts):
        del state[own]
    state["optimizers"] = {name: _shared_part(value) for name, value in state["optimizers"].items()}
    made_on = {"device": trainer.device.type, "threads": torch.get_num_threads(), "torch": str(torch.__version__)}
    return {**state, "trunk": key, "trained": dict(trained), "made_on": made_on}


def _shared_part(optimizer: dict[str, Any]) -> dict[str, Any]:
    tensors = {index: {k: v for k, v in state.items() if v is not None} for index, state in optimizer["state"].items()}
    groups = [{k: group[k] for k in SCHEDULED if k in group} for group in optimizer["param_groups"]]
    return {"state": {index: state for index, state in tensors.items() if state}, "groups": groups}


def _load(trainer: Trainer, state: dict[str, Any]) -> None:
    """Continue from a trunk's state as if its epochs had been trained here."""
    own = trainer.state_dict()
    try:
        for name, optimizer in own["optimizers"].items():
            shared = state["optimizers"][name]
            optimizer["state"] = shared["state"]
            for group, values in zip(optimizer["param_groups"], shared["groups"], strict=True):
                group.update(values)
                if "step" in group:
                    group["step"] = state["epoch"] * trainer.task.steps_per_epoch
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BenchError("its optimizers are not those of this run") from error
    taken = ("epoch", "history", "initial", "clocks", "modules", "schedulers", "task")
    trainer.load_state_dict({**own, **{key: state[key] for key in taken if key in state}})


def trunk_of(spec: RunSpec, options: RunOptions) -> Trunk | None:
    """The trunk of a run; None if it shares nothing, or is not to.

    ``force`` asks for all epochs anew, and a run that records its sharpness must measure every epoch itself.
    """
    share = options.share_prefix and not options.force and not options.sharpness
    return _open(spec, options) if share else None


def release(spec: RunSpec, options: RunOptions) -> None:
    """A run has its result: withdraw the claim that it, or an earlier process of it, may have on its trunk."""
    if trunk := _open(spec, options):
        trunk.release(spec.run_id)


def _open(spec: RunSpec, options: RunOptions) -> Trunk | None:
    key = trunk_key(spec)
    return None if key is None else Trunk(options, key)
