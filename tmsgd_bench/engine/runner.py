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
from tmsgd_bench.results.store import RunFolder
from tmsgd_bench.task import Task

log = logging.getLogger(__name__)

MakeTask = Callable[[torch.device], Task]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        run_id: its folder's name.
        status: done, diverged or failed; "skipped" if its result was there already.
        note: the metric, or what went wrong, for a person to read.
        saved: epochs that other runs had trained for it (see tmsgd_bench/engine/prefix.py).
    """

    run_id: str
    status: str
    note: str
    saved: int = 0


def run(spec: RunSpec, options: RunOptions, make_task: MakeTask) -> Outcome:
    """Bring one run to its result, or say why not.

    Args:
        spec: validated settings.
        make_task: builds the task on a device; called only if there is something to train.

    Raises:
        BenchError: the run cannot start (store, data, settings), or another process is training it.
        Interrupted: a signal ended it; the same call goes on with it.
        Exception: whatever the task raised; it is kept in the run's folder, and the run is retried next time.
    """
    folder = RunFolder(options.results_root, spec.run_id)
    if (known := folder.finished()) and not options.force:
        return _skipped(spec, options, known)
    device = environment.prepare_process(options, spec.tf32)
    with folder.locked(wait=options.wait):
        if (known := folder.finished()) and not options.force:
            return _skipped(spec, options, known)
        _clear_the_way(folder, options)
        if folder.complete() and (not options.force or (folder.work / store.FORCED).exists()):
            return _finish(spec, options, folder)
        _open_work(spec, options, folder)
        try:
            return _train(spec, options, make_task, device, folder)
        except Exception as error:
            interrupt.stop_if_asked()  # the signal may have met the processes that make batches, too
            _record_failure(folder, error)
            raise
        finally:
            interrupt.training_is_over()


def _clear_the_way(folder: RunFolder, options: RunOptions) -> None:
    """Move a damaged run aside, so that it can be trained again.

    Raises:
        StoreError: what is published may be whole, but cannot be read, or has no manifest.
    """
    found = folder.published()
    if found is None or found.problem is None:
        return
    if found.problem.fault == "unreadable" or (found.problem.fault == "unsealed" and not options.force):
        raise StoreError(f"{folder.final} cannot be used: {found.problem}.")
    reason = found.problem.reason
    log.warning("%s is damaged (%s): training it again; it is kept in %s", folder.final, reason, folder.set_aside())


def _finish(spec: RunSpec, options: RunOptions, folder: RunFolder) -> Outcome:
    """Publish a run that an earlier process had brought to its end."""
    _put_out(folder)
    release(spec, options)
    return _outcome(spec, store.whole(folder.final).result)


def _outcome(spec: RunSpec, written: dict[str, Any]) -> Outcome:
    return Outcome(spec.run_id, written["status"], written["note"], (written.get("prefix") or {}).get("saved", 0))


def _put_out(folder: RunFolder) -> None:
    """Publish a complete work folder; only the result and its evidence are ever published."""
    checkpoint.clear(folder.work)
    (folder.work / store.FORCED).unlink(missing_ok=True)
    folder.publish()


def _skipped(spec: RunSpec, options: RunOptions, known: dict[str, Any]) -> Outcome:
    release(spec, options)
    note = f"already {known['status']}: {known['note']}"
    if options.sharpness and known.get("log_sharpness") != asdict(options.sharpness):
        note += "; its history lacks the sharpness asked for: force=true trains it again and records it"
    folder = RunFolder(options.results_root, spec.run_id).final
    checkpoint.clear(folder)  # left by a process that was killed while it tidied up
    for wanted, name, what in (
        (options.save_weights, store.WEIGHTS, "weights"),
        (options.save_predictions, store.PREDICTIONS, "predictions"),
    ):
        if wanted and not (folder / name).exists():
            note += f"; its {what} were not kept: force=true trains it again and keeps them, where the task can"
    return Outcome(spec.run_id, "skipped", note)


def _train(spec: RunSpec, options: RunOptions, make_task: MakeTask, device: torch.device, folder: RunFolder) -> Outcome:
    watched = Watched(build_tracker(options.tracker))
    trainer = Trainer.build(spec, make_task, device)
    monitor = SharpnessMonitor(trainer, options.sharpness)
    if note := result.switch_note(spec):  # only now: a setting that cannot be used is told alone
        log.warning("%s: %s", spec.run_id, note)
    _restore(trainer, options, folder)
    with observing(trainer, [watched]):  # it ends last: a tracker's server may be slow, and the result must not wait
        try:
            inner = [make_reporter(options.progress), Heartbeat(folder.work), *_keepers(spec, options, folder)]
            with observing(trainer, inner):
                trainer.fit(spec.epochs, [monitor, watched, *inner])
        finally:
            trainer.task.close()
        outcome = _publish(trainer, monitor, options, folder)
        release(spec, options)
    return outcome


def _keepers(spec: RunSpec, options: RunOptions, folder: RunFolder) -> list[Observer]:
    """What keeps states to go on from: a shared trunk's, and the run's own after those."""
    trunk, seconds = trunk_of(spec, options), options.checkpoint_seconds
    if trunk is None:
        return [Grace(), Checkpointer(folder.work, seconds)]
    own = Checkpointer(folder.work, seconds, after=shared_epochs(spec))
    return [Grace(), SharedEpochs(trunk, folder.work, seconds), own]


def _open_work(spec: RunSpec, options: RunOptions, folder: RunFolder) -> None:
    """Make the work folder with the run's settings in it.

    ``force`` starts from nothing, unless what is there was itself begun by ``force`` and interrupted.
    """
    forced = folder.work / store.FORCED
    if options.force and not forced.exists() and folder.work.exists():
        shutil.rmtree(folder.work)
    folder.work.mkdir(exist_ok=True)
    if options.force:
        forced.touch()
    (folder.work / store.FAILURE).unlink(missing_ok=True)
    described = {**spec.determinants, "protocols": list(spec.protocols), "setting": spec.setting}
    described["optimizer"] = asdict(spec)["optimizer"]
    files.write_yaml(folder.work / store.CONFIG, described)


def _restore(trainer: Trainer, options: RunOptions, folder: RunFolder) -> None:
    """Load the last good checkpoint, if there is one, and record on what the run goes on."""
    if checkpoint.load_latest(folder.work, trainer.device, trainer.load_state_dict) is not None:
        log.info("%s: resuming after %d of %d epochs", trainer.spec.run_id, trainer.epoch, trainer.spec.epochs)
    else:  # whatever an earlier process of the run had taken over is lost
        (folder.work / store.PREFIX).unlink(missing_ok=True)
    _record_environment(trainer, options, folder)


def _record_environment(trainer: Trainer, options: RunOptions, folder: RunFolder) -> None:
    """Write the environment; a resumed run keeps those of its earlier processes as ``before``."""
    path = folder.work / store.ENVIRONMENT
    earlier = store.environment(folder.work) if trainer.epoch else {}
    if trainer.epoch and "started" not in earlier:
        log.warning("%s is passed over: it does not say what the run's first epochs ran on", path)
        earlier = {}
    now = environment.describe(trainer.device) | {"verified_data": options.verified_data}
    if earlier:
        before = [*(earlier.pop("before", None) or []), earlier]
        started = before[0].get("started", earlier["started"])
        now = {**now, "started": started, "resumed": now["started"], "before": before}
    files.write_json(path, now)


def _publish(trainer: Trainer, monitor: SharpnessMonitor, options: RunOptions, folder: RunFolder) -> Outcome:
    with trainer.clocks.measure("bookkeeping"):
        store.write_history(folder.work / store.HISTORY, trainer.history)
        if trainer.divergence is None:
            trainer.draw(folder.work)
        if options.save_weights:
            _save_weights(trainer, folder)
    origin = files.read_json(folder.work / store.PREFIX)
    written = {**result.of(trainer, monitor), "prefix": origin or None}
    files.write_json(folder.work / store.RESULT, written)
    store.seal(folder.work)  # from now on it only needs to be published, whoever does it
    _put_out(folder)
    return _outcome(trainer.spec, written)


def _save_weights(trainer: Trainer, folder: RunFolder) -> None:
    try:
        files.write_atomically(folder.work / store.WEIGHTS, lambda path: torch.save(trainer.weights(), path))
    except RuntimeError as error:  # torch's word for a full disk
        raise StoreError(
            f"could not write {store.WEIGHTS} into {folder.work} ({files.os_reason(error)}): free some space, then "
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
