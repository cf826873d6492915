"""Shared prefixes: SGD and every TM-SGD of one seed are the same run until the first switch, so it is trained once.

All runs that differ only in what happens after the switch share a *trunk*:

    ROOT/.trunks/<key>/checkpoint-<epochs>-<sha256>.pt   the shared state after so many epochs
    ROOT/.trunks/<key>/pending/<run id>                  an unfinished run; the file holds the epoch it needs
    ROOT/.trunks/<key>/lock                              held by the run that trains the trunk
    ROOT/.trunks/<key>/keep                              if present, states stay when no run needs them

A run loads the newest state up to its switch. It trains the epochs that are missing while it holds the lock, and saves
the states that other runs need. If another run holds the lock, it waits for its state. So every epoch of the trunk is
trained once, for any order of the runs and any number of processes. Before the switch, TM-SGD is SGD bit for
bit, so a run that starts from a trunk ends with the same bits as one trained alone.
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
KEEP = "keep"  # the file that keeps a trunk's states
POLL_SECONDS = 0.5
ATTEMPTS = 20
DELETED = (FileNotFoundError, FileExistsError)
"""What it looks like if another run deletes a folder at this moment. mkdir(exist_ok=True) raises the second one if the
folder was there when it tried to make it, and is gone when it looks whether it is a folder."""
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
    """SHA-256 (hexadecimal) of everything that determines a run until its switch; None if it can share nothing."""
    target = spec.optimizer["_target_"]
    if target not in ONLY_AFTER_THE_SWITCH or shared_epochs(spec) == 0:
        return None
    if any(spec.optimizer.get(key) is not None for key in IMPLEMENTATIONS):
        return None
    ignored = ONLY_AFTER_THE_SWITCH[target].union(LABELS, IMPLEMENTATIONS)
    shared = {key: value for key, value in spec.optimizer.items() if key not in ignored}
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
        options: name the store, and say whether to keep states that no run needs.
        key: from :func:`trunk_key`.
    """

    def __init__(self, options: RunOptions, key: str) -> None:
        self.key, self.keep = key, options.keep_trunks
        self.root = options.results_root
        self.folder = self.root / FOLDER / key[:16]
        self.pending = self.folder / "pending"

    def register(self, run_id: str, epoch: int) -> None:
        """Record that a run needs the state after ``epoch`` epochs.

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
            except DELETED as error:  # another run may be deleting the folder at this moment
                if attempt + 1 == ATTEMPTS:
                    raise files.unwritable(self.folder, error) from error
            except OSError as error:
                raise files.unwritable(self.folder, error) from error
            except StoreError:  # for the same reason
                if attempt + 1 == ATTEMPTS or self.pending.exists():
                    raise

    def release(self, run_id: str) -> None:
        """Record that a run needs the trunk no more, and delete the states that no other run needs.

        If another run trains the trunk now, that run deletes them.
        """
        (self.pending / run_id).unlink(missing_ok=True)
        if not self.folder.exists():
            with suppress(OSError):  # not empty
                self.folder.parent.rmdir()
            return
        if self.keeps_states():
            return
        lock = self.acquired()
        if lock is None:
            return
        try:
            self._tidy_up()
        finally:
            lock.release()

    def _tidy_up(self) -> None:
        """Delete the states that no pending run needs; the caller holds the lock."""
        if self.needed_epochs():
            self.prune()
        if not self.needed_epochs():  # asked again: another run may have released the trunk meanwhile
            self._clear()

    def keeps_states(self) -> bool:
        """Whether states stay when no run needs them: this run, or an earlier one, was started with ``prefix.keep``."""
        mark = self.folder / KEEP
        if self.keep and self.folder.exists():
            mark.touch()
        return self.keep or mark.exists()

    def _clear(self) -> None:
        """Delete the trunk, unless a run registers at this moment."""
        checkpoint.clear(self.folder)
        for path in self.pending.glob(".*.tmp"):  # left by a killed process
            path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            with suppress(FileNotFoundError):
                self.pending.rmdir()
            (self.folder / "lock").unlink(missing_ok=True)
            self.folder.rmdir()
            self.folder.parent.rmdir()

    def needed_epochs(self) -> set[int]:
        """Epochs whose states pending runs need."""
        epochs = set()
        for path in self.pending.glob("[!.]*"):
            if RunFolder(self.root, path.name).finished():  # killed between its result and its release
                path.unlink(missing_ok=True)
                continue
            try:
                epochs.add(int(path.read_text(encoding="utf-8")))
            except (OSError, ValueError):  # released at this moment
                continue
        return epochs

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
            except OSError as error:
                if not isinstance(error, DELETED) or attempt + 1 == ATTEMPTS:
                    raise files.unwritable(self.folder, error) from error
        return None

    def has_passed(self, epoch: int) -> bool:
        """Whether the trunk was trained beyond an epoch and has no state of it, since no run had asked for one."""
        saved = checkpoint.epochs(self.folder)
        return bool(saved) and saved[0][0] > epoch and all(number != epoch for number, _ in saved)

    def prune(self) -> None:
        """Delete the states that no pending run needs, except the newest, from which a killed run goes on."""
        needed = self.needed_epochs()
        for epoch, path in checkpoint.epochs(self.folder)[checkpoint.NEWEST_KEPT :]:
            if epoch not in needed:
                checkpoint.forget(path)


class SharedEpochs(Observer):
    """Shares a run's epochs before its switch with the other runs of its trunk.

    When training starts it loads the newest state of the trunk. If epochs are missing, it holds the trunk's lock while
    they are trained, and saves the states that other runs need. A run that came too late for its state trains without
    the lock, and saves its own checkpoints.

    Args:
        trunk: the run's.
        work: the run's work folder, which gets a note of which runs trained its epochs.
        every_seconds: least time between two states that no run asked for, from which a killed run goes on.
    """

    def __init__(self, trunk: Trunk, work: Path, every_seconds: float) -> None:
        self.trunk, self.work, self.every_seconds = trunk, work, every_seconds
        self.latest = time.monotonic()
        self.lock: FileLock | None = None
        self.alone = checkpoint.Checkpointer(work, every_seconds)
        self.active = False  # between start and the end of the shared epochs
        self.trained: dict[str, int] = {}  # epochs that each run has trained, by run id
        self.made_on: dict[str, Any] = {}

    def start(self, trainer: Trainer) -> None:
        """Register, load the newest state, and wait until the needed state appears or the lock is free.

        Raises:
            StoreError: the store cannot be written.
            Interrupted: a signal came while it waited.
        """
        until = shared_epochs(trainer.spec)
        self.trunk.register(trainer.spec.run_id, until)
        if trainer.epoch >= until:
            return
        self.active = True
        if trainer.epoch:
            self._recall(trainer)
        try:
            while self._load_newest(trainer) < until and not self._may_train(trainer):
                interrupt.stop_if_asked()
        except BaseException:
            self._finish(trainer)
            raise
        self._finish_if_through(trainer)

    def epoch(self, trainer: Trainer, row: Row) -> None:
        """Save the state if another run needs it, enough time has passed, or the run is to stop."""
        if not self.active:
            return
        run_id = trainer.spec.run_id
        self.trained[run_id] = self.trained.get(run_id, 0) + 1
        if self.lock is not None:
            self._save_if_needed(trainer)
        else:
            self.alone.epoch(trainer, row)
            self._write_note(trainer)
        self._finish_if_through(trainer)

    def end(self, trainer: Trainer, error: BaseException | None) -> None:
        """Release the lock, if the run ended within its shared epochs."""
        if self.active:
            self._finish(trainer)

    def _recall(self, trainer: Trainer) -> None:
        """Which runs trained the epochs of the run's own checkpoint: its note says which were not its own."""
        note = files.read_json(self.work / PREFIX) or {}
        run_id = trainer.spec.run_id
        others = {name: epochs for name, epochs in note.get("trained_by", {}).items() if name != run_id}
        self.trained = {**others, run_id: trainer.epoch - sum(others.values())}
        self.made_on = note.get("made_on", {})

    def _load_newest(self, trainer: Trainer) -> int:
        """Load the trunk's newest state that is ahead of the trainer, if there is one; returns the trainer's epoch."""
        folder, until = self.trunk.folder, shared_epochs(trainer.spec)
        use = partial(self._take, trainer)
        if checkpoint.load_between(folder, trainer.epoch + 1, until, trainer.device, use) is not None:
            log.info("%s: taking its first %d epochs from trunk %s", trainer.spec.run_id, trainer.epoch, folder.name)
        return trainer.epoch

    def _take(self, trainer: Trainer, state: dict[str, Any]) -> None:
        """Go on from a state of this trunk.

        Raises:
            BenchError: it is a state of another trunk, or none.
        """
        trained = state.get("trained")
        counted = isinstance(trained, dict) and all(isinstance(epochs, int) for epochs in trained.values())
        if state.get("trunk") != self.trunk.key or not counted:
            raise BenchError("it holds no state of this trunk")
        _load(trainer, state)
        self.trained, self.made_on = state["trained"], state.get("made_on", {})

    def _may_train(self, trainer: Trainer) -> bool:
        """Whether to train the missing epochs here: the lock is free, or no other run will ever save the state."""
        self.lock = self.trunk.acquired()
        if self.lock is None:
            return self.trunk.has_passed(shared_epochs(trainer.spec))
        self._load_newest(trainer)  # the run that held the lock before may have saved one
        return True

    def _save_if_needed(self, trainer: Trainer) -> None:
        needed = trainer.epoch in self.trunk.needed_epochs()
        due = time.monotonic() - self.latest >= self.every_seconds and not trainer.finished
        if not (needed or due or interrupt.asked()):
            return
        self.trunk.folder.mkdir(parents=True, exist_ok=True)  # another run may just have deleted it
        state = _state(trainer, self.trunk.key, self.trained)
        checkpoint.save(self.trunk.folder, trainer.epoch, state, keep=None)
        if due:
            self.latest = time.monotonic()
        if not self.trunk.keeps_states():
            self.trunk.prune()

    def _finish_if_through(self, trainer: Trainer) -> None:
        if trainer.epoch >= shared_epochs(trainer.spec):
            self._finish(trainer)

    def _finish(self, trainer: Trainer) -> None:
        """Release the lock, and note which runs trained the shared epochs."""
        self.active = False
        if self.lock is not None:
            self.lock.release()
        self._write_note(trainer)

    def _write_note(self, trainer: Trainer) -> None:
        saved = trainer.epoch - self.trained.get(trainer.spec.run_id, 0)
        note = {
            "trunk": self.trunk.folder.name,
            "epochs": trainer.epoch,
            "saved": saved,
            "trained_by": self.trained,
        }
        if saved:  # another device or version of torch may round differently
            note["made_on"] = self.made_on
        files.write_json(self.work / PREFIX, note)


