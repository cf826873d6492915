"""run.py in processes of its own, forked from one that has imported torch: each starts in a moment, not in seconds."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRELOADED = ["hydra", "pyarrow.parquet", "torch._dynamo", "tmsgd_bench.engine.plan", "tmsgd_bench.engine.runner"]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(PRELOADED)  # for speed alone; all tests of a process have but this one server


def start(arguments: Sequence[str], said: Path) -> ForkServerProcess:
    """Start run.py; what it prints goes to the file ``said``. It is killed with the process that started it."""
    process = FORKS.Process(target=_run, args=(list(arguments), said), daemon=True)
    process.start()
    return process


def start_sweep(
    arguments: Sequence[str], said: Path, folder: Path, environment: Mapping[str, str]
) -> ForkServerProcess:
    """Start run.py -m in a folder and an environment, as a session of its own, which may have worker processes."""
    process = FORKS.Process(target=_sweep, args=(["-m", *arguments], said, folder, dict(environment)), daemon=False)
    process.start()
    return process


def end(process: ForkServerProcess) -> int | None:
    """Wait for its end; its exit code, or minus the signal that killed it."""
    process.join(timeout=300)
    return process.exitcode


def _sweep(arguments: list[str], said: Path, folder: Path, environment: dict[str, str]) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = environment.get("PYTHONPATH", "").split(os.pathsep)
    _run(arguments, said)


def _run(arguments: list[str], said: Path) -> None:
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
    sys.argv = [str(ROOT / "run.py"), *arguments]
    sys.path.insert(0, str(ROOT))
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:  # as an interpreter does at its end, and a fork does not
        threading._shutdown()
        atexit._run_exitfuncs()
