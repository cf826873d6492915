"""Launchers that wrap those of Hydra's plugins for joblib, Ray and submitit, so that a sweep survives a killed worker.

When a worker is killed, the plugins raise, and the sweep ends in a traceback. With these launchers the other runs go on
as far as the plugin allows, and the sweep's summary names the runs without an outcome. conf/hydra/launcher/ names the
launchers. Hydra imports this module at every start, because it is in the package hydra_plugins; so joblib, Ray and
submitit are imported only by the launcher that needs them.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from abc import abstractmethod
from collections.abc import Sequence
from importlib import import_module
from operator import itemgetter
from typing import Any, ClassVar

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from tmsgd_bench import shared_memory
from tmsgd_bench.engine import sweep, sweep_screen
from tmsgd_bench.engine.workers import cores
from tmsgd_bench.errors import ConfigError

log = logging.getLogger(__name__)

Overrides = Sequence[Sequence[str]]
POLL_SECONDS = 0.2
EXIT_CODES = re.compile(r"\bSIG[A-Z]+\b|\bEXIT\(\d+\)")
RAY_SETTINGS = {"RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""Let Ray print lines of different runs that look alike, and send no statistics."""


class SurvivingLauncher(Launcher):
    """Wraps a plugin's launcher: if a worker is lost, the sweep still ends with its summary.

    Args:
        options: of the plugin's launcher.
    """

    plugin: ClassVar[str]
    """Module and class of the plugin's launcher."""

    def __init__(self, **options: Any) -> None:
        module, _, name = self.plugin.rpartition(".")
        self.progress: object = None  # the setting
        self.inner = getattr(import_module(f"hydra_plugins.{module}"), name)(**options)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.inner.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.progress = config.get("progress")

    def launch(self, job_overrides: Overrides, initial_job_idx: int) -> Sequence[JobReturn]:
        """Train the runs; returns an answer for each, in their order, because a sweeper may learn from them."""
        self.record_waiting(job_overrides, initial_job_idx)
        try:
            returns: Sequence[JobReturn] = self.inner.launch(job_overrides, initial_job_idx)
            return returns
        except self.loss_errors() as error:
            reason = ", ".join(sorted(set(EXIT_CODES.findall(str(error))))) or " ".join(str(error).split())
            log.error(
                "a worker was lost (%s), and the sweep stops: start the same command again, with fewer runs at a time "
                "if the machine's memory was short",
                reason,
            )
            return [sweep.returned(number) for number, _ in enumerate(job_overrides, initial_job_idx)]

    def record_waiting(self, job_overrides: Overrides, initial_job_idx: int) -> None:
        """Give every run a line in the sweep's summary, also one that never starts."""
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            sweep.record_waiting(number, filter_overrides(overrides))

    @abstractmethod
    def loss_errors(self) -> tuple[type[Exception], ...]:
        """The errors that the plugin raises for a lost worker, not for an error of a run."""


class Cores(SurvivingLauncher):
    """joblib. If a worker is killed, joblib stops all others."""

    plugin = "hydra_joblib_launcher.joblib_launcher.JoblibLauncher"

    def launch(self, job_overrides: Overrides, initial_job_idx: int) -> Sequence[JobReturn]:
        """See :class:`SurvivingLauncher`. joblib starts all workers at once, so there are no more than runs.

        The runs are numbered in the order in which they start (:func:`sweep.start_order`).

        Raises:
            ConfigError: there is no shared memory. Then joblib would use threads, and runs in threads would share one
                random stream.
        """
        from joblib import effective_n_jobs

        shared_memory.check(cores(), "leave out hydra/launcher to train one run after the other")
        wanted = self.inner.joblib["n_jobs"]
        at_once = min(effective_n_jobs(wanted), len(job_overrides))
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        order = sweep.start_order(numbers, at_once)
        self.inner.joblib["n_jobs"] = at_once
        try:
            with sweep_screen.if_wanted(self.progress, numbers, at_once):
                answers = super().launch([job_overrides[place] for place in order], initial_job_idx)
        finally:
            self.inner.joblib["n_jobs"] = wanted  # a sweeper may launch a larger batch next
        return [answer for _, answer in sorted(zip(order, answers, strict=True), key=itemgetter(0))]

    def loss_errors(self) -> tuple[type[Exception], ...]:
        from joblib.externals.loky.process_executor import BrokenProcessPool

        return (BrokenProcessPool,)


