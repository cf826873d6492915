"""One run from start to end: skip it if it is done, lock it, resume it, train it, publish its result."""

from __future__ import annotations

import logging
import shutil
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tmsgd_bench import files, interrupt
from tmsgd_bench.engine import checkpoint, costs, environment, result
from tmsgd_bench.engine.checkpoint import Checkpointer
from tmsgd_bench.engine.loop import Trainer
from tmsgd_bench.engine.monitor import SharpnessMonitor
from tmsgd_bench.engine.observers import Grace, Observer, observing
from tmsgd_bench.engine.outcome import Outcome, score
from tmsgd_bench.engine.prefix import SharedEpochs, release, shared_epochs, trunk_of
from tmsgd_bench.engine.progress import make_reporter
from tmsgd_bench.engine.signs_of_life import Heartbeat
from tmsgd_bench.engine.spec import RunOptions, RunSpec
from tmsgd_bench.engine.trackers import TrackerObserver
from tmsgd_bench.engine.trackers import build as build_tracker
from tmsgd_bench.errors import BenchError, ConfigError, DataError, StoreError
from tmsgd_bench.results import store
from tmsgd_bench.results.status import Status
from tmsgd_bench.results.store import RunFolder
from tmsgd_bench.task import Task

log = logging.getLogger(__name__)

MakeTask = Callable[[torch.device], Task]


def run(spec: RunSpec, options: RunOptions, make_task: MakeTask) -> Outcome:
    """Train one run and publish its result: lock, restore, fit, publish.

    Args:
        spec: validated settings.
        make_task: builds the task on a device; called only if there is something to train.

    Raises:
        BenchError: the run cannot start (store, data, settings), or another process is training it.
        Interrupted: a signal ended it; the same call goes on with it.
        Exception: raised by the task. It is recorded in the run's folder, and the next call tries again.
    """
    return _Run(spec, options, RunFolder(options.results_root, spec.run_id)).complete(make_task)


