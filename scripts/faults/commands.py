"""Starts the project's commands: run.py in new processes, the others in this one."""

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
        output: all that it printed, to stdout and stderr.
    """

    code: int | None
    output: str

    def checked(self) -> Ended:
        """Itself.

        Raises:
            Fault: it printed a traceback.
        """
        if "Traceback (most recent call last)" in self.output:
            raise Fault(TRACEBACK, short(self.output))
        return self


@dataclass(frozen=True)
class Started:
    """A command that runs.

    Args:
        process: its process.
        output: the file with all that it prints.
    """

    process: ForkServerProcess
    output: Path

    def send(self, number: int, after: float) -> None:
        """Send a signal so many seconds after run.py has started, unless it has ended by then."""
        while not _begun(self.output).exists() and self.process.is_alive():
            time.sleep(0.002)
        self.process.join(timeout=after)
        if self.process.is_alive() and self.process.pid:
            with contextlib.suppress(ProcessLookupError):  # it ends at this moment
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
            raise Fault(
                LOST, f"it did not end within {SECONDS:.0f} s: {short(self.output.read_text(errors='replace'))}"
            )
        output = self.output.read_text(errors="replace") if self.output.exists() else ""
        return Ended(self.process.exitcode, output)

    def operations(self) -> int:
        """How many operations on files there were, if it was started with a wound and was not killed."""
        return int(_operations(self.output).read_text())


def _begun(output: Path) -> Path:
    return output.with_suffix(".begun")


def _operations(output: Path) -> Path:
    return output.with_suffix(".operations")


def start(arguments: Sequence[str], output: Path, wound: Wound | None = None) -> Started:
    """Start run.py; it is killed with this process.

    Args:
        arguments: of run.py.
        output: a file for all that it prints; files beside it are the campaign's own.
        wound: where it is to end itself.
    """
    FORKS.set_forkserver_preload(PRELOADED)  # only for speed
    _begun(output).unlink(missing_ok=True)
    process = FORKS.Process(target=_run, args=(list(arguments), output, wound))
    process.start()
    return Started(process, output)


def train(arguments: Sequence[str], output: Path, wound: Wound | None = None) -> Ended:
    """Start run.py and wait for its end."""
    return start(arguments, output, wound).wait()


def _run(arguments: list[str], output: Path, wound: Wound | None) -> None:
    _end_with_server()
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the campaign runs in the background
    sys.argv = [str(ROOT / "run.py"), *arguments]
    sys.path.insert(0, str(ROOT))
    watch = inflict(wound) if wound else None
    _begun(output).touch()
    code: object = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if watch:
            _operations(output).write_text(str(watch.seen))
    sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else 1)


def _end_with_server() -> None:
    """The fork server ends with the campaign, and a run with the fork server."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def bench(*arguments: str) -> Ended:
    """``python -m tmsgd_bench`` with some arguments, in this process."""
    output, code = io.StringIO(), 1
    handler = logging.StreamHandler(output)
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = cli.main(list(arguments))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except Exception:
        output.write(traceback.format_exc())
    finally:
        logging.getLogger().removeHandler(handler)
    return Ended(code, output.getvalue())
