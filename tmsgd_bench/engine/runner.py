"""One run as a whole: skip it if it is done, lock it, resume it, train it, publish its outcome."""

from __future__ import annotations

import logging
import math
import shutil
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tmsgd_bench import files, interrupt
from tmsgd_bench.engine import checkpoint, environment
from tmsgd_bench.engine.loop import Checkpointer, Diverged, Trainer, weights_digest
from tmsgd_bench.engine.prefix import Trunk, release, shared_epochs, trunk_of
from tmsgd_bench.engine.progress import Reporter, make_reporter
from tmsgd_bench.engine.spec import RunOptions, RunSpec
from tmsgd_bench.engine.trackers import TrackedReporter, Watched
from tmsgd_bench.engine.trackers import build as build_tracker
from tmsgd_bench.errors import BenchError, ConfigError, DataError, StoreError
from tmsgd_bench.results import store
from tmsgd_bench.results.heartbeat import Heartbeat
from tmsgd_bench.results.status import Status
from tmsgd_bench.results.store import RunFolder
from tmsgd_bench.task import Metric, Task

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
    if (result := folder.finished()) and not options.force:
        return _skipped(spec, options, result)
    device = environment.prepare_process(options, spec.tf32)
    with folder.locked(wait=options.wait):
        if (result := folder.finished()) and not options.force:
            return _skipped(spec, options, result)
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
    result = store.whole(folder.final).result
    return Outcome(spec.run_id, Status(result["status"]), result["note"], (result.get("prefix") or {}).get("saved", 0))


def _put_out(folder: RunFolder) -> None:
    """Publish a complete work folder; only the result and its evidence are ever published."""
    checkpoint.clear(folder.work)
    (folder.work / store.FORCED).unlink(missing_ok=True)
    folder.publish()


def _skipped(spec: RunSpec, options: RunOptions, result: dict[str, Any]) -> Outcome:
    release(spec, options)
    note = f"already {result['status']}: {result['note']}"
    if options.sharpness and result.get("log_sharpness") != asdict(options.sharpness):
        note += "; its history lacks the sharpness asked for: force=true trains it again and records it"
    folder = RunFolder(options.results_root, spec.run_id).final
    checkpoint.clear(folder)  # left by a process that was killed while it tidied up
    for wanted, name, what in (
        (options.save_weights, store.WEIGHTS, "weights"),
        (options.save_predictions, store.PREDICTIONS, "predictions"),
    ):
        if wanted and not (folder / name).exists():
            note += f"; its {what} were not kept: force=true trains it again and keeps them, where the task can"
    return Outcome(spec.run_id, Status.SKIPPED, note)


def _announce_switch(spec: RunSpec) -> None:
    if note := switch_note(spec):
        log.warning("%s: %s", spec.run_id, note)


def switch_note(spec: RunSpec) -> str:
    """One sentence if the switch epoch lies outside the run, so that it is plain SGD; empty otherwise."""
    if spec.switch_epoch is None or spec.switches is not False:
        return ""
    return f"the switch epoch {spec.switch_epoch} lies outside its {spec.epochs} epochs, so this run is {_plain(spec)}"


def _plain(spec: RunSpec) -> str:
    return f"plain {'SGD-M' if spec.optimizer.get('momentum') else 'SGD'}"


def _train(spec: RunSpec, options: RunOptions, make_task: MakeTask, device: torch.device, folder: RunFolder) -> Outcome:
    watched = Watched(build_tracker(options.tracker))
    trainer = Trainer.build(spec, lambda: make_task(device), device, options.sharpness)
    _announce_switch(spec)  # only now: a setting that cannot be used is told alone
    resumed_at = _resume(trainer, options, folder)
    if not trainer.epoch:  # whatever an earlier process of the run had taken over is lost
        (folder.work / store.PREFIX).unlink(missing_ok=True)
    if trunk := trunk_of(spec, options):
        trunk.register(spec.run_id, shared_epochs(spec))
    reporter: Reporter = make_reporter(
        options.progress,
        spec.run_id,
        spec.epochs,
        resumed_at,
        trainer.task.steps_per_epoch,
        trainer.task.metrics,
    )
    reporter = TrackedReporter(reporter, watched, lambda: trainer.history)
    watched.start(spec.run_id, asdict(spec), resumed_at)
    status = lambda: {"epoch": trainer.epoch, "epochs": spec.epochs, "trained": trainer.trained_here}  # noqa: E731
    failure = None
    try:
        with Heartbeat(folder.work, status):
            if trunk and trainer.epoch < shared_epochs(spec):
                _follow(trunk, trainer, reporter, folder)
            trainer.fit(reporter, Checkpointer(trainer, folder.work, options.checkpoint_seconds))
    except Diverged as error:
        failure = error
    except BaseException as error:
        watched.end(Status.FAILED if isinstance(error, Exception) else Status.INTERRUPTED, {})
        raise
    finally:
        reporter.close()
        trainer.task.close()
    outcome = _publish(trainer, options, folder, failure)
    release(spec, options)
    watched.catch_up(trainer.history)  # all of it may come from a trunk
    watched.end(outcome.status, _last_metrics(trainer))
    return outcome


