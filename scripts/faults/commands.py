"""The project's commands as a person meets them: run.py in processes of its own, the others in this one."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import multiprocessing
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from faults.trial import LOST, TRACEBACK, Fault, short
from faults.wounds import Wound, inflict
from tmsgd_bench import cli

ROOT = Path(__file__).parents[2]
PRELOADED = [
    "hydra",
    "pyarrow.parquet",
    "torch._dynamo",
    "torchmetrics",
    "tmsgd_bench.engine.runner",
    "faults.commands",
]
FORKS = multiprocessing.get_context("forkserver")
PR_SET_PDEATHSIG = 1  # linux/prctl.h
SECONDS = 240.0
"""A run that takes longer hangs: those of the campaign take seconds."""


@dataclass(frozen=True)
class Ended:
    """A command that has ended.

    Args:
        code: its exit code, or minus the signal that killed it.
        said: what it printed, to either stream.
    """

    code: int | None
    said: str

    def checked(self) -> Ended:
        """Itself.

        Raises:
            Fault: it printed a traceback.
        """
        if "Traceback (most recent call last)" in self.said:
            raise Fault(TRACEBACK, short(self.said))
        return self


@dataclass(frozen=True)
class Started:
    """A command that runs.

    Args:
        process: its process.
        said: the file that holds what it prints.
    """

    process: ForkServerProcess
    said: Path

    def send(self, number: int, after: float) -> None:
        """Send a signal, so many seconds after run.py was begun; nothing if it has ended by then."""
        while not _begun(self.said).exists() and self.process.is_alive():
            time.sleep(0.002)
        self.process.join(timeout=after)
        if self.process.is_alive() and self.process.pid:
            with contextlib.suppress(ProcessLookupError):  # it ends in this moment
                os.kill(self.process.pid, number)

    def wait(self) -> Ended:
        """Wait for its end.

        Raises:
            Fault: it does not end.
        """
        self.process.join(timeout=SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise Fault(LOST, f"it did not end within {SECONDS:.0f} s: {short(self.said.read_text(errors='replace'))}")
        said = self.said.read_text(errors="replace") if self.said.exists() else ""
        return Ended(self.process.exitcode, said)

    def operations(self) -> int:
        """How many operations on files there were, if it was started with a wound and came to its end."""
        return int(_operations(self.said).read_text())


def _begun(said: Path) -> Path:
    return said.with_suffix(".begun")


def _operations(said: Path) -> Path:
    return said.with_suffix(".operations")


def start(arguments: Sequence[str], said: Path, wound: Wound | None = None) -> Started:
    """Start run.py; it is killed with this process.

    Args:
        arguments: of run.py.
        said: a file for what it prints; its neighbours are the campaign's own.
        wound: where it is to be hit.
    """
    FORKS.set_forkserver_preload(PRELOADED)  # for speed alone
    _begun(said).unlink(missing_ok=True)
    process = FORKS.Process(target=_run, args=(list(arguments), said, wound))
    process.start()
    return Started(process, said)


def train(arguments: Sequence[str], said: Path, wound: Wound | None = None) -> Ended:
    """Start run.py and wait for its end."""
    return start(arguments, said, wound).wait()


def _run(arguments: list[str], said: Path, wound: Wound | None) -> None:
    _end_with_server()
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the campaign runs in the background
    sys.argv = [str(ROOT / "run.py"), *arguments]
    sys.path.insert(0, str(ROOT))
    watch = inflict(wound) if wound else None
    _begun(said).touch()
    code: object = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if watch:
            _operations(said).write_text(str(watch.seen))
    sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else 1)


def _end_with_server() -> None:
    """The fork server ends with the campaign, and a run with the fork server."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def bench(*arguments: str) -> Ended:
    """``python -m tmsgd_bench`` with some arguments, in this process."""
    said, code = io.StringIO(), 1
    handler = logging.StreamHandler(said)
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = cli.main(list(arguments))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except Exception:
        said.write(traceback.format_exc())
    finally:
        logging.getLogger().removeHandler(handler)
    return Ended(code, said.getvalue())
