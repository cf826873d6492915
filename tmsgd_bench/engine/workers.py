"""What the processes of a sweep need on whatever machine they run: our modules, their threads, their folder."""

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
"""Launchers whose processes work for the sweep's own alone, on its machine."""
POLL_SECONDS = 0.5
END_SECONDS = interrupt.GRACE_SECONDS + 10
"""A worker has so long after the signal, or after its sweep's end, to leave a checkpoint."""


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
    if config.hydra.launcher.get("n_jobs") == 0:
        raise ConfigError("hydra.launcher.n_jobs must be how many runs to train at a time, or -1 for all cores, not 0.")
    conf = next(source.path for source in config.hydra.runtime.config_sources if source.provider == "main")
    paths = [str(Path(conf).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    # The pool of killed workers leaves semaphores to Python's own watch, which tidies them up and talks about it.
    quiet = [os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker"]
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, quiet))
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


def are_local(config: DictConfig) -> bool:
    """Whether a sweep's jobs run in processes on this machine that are to end with the sweep's own."""
    launcher = config.hydra.launcher
    ray = launcher.get("ray")
    return str(launcher.get("_target_")).rpartition(".")[2] in LOCAL or (
        ray is not None and ray.init.get("address") == "local"
    )


def belong_to(parent: int, stop: Path) -> None:
    """Let this process end with its sweep's: soon after that is gone, or after the file ``stop`` has appeared.

    It stops like a run that is interrupted, and is killed if that takes longer than ``END_SECONDS``.
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
    time.sleep(4 * POLL_SECONDS)  # where all processes got the signal, the sweep's own may still be on its way
    while time.monotonic() < end and stop.exists() and is_alive(parent):
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


_through = threading.Event()


def await_end() -> None:
    """An interrupted worker has nothing left to do. Were it to end by itself, joblib would kill the others at once."""
    _through.set()
    while True:
        time.sleep(POLL_SECONDS)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended and waits to be noticed does not."""
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
