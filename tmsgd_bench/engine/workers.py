"""What the processes of a sweep need on whatever machine they run: our modules, their threads, their folder."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tmsgd_bench.errors import ConfigError, StoreError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """The CPU cores that this process may use."""
    try:
        from joblib import cpu_count  # knows a container's limits
    except ImportError:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(cpu_count())


def jobs_at_once(threads: object) -> int:
    """How many jobs the cores take with so many threads each; one if a job wants more than there are."""
    known = isinstance(threads, int) and threads > 0  # a wrong value is refused by the job itself
    return max(1, cores() // (int(str(threads)) if known else 1))


OmegaConf.register_new_resolver("jobs_at_once", jobs_at_once, replace=True)


def prepare(config: DictConfig) -> None:
    """Hand to the processes that are started from here on what they cannot know: the checkout and their threads.

    Args:
        config: of the sweep, Hydra's own part with it.

    Raises:
        ConfigError: the launcher could never start a job.
    """
    if str(config.hydra.launcher.get("_target_")).endswith("BasicLauncher"):
        return  # its jobs run in this process
    _check_ray(config)
    conf = next(source.path for source in config.hydra.runtime.config_sources if source.provider == "main")
    paths = [str(Path(conf).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    if config.threads is not None:
        os.environ.update(dict.fromkeys(THREADS, str(config.threads)))


def _check_ray(config: DictConfig) -> None:
    """Refuse what Ray would wait for forever."""
    ray = config.hydra.launcher.get("ray")
    if ray is None:
        return
    if config.device == "cuda" and not ray.remote.get("num_gpus"):
        raise ConfigError(
            "device=cuda, but no run is given a GPU: choose each run's share with "
            "hydra.launcher.ray.remote.num_gpus=0.25, say, for four on one."
        )
    wanted, there = ray.remote.get("num_cpus") or 1, ray.init.get("num_cpus") or cores()
    if ray.init.get("address") == "local" and wanted > there:
        raise ConfigError(f"a run wants {wanted} cores of Ray, which has {there}: choose fewer with threads=1, say.")


def enter(folder: str) -> None:
    """Go to the folder in which the sweep was started: relative paths in the settings begin there.

    Raises:
        StoreError: it cannot be entered on this machine.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise StoreError(
            f"the sweep was started in {folder}, which cannot be entered on {socket.gethostname()} ({error.strerror}): "
            "start it in a folder that all machines share."
        ) from error
