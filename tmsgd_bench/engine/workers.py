"""The worker processes of a sweep: their modules, threads and folder, and how they end with the sweep."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tmsgd_bench import interrupt
from tmsgd_bench.errors import ConfigError, StoreError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
LOCAL = ("Cores", "JoblibLauncher", "SlurmLocal", "LocalLauncher")
"""Launchers whose worker processes are on the sweep's machine and are to end with it."""
POLL_SECONDS = 0.5
END_SECONDS = interrupt.GRACE_SECONDS + 10
"""After a signal, or after the end of its sweep, a worker has so long to write a checkpoint."""


def cores() -> int:
    """The CPU cores that this process may use."""
    try:
        from joblib import cpu_count  # respects a container's limits
    except ImportError:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(cpu_count())


def jobs_at_once(threads: object) -> int:
    """How many runs with so many threads each fit on the cores; at least one."""
    valid = isinstance(threads, int) and threads > 0  # the run itself refuses a wrong value
    return max(1, cores() // (int(str(threads)) if valid else 1))


OmegaConf.register_new_resolver("jobs_at_once", jobs_at_once, replace=True)


def prepare(config: DictConfig) -> None:
    """Set the environment variables that tell worker processes where the checkout is and how many threads they have.

    Args:
        config: of the sweep, with Hydra's own section.

    Raises:
        ConfigError: with these settings the launcher could never start a run.
    """
    if str(config.hydra.launcher.get("_target_")).endswith("BasicLauncher"):
        return  # it trains in this process
    _check_ray(config)
    if config.hydra.launcher.get("n_jobs") == 0:
        raise ConfigError("hydra.launcher.n_jobs must be how many runs to train at a time, or -1 for all cores, not 0.")
    conf = next(source.path for source in config.hydra.runtime.config_sources if source.provider == "main")
    paths = [str(Path(conf).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    # After workers are killed, Python's resource tracker deletes their semaphores, and would warn about it.
    quiet = [os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker"]
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, quiet))
    if config.threads is not None:
        os.environ.update(dict.fromkeys(THREADS, str(config.threads)))


def _check_ray(config: DictConfig) -> None:
    """Refuse settings with which Ray would wait forever."""
    ray = config.hydra.launcher.get("ray")
    if ray is None:
        return
    if config.device == "cuda" and not ray.remote.get("num_gpus"):
        raise ConfigError(
            "device=cuda, but no run is given a GPU: choose each run's share with "
            "hydra.launcher.ray.remote.num_gpus=0.25, say, for four on one."
        )
    needed, available = ray.remote.get("num_cpus") or 1, ray.init.get("num_cpus") or cores()
    if ray.init.get("address") == "local" and needed > available:
        raise ConfigError(
            f"a run wants {needed} cores of Ray, which has {available}: choose fewer with threads=1, say."
        )


def are_local(config: DictConfig) -> bool:
    """Whether a sweep's workers are processes of this machine that are to end with its main process."""
    launcher = config.hydra.launcher
    ray = launcher.get("ray")
    return str(launcher.get("_target_")).rpartition(".")[2] in LOCAL or (
        ray is not None and ray.init.get("address") == "local"
    )


def belong_to(parent: int, stop: Path) -> None:
    """Let this worker end when the sweep's main process ``parent`` has ended, or when the file ``stop`` appears.

    It stops as after a signal, and is killed if that takes longer than ``END_SECONDS``.
    """
    name = f"belongs to {parent}"
    if parent == os.getpid() or any(thread.name == name for thread in threading.enumerate()):
        return
    interrupt.listen()
    interrupt.be_quiet()
    threading.Thread(target=_watch, args=(parent, stop), name=name, daemon=True).start()


def _watch(parent: int, stop: Path) -> None:
    while is_alive(parent) and not stop.exists() and not interrupt.asked():
        time.sleep(POLL_SECONDS)
    if not interrupt.asked():
        os.kill(os.getpid(), signal.SIGTERM)
    end = time.monotonic() + END_SECONDS
    while time.monotonic() < end and not _through.wait(POLL_SECONDS):
        pass
    time.sleep(4 * POLL_SECONDS)  # if all processes got the signal, the main process may not have made the file yet
    while time.monotonic() < end and stop.exists() and is_alive(parent):
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


_through = threading.Event()


def await_end() -> None:
    """Wait to be killed. If an interrupted worker ended by itself, joblib would kill the other workers at once."""
    _through.set()
    while True:
        time.sleep(POLL_SECONDS)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    if sys.platform != "linux":
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2]
    except OSError:
        return False
    return not state.startswith("Z")


def enter(folder: str) -> None:
    """Change to the folder in which the sweep was started: relative paths in the settings start there.

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