@dataclass(frozen=True)
class _Run:
    """One run and its folder."""

    spec: RunSpec
    options: RunOptions
    folder: RunFolder

    def complete(self, make_task: MakeTask) -> Outcome:
        if finished := self._finished():
            return self._skipped(finished)
        device = environment.prepare_process(self.options, self.spec.tf32)
        with self.folder.locked(wait=self.options.wait):
            if finished := self._finished():
                return self._skipped(finished)
            self._set_damaged_aside()
            if self.folder.complete() and (not self.options.force or (self.folder.work / store.FORCED).exists()):
                return self._finish()
            self._open_work()
            try:
                return self._train(make_task, device)
            except Exception as error:
                interrupt.stop_if_asked()  # the signal may have ended the batch workers, which raised this error
                _record_failure(self.folder, error)
                raise
            finally:
                interrupt.training_is_over()

    def _finished(self) -> dict[str, Any] | None:
        """The result, if there is one and ``force`` does not ask for a new one."""
        return None if self.options.force else self.folder.finished()

    def _skipped(self, result: dict[str, Any]) -> Outcome:
        release(self.spec, self.options)
        remarks = ""
        if self.options.sharpness and result.get("log_sharpness") != asdict(self.options.sharpness):
            remarks += "; its history lacks the sharpness asked for: force=true trains it again and records it"
        checkpoint.clear(self.folder.final)  # left by a process that was killed while it tidied up
        for asked, name, files_named in (
            (self.options.save_weights, store.WEIGHTS, "weights"),
            (self.options.save_predictions, store.PREDICTIONS, "predictions"),
        ):
            if asked and not (self.folder.final / name).exists():
                remarks += (
                    f"; its {files_named} were not kept: force=true trains it again and keeps them, where the task can"
                )
        return Outcome.skipped(self.spec.run_id, result, remarks)

    def _set_damaged_aside(self) -> None:
        """Move a damaged run aside, so that it can be trained again.

        Raises:
            StoreError: the published run may be undamaged, but cannot be read or has no manifest.
        """
        published = self.folder.published()
        if published is None or published.problem is None:
            return
        problem, final = published.problem, self.folder.final
        if problem.fault == "unreadable" or (problem.fault == "unsealed" and not self.options.force):
            raise StoreError(f"{final} cannot be used: {problem}.")
        aside = self.folder.set_aside()
        log.warning("%s is damaged (%s): training it again; it is kept in %s", final, problem.reason, aside)

    def _finish(self) -> Outcome:
        """Publish a run that an earlier process completed."""
        self._move_to_store()
        release(self.spec, self.options)
        return self._outcome(store.whole(self.folder.final).result)

    def _outcome(self, result: dict[str, Any]) -> Outcome:
        saved = (result.get("prefix") or {}).get("saved", 0)
        return Outcome(self.spec.run_id, Status(result["status"]), result["note"], saved, score(result))

    def _move_to_store(self) -> None:
        """Publish a complete work folder, without its checkpoints."""
        checkpoint.clear(self.folder.work)
        (self.folder.work / store.FORCED).unlink(missing_ok=True)
        self.folder.publish()

    def _open_work(self) -> None:
        """Make the work folder with the run's settings in it.

        With ``force``, an existing work folder is deleted, unless an earlier ``force`` began it and was interrupted.
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
        tracker = TrackerObserver(build_tracker(self.options.tracker))
        costs.reset_peak_memory(device)
        trainer = Trainer.build(self.spec, make_task, device)
        monitor = SharpnessMonitor(trainer, self.options.sharpness)
        if note := result.switch_note(self.spec):  # not earlier: an unusable setting is told without this warning
            log.warning("%s: %s", self.spec.run_id, note)
        self._restore(trainer)
        with observing(trainer, [tracker]):  # ends last: the result must not wait for a slow tracker
            self._fit(trainer, [monitor, tracker])
            outcome = self._publish(trainer, monitor)
            release(self.spec, self.options)
        return outcome

    def _fit(self, trainer: Trainer, first_observers: list[Observer]) -> None:
        """Train the epochs that are left.

        Args:
            first_observers: told before the observers that save states; they are started already, or need no start.
        """
        observers = [make_reporter(self.options.progress), Heartbeat(self.folder.work), *self._checkpointers()]
        try:
            with observing(trainer, observers):
                trainer.fit(self.spec.epochs, [*first_observers, *observers])
        finally:
            trainer.task.close()

    def _checkpointers(self) -> list[Observer]:
        """What saves states: those of the shared epochs in the trunk, those of later epochs in the work folder."""
        work, seconds = self.folder.work, self.options.checkpoint_seconds
        trunk = trunk_of(self.spec, self.options)
        if trunk is None:
            return [Grace(), Checkpointer(work, seconds)]
        later = Checkpointer(work, seconds, after=shared_epochs(self.spec))
        return [Grace(), SharedEpochs(trunk, work, seconds), later]

    def _restore(self, trainer: Trainer) -> None:
        """Load the last good checkpoint, if there is one, and record this process's environment."""
        self._check_prefix_note()
        if checkpoint.load_latest(self.folder.work, trainer.device, trainer.load_state_dict) is not None:
            log.info("%s: resuming after %d of %d epochs", self.spec.run_id, trainer.epoch, self.spec.epochs)
        else:  # the epochs that the note is about are lost
            (self.folder.work / store.PREFIX).unlink(missing_ok=True)
        self._record_environment(trainer)

    def _check_prefix_note(self) -> None:
        """Refuse a damaged note of which runs trained the shared epochs: it would be published, or silently lost."""
        note = self.folder.work / store.PREFIX
        if note.exists() and files.read_json(note) is None:
            raise StoreError(
                f"{note} is damaged: delete it, and the same command goes on; its result will not say which epochs "
                "other runs had trained for it."
            )

    def _record_environment(self, trainer: Trainer) -> None:
        """Write this process's environment; those of the run's earlier processes are kept as ``before``."""
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
        prefix_note = files.read_json(work / store.PREFIX)
        values = {**result.of(trainer, monitor), "prefix": prefix_note or None}
        files.write_json(work / store.RESULT, values)
        store.seal(work)  # from here on any process can publish it
        self._move_to_store()
        return self._outcome(values)

    def _save_weights(self, trainer: Trainer) -> None:
        work = self.folder.work
        try:
            files.write_atomically(work / store.WEIGHTS, lambda path: torch.save(trainer.weights(), path))
        except RuntimeError as error:  # what torch raises for a full disk
            raise StoreError(
                f"could not write {store.WEIGHTS} into {work} ({files.os_reason(error)}): free some space, then "
                "start the same command again."
            ) from error


def _record_failure(folder: RunFolder, error: Exception) -> None:
    """Write the exception into the work folder.

    A run that could not start, because data were missing or a setting was unusable, leaves nothing behind.
    """
    if isinstance(error, ConfigError | DataError) and not checkpoint.exists(folder.work):
        shutil.rmtree(folder.work, ignore_errors=True)
        return
    text = "".join(traceback.format_exception(error))
    note = str(error).splitlines()[0] if str(error) else "no message"
    try:
        files.write_json(folder.work / store.FAILURE, {"note": f"{type(error).__name__}: {note}", "error": text})
    except BenchError as unwritable:
        log.warning("the failure could not be recorded: %s", unwritable)