class Ray(SurvivingLauncher):
    """Ray. It starts the run of a killed worker again, ``max_retries`` times."""

    plugin = "hydra_ray_launcher.ray_launcher.RayLauncher"

    def launch(self, job_overrides: Overrides, initial_job_idx: int) -> Sequence[JobReturn]:
        """See :class:`SurvivingLauncher`.

        Raises:
            ConfigError: there is no cluster at the address, or none could be started.
        """
        for name, value in RAY_SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            return super().launch(job_overrides, initial_job_idx)
        except ConnectionError as error:
            raise ConfigError(
                f"no Ray cluster answers ({str(error).rstrip('.')}): start one with 'ray start --head', or name yours "
                "with hydra.launcher.ray.init.address=HOST:6379."
            ) from error
        except Exception as error:  # Ray has no special class for a failed start
            if import_module("ray").is_initialized():
                raise
            raise ConfigError(
                f"Ray did not start ({' '.join(str(error).split()).rstrip('.')}): start the same command again, on a "
                "machine with fewer other processes if it took too long, or use hydra/launcher=cores."
            ) from error

    def loss_errors(self) -> tuple[type[Exception], ...]:
        from ray.exceptions import RayError

        return (RayError,)


class Slurm(SurvivingLauncher):
    """submitit on Slurm. Each run is a Slurm job, so a lost one does not affect the others.

    Finished runs are not submitted: a node would be allocated only to find their results.
    """

    plugin = "hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
    cluster: ClassVar[str] = "slurm"

    def launch(self, job_overrides: Overrides, initial_job_idx: int) -> Sequence[JobReturn]:
        """See :class:`SurvivingLauncher`.

        Raises:
            ConfigError: there is no Slurm on this machine.
        """
        self.record_waiting(job_overrides, initial_job_idx)
        numbered = dict(enumerate(job_overrides, initial_job_idx))
        answers = {number: self._skip_finished(number, overrides) for number, overrides in numbered.items()}
        calls = [
            (list(numbered[number]), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
            for number, answer in answers.items()
            if answer is None
        ]
        jobs = self.submit(self._executor(), calls) if calls else []
        answers |= {call[2]: self._outcome(job, call[2]) for job, call in zip(jobs, calls, strict=True)}
        return [answer for answer in answers.values() if answer is not None]

    def submit(self, executor: Any, calls: list[Any]) -> list[Any]:
        """Submit the calls; returns submitit's jobs."""
        jobs: list[Any] = executor.map_array(self.inner, *zip(*calls, strict=True))
        log.info("%d runs are queued; their logs are in %s", len(jobs), jobs[0].paths.folder.parent)
        return jobs

    def loss_errors(self) -> tuple[type[Exception], ...]:
        from submitit.core.utils import UncompletedJobError

        return (UncompletedJobError,)

    def _skip_finished(self, number: int, overrides: Sequence[str]) -> JobReturn | None:
        """The answer of a job that has nothing to do; None for the others."""
        loader, config = self.inner.hydra_context.config_loader, self.inner.config
        outcome = sweep.skip_finished(number, loader.load_sweep_config(config, list(overrides)))
        return None if outcome is None else sweep.job_return(overrides, outcome.score)

    def _executor(self) -> Any:
        import submitit

        if self.cluster == "slurm" and shutil.which("srun") is None:
            raise ConfigError(
                "there is no Slurm on this machine (no srun): start the sweep on a login node, or try it out with "
                "hydra/launcher=slurm_local."
            )
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

        options = dict(self.inner.params)
        timeouts = {f"{self.cluster}_max_num_timeout": options.pop("max_num_timeout")}
        executor = submitit.AutoExecutor(options.pop("submitit_folder"), cluster=self.cluster, **timeouts)
        shared = BaseQueueConf.__dataclass_fields__
        executor.update_parameters(**{k if k in shared else f"slurm_{k}": v for k, v in options.items()})
        return executor

    def _outcome(self, job: Any, number: int) -> JobReturn:
        """Wait for a job, log how it ended, and return its answer, or that of the outcome that a lost one left."""
        try:
            returned = self.result(job)
        except self.loss_errors():
            log.error("run %d of the sweep was lost: its log is %s", number, job.paths.stderr)
            return sweep.returned(number)
        log.info("%s", sweep.line(number))
        return returned

    def result(self, job: Any) -> JobReturn:
        """Wait for a job's return value.

        Raises:
            UncompletedJobError: the job was lost.
        """
        returned: JobReturn = job.results()[0]
        return returned


class SlurmLocal(Slurm):
    """submitit without Slurm. It would start all runs at once; here only ``array_parallelism`` run at a time."""

    plugin = "hydra_submitit_launcher.submitit_launcher.LocalLauncher"
    cluster = "local"

    def submit(self, executor: Any, calls: list[Any]) -> list[Any]:
        jobs: list[Any] = []
        for call in calls:
            while sum(not job.done() for job in jobs) >= self.inner.params["array_parallelism"]:
                time.sleep(POLL_SECONDS)
            jobs.append(executor.submit(self.inner, *call))
        return jobs

    def result(self, job: Any) -> JobReturn:
        from submitit.core.utils import UncompletedJobError

        job.wait()
        if not job.paths.result_pickle.exists():  # submitit would wait, in case a slow file system shows it late
            raise UncompletedJobError
        return super().result(job)
