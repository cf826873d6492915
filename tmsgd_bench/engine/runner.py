"""One run as a whole: skip it if it is done, lock it, resume it, train it, publish its outcome."""

from __future__ import annotations

import logging
import shutil
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tmsgd_bench import files, interrupt
from tmsgd_bench.engine import checkpoint, environment, result
from tmsgd_bench.engine.checkpoint import Checkpointer
from tmsgd_bench.engine.loop import Trainer
from tmsgd_bench.engine.monitor import SharpnessMonitor
from tmsgd_bench.engine.observers import Grace, Observer, observing
from tmsgd_bench.engine.prefix import SharedEpochs, release, shared_epochs, trunk_of
from tmsgd_bench.engine.progress import make_reporter
from tmsgd_bench.engine.signs_of_life import Heartbeat
from tmsgd_bench.engine.spec import RunOptions, RunSpec
from tmsgd_bench.engine.trackers import Watched
from tmsgd_bench.engine.trackers import build as build_tracker
from tmsgd_bench.errors import BenchError, ConfigError, DataError, StoreError
from tmsgd_bench.results import store
from tmsgd_bench.results.status import Status
from tmsgd_bench.results.store import RunFolder
from tmsgd_bench.task import Task

log = logging.getLogger(__name__)

MakeTask = Callable[[torch.device], Task]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        run_id: its folder's name.
        status: done or diverged; skipped if its result was there already.
        note: the metric, or what went wrong, for a person to read.
        saved: epochs that other runs had trained for it (see tmsgd_bench/engine/prefix.py).
    """

    run_id: str
    status: Status
    note: str
    saved: int = 0


def run(spec: RunSpec, options: RunOptions, make_task: MakeTask) -> Outcome:
    """Bring one run to its result, or say why not: lock, restore, fit, publish.

    Args:
        spec: validated settings.
        make_task: builds the task on a device; called only if there is something to train.

    Raises:
        BenchError: the run cannot start (store, data, settings), or another process is training it.
        Interrupted: a signal ended it; the same call goes on with it.
        Exception: whatever the task raised; it is kept in the run's folder, and the run is retried next time.
    """
    return _Run(spec, options, RunFolder(options.results_root, spec.run_id)).bring_to_its_result(make_task)


@dataclass(frozen=True)
class _Run:
    """One run and its folder."""

    spec: RunSpec
    options: RunOptions
    folder: RunFolder

    def bring_to_its_result(self, make_task: MakeTask) -> Outcome:
        if known := self._known():
            return self._skipped(known)
        device = environment.prepare_process(self.options, self.spec.tf32)
        with self.folder.locked(wait=self.options.wait):
            if known := self._known():
                return self._skipped(known)
            self._clear_the_way()
            if self.folder.complete() and (not self.options.force or (self.folder.work / store.FORCED).exists()):
                return self._finish()
            self._open_work()
            try:
                return self._train(make_task, device)
            except Exception as error:
                interrupt.stop_if_asked()  # the signal may have met the processes that make batches, too
                _record_failure(self.folder, error)
                raise
            finally:
                interrupt.training_is_over()

    def _known(self) -> dict[str, Any] | None:
        """The result, if it is there and is to stay."""
        return None if self.options.force else self.folder.finished()

    def _skipped(self, known: dict[str, Any]) -> Outcome:
        release(self.spec, self.options)
        note = f"already {known['status']}: {known['note']}"
        if self.options.sharpness and known.get("log_sharpness") != asdict(self.options.sharpness):
            note += "; its history lacks the sharpness asked for: force=true trains it again and records it"
        checkpoint.clear(self.folder.final)  # left by a process that was killed while it tidied up
        for wanted, name, what in (
            (self.options.save_weights, store.WEIGHTS, "weights"),
            (self.options.save_predictions, store.PREDICTIONS, "predictions"),
        ):
            if wanted and not (self.folder.final / name).exists():
                note += f"; its {what} were not kept: force=true trains it again and keeps them, where the task can"
        return Outcome(self.spec.run_id, Status.SKIPPED, note)

    def _clear_the_way(self) -> None:
        """Move a damaged run aside, so that it can be trained again.

        Raises:
            StoreError: what is published may be whole, but cannot be read, or has no manifest.
        """
        published = self.folder.published()
        if published is None or published.problem is None:
            return
        problem, final = published.problem, self.folder.final
        if problem.fault == "unreadable" or (problem.fault == "unsealed" and not self.options.force):
            raise StoreError(f"{final} cannot be used: {problem}.")
        kept = self.folder.set_aside()
        log.warning("%s is damaged (%s): training it again; it is kept in %s", final, problem.reason, kept)

    def _finish(self) -> Outcome:
        """Publish a run that an earlier process had brought to its end."""
        self._put_out()
        release(self.spec, self.options)
        return self._outcome(store.whole(self.folder.final).result)

    def _outcome(self, known: dict[str, Any]) -> Outcome:
        saved = (known.get("prefix") or {}).get("saved", 0)
        return Outcome(self.spec.run_id, Status(known["status"]), known["note"], saved)

    def _put_out(self) -> None:
        """Publish a complete work folder; only the result and its evidence are ever published."""
        checkpoint.clear(self.folder.work)
        (self.folder.work / store.FORCED).unlink(missing_ok=True)
        self.folder.publish()

    def _open_work(self) -> None:
        """Make the work folder with the run's settings in it.

        ``force`` starts from nothing, unless what is there was itself begun by ``force`` and interrupted.
        """
        work = self.folder.work
        forced = work / store.FORCED
        if self.options.force and not forced.exists() and work.exists():
            shutil.rmtree(work)
        work.mkdir(exist_ok=True)
        if self.options.force:
            forced.touch()
        (work / store.FAILURE).unlink(missing_ok=True)
        files.write_yaml(work / store.CONFIG, self.spec.described)

    def _train(self, make_task: MakeTask, device: torch.device) -> Outcome:
        watched = Watched(build_tracker(self.options.tracker))
        trainer = Trainer.build(self.spec, make_task, device)
        monitor = SharpnessMonitor(trainer, self.options.sharpness)
        if note := result.switch_note(self.spec):  # only now: a setting that cannot be used is told alone
            log.warning("%s: %s", self.spec.run_id, note)
        self._restore(trainer)
        with observing(trainer, [watched]):  # ends last: a tracker's server may be slow, and the result must not wait
            self._fit(trainer, [monitor, watched])
            outcome = self._publish(trainer, monitor)
            release(self.spec, self.options)
        return outcome

    def _fit(self, trainer: Trainer, told_first: list[Observer]) -> None:
        """Train the epochs that are left.

        Args:
            told_first: observers that are told before those that keep an epoch, and that need no start.
        """
        observers = [make_reporter(self.options.progress), Heartbeat(self.folder.work), *self._keepers()]
        try:
            with observing(trainer, observers):
                trainer.fit(self.spec.epochs, [*told_first, *observers])
        finally:
            trainer.task.close()

    def _keepers(self) -> list[Observer]:
        """What keeps states to go on from: a shared trunk's, and the run's own after those."""
        work, seconds = self.folder.work, self.options.checkpoint_seconds
        trunk = trunk_of(self.spec, self.options)
        if trunk is None:
            return [Grace(), Checkpointer(work, seconds)]
        own = Checkpointer(work, seconds, after=shared_epochs(self.spec))
        return [Grace(), SharedEpochs(trunk, work, seconds), own]

    def _restore(self, trainer: Trainer) -> None:
        """Load the last good checkpoint, if there is one, and record on what the run goes on."""
        self._check_note()
        if checkpoint.load_latest(self.folder.work, trainer.device, trainer.load_state_dict) is not None:
            log.info("%s: resuming after %d of %d epochs", self.spec.run_id, trainer.epoch, self.spec.epochs)
        else:  # whatever an earlier process of the run had taken over is lost
            (self.folder.work / store.PREFIX).unlink(missing_ok=True)
        self._record_environment(trainer)

    def _check_note(self) -> None:
        """Refuse a damaged note of where the first epochs came from: it would be published, or lost without a word."""
        note = self.folder.work / store.PREFIX
        if note.exists() and files.read_json(note) is None:
            raise StoreError(
                f"{note} is damaged: delete it, and the same command goes on; its result will not say which epochs "
                "other runs had trained for it."
            )

    def _record_environment(self, trainer: Trainer) -> None:
        """Write the environment; a resumed run keeps those of its earlier processes as ``before``."""
        path = self.folder.work / store.ENVIRONMENT
        earlier = store.environment(self.folder.work) if trainer.epoch else {}
        if trainer.epoch and "started" not in earlier:
            log.warning("%s is passed over: it does not say what the run's first epochs ran on", path)
            earlier = {}
        now = environment.describe(trainer.device) | {"verified_data": self.options.verified_data}
        if earlier:
            before = [*(earlier.pop("before", None) or []), earlier]
            started = before[0].get("started", earlier["started"])
            now = {**now, "started": started, "resumed": now["started"], "before": before}
        files.write_json(path, now)

    def _publish(self, trainer: Trainer, monitor: SharpnessMonitor) -> Outcome:
        work = self.folder.work
        with trainer.clocks.measure("bookkeeping"):
            store.write_history(work / store.HISTORY, trainer.history)
            if trainer.divergence is None:
                trainer.draw(work)
            if self.options.save_weights:
                self._save_weights(trainer)
        origin = files.read_json(work / store.PREFIX)
        known = {**result.of(trainer, monitor), "prefix": origin or None}
        files.write_json(work / store.RESULT, known)
        store.seal(work)  # from now on it only needs to be published, whoever does it
        self._put_out()
        return self._outcome(known)

    def _save_weights(self, trainer: Trainer) -> None:
        work = self.folder.work
        try:
            files.write_atomically(work / store.WEIGHTS, lambda path: torch.save(trainer.weights(), path))
        except RuntimeError as error:  # torch's word for a full disk
            raise StoreError(
                f"could not write {store.WEIGHTS} into {work} ({files.os_reason(error)}): free some space, then "
                "start the same command again."
            ) from error


def _record_failure(folder: RunFolder, error: Exception) -> None:
    """Keep the exception beside the last checkpoint. A run that never started for want of data or of a usable
    setting leaves nothing behind."""
    if isinstance(error, ConfigError | DataError) and not checkpoint.exists(folder.work):
        shutil.rmtree(folder.work, ignore_errors=True)
        return
    text = "".join(traceback.format_exception(error))
    note = str(error).splitlines()[0] if str(error) else "no message"
    try:
        files.write_json(folder.work / store.FAILURE, {"note": f"{type(error).__name__}: {note}", "error": text})
    except BenchError as unwritable:
        log.warning("the failure could not be recorded: %s", unwritable)