def _state(trainer: Trainer, key: str, trained: dict[str, int]) -> dict[str, Any]:
    """A trainer's state without what differs between SGD and TM-SGD before the switch."""
    state = trainer.state_dict()
    for name in ("identity", *trainer.parts):
        del state[name]
    state["optimizers"] = {name: _shared_state(value) for name, value in state["optimizers"].items()}
    made_on = {"device": trainer.device.type, "threads": torch.get_num_threads(), "torch": str(torch.__version__)}
    return {**state, "trunk": key, "trained": dict(trained), "made_on": made_on}


def _shared_state(optimizer: dict[str, Any]) -> dict[str, Any]:
    tensors = {index: {k: v for k, v in state.items() if v is not None} for index, state in optimizer["state"].items()}
    groups = [{k: group[k] for k in SCHEDULED if k in group} for group in optimizer["param_groups"]]
    return {"state": {index: state for index, state in tensors.items() if state}, "groups": groups}


def _load(trainer: Trainer, state: dict[str, Any]) -> None:
    """Go on from a trunk's state as if the trainer had trained its epochs."""
    merged = trainer.state_dict()
    try:
        for name, optimizer in merged["optimizers"].items():
            shared = state["optimizers"][name]
            optimizer["state"] = shared["state"]
            for group, values in zip(optimizer["param_groups"], shared["groups"], strict=True):
                group.update(values)
                if "step" in group:
                    group["step"] = state["epoch"] * trainer.task.steps_per_epoch
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BenchError("its optimizers are not those of this run") from error
    shared_keys = ("epoch", "history", "initial", "clocks", "modules", "schedulers", "task")
    trainer.load_state_dict({**merged, **{key: state[key] for key in shared_keys if key in state}})


def trunk_of(spec: RunSpec, options: RunOptions) -> Trunk | None:
    """The trunk of a run; None if it shares nothing.

    With ``force`` a run trains all its epochs anew, and to record its sharpness it must measure every epoch itself.
    """
    share = options.share_prefix and not options.force and not options.sharpness
    return _open(spec, options) if share else None


def release(spec: RunSpec, options: RunOptions) -> None:
    """Release the trunk of a run that has its result, whichever process of the run had registered with it."""
    if trunk := _open(spec, options):
        trunk.release(spec.run_id)


def _open(spec: RunSpec, options: RunOptions) -> Trunk | None:
    key = trunk_key(spec)
    return None if key is None else Trunk(options, key)