def _last_metrics(trainer: Trainer) -> dict[str, float]:
    names = {metric.name for metric in trainer.task.metrics}
    return {name: value for row in trainer.history[-1:] for name, value in row.items() if name in names}


def _follow(trunk: Trunk, trainer: Trainer, reporter: Reporter, folder: RunFolder) -> None:
    """The shared epochs; records where they came from, also if they end in a divergence."""
    try:
        trunk.follow(trainer, shared_epochs(trainer.spec), lambda epoch, after: trainer.fit(reporter, after, epoch))
    finally:
        saved = trainer.epoch - trunk.trained.get(trainer.spec.run_id, 0)
        origin = {"trunk": trunk.folder.name, "epochs": trainer.epoch, "saved": saved, "trained_by": trunk.trained}
        if saved:  # another device or torch may round otherwise than this one
            origin["made_on"] = trunk.made_on
        files.write_json(folder.work / store.PREFIX, origin)


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


def _resume(trainer: Trainer, options: RunOptions, folder: RunFolder) -> int:
    """Load the last good checkpoint, if there is one; returns the epoch to go on from."""
    if checkpoint.load_latest(folder.work, trainer.device, trainer.load_state_dict) is not None:
        log.info("%s: resuming after %d of %d epochs", trainer.spec.run_id, trainer.epoch, trainer.spec.epochs)
    _record_environment(trainer, options, folder)
    return trainer.epoch


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


def _publish(trainer: Trainer, options: RunOptions, folder: RunFolder, failure: Diverged | None) -> Outcome:
    with trainer.clocks.measure("bookkeeping"):
        store.write_history(folder.work / store.HISTORY, trainer.history)
        if failure is None:
            trainer.task.draw(folder.work)
        if options.save_weights:
            _save_weights(trainer, folder)
    origin = files.read_json(folder.work / store.PREFIX) or {}
    result = {**_result(trainer, failure), "prefix": origin or None}
    files.write_json(folder.work / store.RESULT, result)
    store.seal(folder.work)  # from now on it only needs to be published, whoever does it
    _put_out(folder)
    return Outcome(trainer.spec.run_id, result["status"], result["note"], origin.get("saved", 0))


def _save_weights(trainer: Trainer, folder: RunFolder) -> None:
    try:
        files.write_atomically(folder.work / store.WEIGHTS, lambda path: torch.save(trainer.weights(), path))
    except RuntimeError as error:  # torch's word for a full disk
        raise StoreError(
            f"could not write {store.WEIGHTS} into {folder.work} ({files.os_reason(error)}): free some space, then "
            "start the same command again."
        ) from error


def _result(trainer: Trainer, failure: Diverged | None) -> dict[str, Any]:
    spec, clocks, primary = trainer.spec, trainer.clocks, trainer.task.metrics[0]
    result: dict[str, Any] = {
        "status": Status.DIVERGED if failure else Status.DONE,
        "metric": primary.name,
        "unit": primary.unit,
        "direction": primary.direction,
        "metrics": [asdict(metric) for metric in trainer.task.metrics],
        **_primary_values(trainer.history, primary, failure),
        "initial": trainer.initial.get(primary.name),
        "epochs_done": trainer.epoch,
        "steps_per_epoch": trainer.task.steps_per_epoch,
        "training_examples": trainer.task.train_size,
        "parameters": sum(p.numel() for m in trainer.task.modules.values() for p in m.parameters()),
        "training_seconds": clocks.seconds["training"],
        "clocks": clocks.state_dict(),
        # A diverged run's clock includes an epoch that was not finished.
        "examples_per_second": None if failure else clocks.throughput(trainer.epoch, trainer.task.train_size),
        "switched": trainer.switched,
        "weights_sha256": weights_digest(trainer.weights()),
        **trainer.monitor.result(),
    }
    if failure:
        result |= {"diverged_at": {"loss": failure.loss, "epoch": failure.epoch, "step": failure.step}}
        return result | {"note": str(failure)}
    value = "was not measured" if result["final"] is None else f"{result['final']:.6g} {primary.unit}"
    number = f"{primary.label or primary.name} {value}".rstrip()
    return result | {"note": "; ".join(filter(None, [number, switch_note(spec), _auto_note(trainer)]))}


def _auto_note(trainer: Trainer) -> str:
    """What came of a switch that the run was to choose itself; empty for other runs."""
    if trainer.spec.auto_switch is None:
        return ""
    epoch = trainer.monitor.chosen_epoch
    return (
        f"switched at epoch {epoch}" if epoch is not None else f"never switched, so this run is {_plain(trainer.spec)}"
    )


def _primary_values(history: list[dict[str, float]], metric: Metric, failure: Diverged | None) -> dict[str, Any]:
    """The primary metric after the last epoch, and its best value, which is chosen on test data."""
    if failure or not history or metric.name not in history[-1]:
        return {"final": None, "best": None, "best_epoch": None}
    # Rows without it are of epochs without an evaluation, or from a trunk that could not measure it.
    usable = [row for row in history if math.isfinite(row.get(metric.name, math.nan))] or history[-1:]
    choose = max if metric.direction == "max" else min
    best = choose(usable, key=lambda row: row[metric.name])
    return {"final": history[-1][metric.name], "best": best[metric.name], "best_epoch": int(best["epoch"])}


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
