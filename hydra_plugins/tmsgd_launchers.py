"""Launchers that outlive a killed worker: those of Hydra's plugins for joblib, Ray and submitit, in our own frame.

The plugins raise when a worker is killed, and the sweep ends in a traceback. Here the other jobs go on as far as the
plugin's own machinery lets them, and the sweep's summary tells which jobs have no outcome. conf/hydra/launcher/ names
them; Hydra finds this module because it lies in the package hydra_plugins, and imports it at every start, so what the
launchers need is imported only when one of them is used.
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
from typing import Any, ClassVar

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from tmsgd_bench import shared_memory
from tmsgd_bench.engine import sweep
from tmsgd_bench.engine.workers import cores
from tmsgd_bench.errors import ConfigError

log = logging.getLogger(__name__)

Overrides = Sequence[Sequence[str]]
POLL_SECONDS = 0.2
EXIT_CODES = re.compile(r"\bSIG[A-Z]+\b|\bEXIT\(\d+\)")
RAY_SETTINGS = {"RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""Ray leaves out lines that look alike, which those of runs do, and reports its use to its makers."""


class Patient(Launcher):
    """A plugin's launcher, after whose loss of a worker the sweep comes to its summary.

    Args:
        options: the plugin's own.
    """

    plugin: ClassVar[str]
    """Module and class of the plugin's launcher."""

    def __init__(self, **options: Any) -> None:
        module, _, name = self.plugin.rpartition(".")
        self.inner = getattr(import_module(f"hydra_plugins.{module}"), name)(**options)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.inner.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Overrides, initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; those that were lost with a worker, and those that never started, are not in the answer."""
        self.announce(job_overrides, initial_job_idx)
        try:
            returns: Sequence[JobReturn] = self.inner.launch(job_overrides, initial_job_idx)
            return returns
        except self.losses() as error:
            how = ", ".join(sorted(set(EXIT_CODES.findall(str(error))))) or " ".join(str(error).split())
            log.error(
                "a worker was lost (%s), and the sweep stops: start the same command again, with fewer runs at a time "
                "if the machine's memory was short",
                how,
            )
            return []

    def announce(self, job_overrides: Overrides, initial_job_idx: int) -> None:
        """Give every job its line in the summary, for the case that it never starts."""
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            sweep.record_waiting(number, filter_overrides(overrides))

    @abstractmethod
    def losses(self) -> tuple[type[Exception], ...]:
        """The errors that mean a lost worker; a job's own exceptions do not come this way."""


class Cores(Patient):
    """joblib. It stops all workers when one is killed."""

    plugin = "hydra_joblib_launcher.joblib_launcher.JoblibLauncher"

    def launch(self, job_overrides: Overrides, initial_job_idx: int) -> Sequence[JobReturn]:
        """See :class:`Patient`. There are never more workers than jobs: joblib starts them all at once.

        Raises:
            ConfigError: there is no shared memory. joblib would use threads, whose runs draw from each other's random
                streams.
        """
        shared_memory.check(cores(), "leave out hydra/launcher to train one run after the other")
        self.inner.joblib["n_jobs"] = min(self.inner.joblib["n_jobs"], len(job_overrides))
        return super().launch(job_overrides, initial_job_idx)

    def losses(self) -> tuple[type[Exception], ...]:
        from joblib.externals.loky.process_executor import BrokenProcessPool

        return (BrokenProcessPool,)


class Ray(Patient):
    """Ray, which tries the job of a killed worker again, ``max_retries`` times."""

    plugin = "hydra_ray_launcher.ray_launcher.RayLauncher"

    def launch(self, job_overrides: Overrides, initial_job_idx: int) -> Sequence[JobReturn]:
        """See :class:`Patient`.

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
        except Exception as error:  # Ray has no class of its own for a start that failed
            if import_module("ray").is_initialized():
                raise
            raise ConfigError(
                f"Ray did not start ({' '.join(str(error).split()).rstrip('.')}): start the same command again, on a "
                "machine with fewer other processes if it took too long, or use hydra/launcher=cores."
            ) from error

    def losses(self) -> tuple[type[Exception], ...]:
        from ray.exceptions import RayError

        return (RayError,)


class Slurm(Patient):
    """submitit on Slurm. Jobs are processes of their own: what happens to one does not concern the others.

    A finished run is not submitted, since a node and seconds would go to nothing but finding its result.
    """

    plugin = "hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
    cluster: ClassVar[str] = "slurm"

    def launch(self, job_overrides: Overrides, initial_job_idx: int) -> Sequence[JobReturn]:
        """See :class:`Patient`.

        Raises:
            ConfigError: there is no Slurm here.
        """
        self.announce(job_overrides, initial_job_idx)
        numbered = enumerate(job_overrides, initial_job_idx)
        calls = [
            (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
            for number, overrides in numbered
            if not self._done_already(number, overrides)
        ]
        jobs = self.submit(self._executor(), calls) if calls else []
        returns = [self._outcome(job, call[2]) for job, call in zip(jobs, calls, strict=True)]
        return [one for one in returns if one is not None]

    def submit(self, executor: Any, calls: list[Any]) -> list[Any]:
        """Hand the calls to submitit; returns its jobs."""
        jobs: list[Any] = executor.map_array(self.inner, *zip(*calls, strict=True))
        log.info("%d jobs are queued; their logs are in %s", len(jobs), jobs[0].paths.folder.parent)
        return jobs

    def losses(self) -> tuple[type[Exception], ...]:
        from submitit.core.utils import UncompletedJobError

        return (UncompletedJobError,)

    def _done_already(self, number: int, overrides: Sequence[str]) -> bool:
        loader, config = self.inner.hydra_context.config_loader, self.inner.config
        return sweep.skip_finished(number, loader.load_sweep_config(config, list(overrides)))

    def _executor(self) -> Any:
        import submitit

        if self.cluster == "slurm" and shutil.which("srun") is None:
            raise ConfigError(
                "no Slurm here (no srun): start the sweep on a login node, or try it out with "
                "hydra/launcher=slurm_local."
            )
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

        options = dict(self.inner.params)
        timeouts = {f"{self.cluster}_max_num_timeout": options.pop("max_num_timeout")}
        executor = submitit.AutoExecutor(options.pop("submitit_folder"), cluster=self.cluster, **timeouts)
        shared = BaseQueueConf.__dataclass_fields__
        executor.update_parameters(**{k if k in shared else f"slurm_{k}": v for k, v in options.items()})
        return executor

    def _outcome(self, job: Any, number: int) -> JobReturn | None:
        """Wait for a job and say how it ended; None if it was lost."""
        try:
            returned = self.result(job)
        except self.losses():
            log.error("job %d was lost: its log is %s", number, job.paths.stderr)
            return None
        log.info("%s", sweep.line(number))
        return returned

    def result(self, job: Any) -> JobReturn:
        """Wait for a job's answer.

        Raises:
            UncompletedJobError: it was lost.
        """
        returned: JobReturn = job.results()[0]
        return returned


class SlurmLocal(Slurm):
    """submitit without Slurm. It would start all jobs at once; here they wait for each other."""

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
        if not job.paths.result_pickle.exists():  # submitit would wait for a slow file system to show it
            raise UncompletedJobError
        return super().result(job)
