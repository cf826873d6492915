"""Live trackers, to watch a run from elsewhere while it trains. By default there is none.

A tracker gets what the store will contain. It cannot change a run: if it fails, one warning is logged, and training
goes on without it. To add a tracker, write a class with the three methods of :class:`Tracker` and name it in a YAML in
conf/tracker.
"""

from __future__ import annotations

import logging
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tmsgd_bench.engine.observers import Observer
from tmsgd_bench.engine.spec import without
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.results.status import Status
from tmsgd_bench.results.store import leaves

if TYPE_CHECKING:
    from tmsgd_bench.engine.loop import Trainer

log = logging.getLogger(__name__)

Row = Mapping[str, float]


class Tracker(Protocol):
    """The methods of a tracker."""

    def start(self, run_id: str, settings: Mapping[str, Any], resumed_at: int) -> None:
        """A run starts, or goes on after ``resumed_at`` epochs. Settings are nested plain values."""

    def epoch(self, epoch: int, row: Row) -> None:
        """An epoch is finished; the row has its losses, metrics and clocks. Called in order, for shared epochs too."""

    def end(self, status: str, final: Row) -> None:
        """The run is "done", "diverged", "failed" or "interrupted"; ``final`` has its metrics by name, if any."""


class TensorBoard:
    """Event files that ``tensorboard --logdir FOLDER`` shows.

    Args:
        folder: gets one folder for each run.
    """

    def __init__(self, folder: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.writer_class = Path(folder).expanduser(), SummaryWriter

    def start(self, run_id: str, settings: Mapping[str, Any], resumed_at: int) -> None:
        # Epochs after the last checkpoint of a killed process are trained again; purge_step deletes their first rows.
        self.writer = self.writer_class(str(self.folder / run_id), purge_step=resumed_at)
        self.writer.add_text("settings", "".join(f"    {key}: {value}\n" for key, value in leaves(settings).items()))

    def epoch(self, epoch: int, row: Row) -> None:
        for name, value in row.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def end(self, status: str, final: Row) -> None:
        self.writer.add_text("status", status)
        self.writer.close()


class MLflow:
    """A run of an MLflow experiment; the same run when it is resumed.

    Args:
        uri: of the tracking server or its folder; None for MLflow's own default.
        experiment: its name; it is made if it does not exist.
    """

    LONGEST_VALUE = 500  # characters of a parameter's value; servers differ in how many they accept

    def __init__(self, uri: str | None, experiment: str) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        self.experiment = experiment

    def start(self, run_id: str, settings: Mapping[str, Any], resumed_at: int) -> None:
        existing = self.client.get_experiment_by_name(self.experiment)
        experiment = existing.experiment_id if existing else self.client.create_experiment(self.experiment)
        earlier = self.client.search_runs([experiment], f"tags.tmsgd_run = '{run_id}'") if resumed_at else []
        run = earlier[0] if earlier else self.client.create_run(experiment, tags={"tmsgd_run": run_id}, run_name=run_id)
        self.run = run.info.run_id
        for key, value in {} if earlier else leaves(settings).items():
            self.client.log_param(self.run, key, str(value)[: self.LONGEST_VALUE])

    def epoch(self, epoch: int, row: Row) -> None:
        for name, value in row.items():
            self.client.log_metric(self.run, name, value, step=epoch)

    def end(self, status: str, final: Row) -> None:
        self.client.set_tag(self.run, "status", status)
        self.client.set_terminated(self.run, MLFLOW_STATUS.get(status, "FINISHED"))


class WandB:
    """A Weights & Biases run; the same run when it is resumed.

    Args:
        project: its name; it is made if it does not exist.
        mode: "online", "offline" or "disabled".
        folder: for its files.
    """

    def __init__(self, project: str, mode: str, folder: str) -> None:
        import wandb

        self.wandb, self.folder = wandb, Path(folder).expanduser()
        self.project, self.mode = project, mode

    def start(self, run_id: str, settings: Mapping[str, Any], resumed_at: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run = self.wandb.init(
            project=self.project,
            id=run_id,
            name=run_id,
            resume="allow",
            config=dict(settings),
            mode=self.mode,
            dir=str(self.folder),
        )
        self.run.define_metric("*", step_metric="epoch")

    def epoch(self, epoch: int, row: Row) -> None:
        self.run.log({**row, "epoch": epoch})

    def end(self, status: str, final: Row) -> None:
        self.run.summary.update({"status": status, **final})
        self.run.finish(exit_code=int(status == Status.FAILED))


MLFLOW_STATUS: dict[str, str] = {Status.FAILED: "FAILED", Status.INTERRUPTED: "KILLED"}
EXTRAS = ("tensorboard", "mlflow", "wandb")
"""Packages that are installed by the project's extra of the same name."""


def build(options: Mapping[str, Any] | None) -> Tracker | None:
    """The tracker that a YAML names; None for none.

    Raises:
        ConfigError: its package is not installed, its class cannot be found, or it refuses its options.
    """
    if not options or options.get("_target_") is None:
        return None
    target = options["_target_"]
    try:
        kind = pkgutil.resolve_name(target)
        tracker: Tracker = kind(**without(options, "_target_"))
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        remedy = f"pip install -e '.[{package}]'" if package in EXTRAS else "install it, or correct _target_"
        raise ConfigError(f"the tracker {target} needs the package {error.name}: {remedy}, or tracker=none.") from error
    except Exception as error:  # a tracker's constructor may raise anything
        reason = " ".join(str(error).split())
        raise ConfigError(f"the tracker {target} cannot be made ({reason}): correct it, or tracker=none.") from error
    return tracker


class TrackerObserver(Observer):
    """Calls a tracker; if the tracker fails, it is not called again, and the run goes on.

    Args:
        tracker: None for none.
    """

    def __init__(self, tracker: Tracker | None) -> None:
        self.tracker = tracker
        self.reported = 0  # epochs that the tracker knows of

    def start(self, trainer: Trainer) -> None:
        self.reported = trainer.epoch
        settings = asdict(trainer.spec)
        self._call(lambda tracker: tracker.start(trainer.spec.run_id, settings, self.reported))

    def epoch(self, trainer: Trainer, row: Row) -> None:
        """Report every finished epoch that the tracker does not know of, those from a shared trunk too."""
        for past in trainer.history[self.reported :]:
            values = {name: value for name, value in past.items() if name != "epoch"}
            self._call(lambda tracker, epoch=int(past["epoch"]), values=values: tracker.epoch(epoch, values))
        self.reported = trainer.epoch

    def end(self, trainer: Trainer, error: BaseException | None) -> None:
        if error is None:
            self.epoch(trainer, {})  # if all epochs are from a trunk, none has been reported yet
        status, final = _status(trainer, error), {} if error else _last_metrics(trainer)
        values = {name: value for name, value in final.items() if math.isfinite(value)}
        self._call(lambda tracker: tracker.end(str(status), values))  # a plain str, which every tracker can send

    def _call(self, action: Callable[..., None]) -> None:
        if self.tracker is None:
            return
        try:
            action(self.tracker)
        except Exception as error:  # no error of a tracker may cost a run
            log.warning("the tracker failed (%s: %s); training goes on without it", type(error).__name__, error)
            self.tracker = None


def _status(trainer: Trainer, error: BaseException | None) -> str:
    if error is not None:
        return Status.FAILED if isinstance(error, Exception) else Status.INTERRUPTED
    return Status.DONE if trainer.divergence is None else Status.DIVERGED


def _last_metrics(trainer: Trainer) -> dict[str, float]:
    names = {metric.name for metric in trainer.task.metrics}
    return {name: value for row in trainer.history[-1:] for name, value in row.items() if name in names}
