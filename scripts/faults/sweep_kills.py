"""Parallel sweeps of 12 runs whose main process or workers are killed: the rest goes on, and no process is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from faults import stores
from faults.commands import ROOT, Ended
from faults.trial import LOST, Attempt, Fault, Kind, Place

FAMILY = ("optimizer=sgd,tmsgd", "switch_epoch=1,2,3", "seed=0,1,2", "task=tc", "data.limit=60", "epochs=6")
PARALLEL = ("hydra/launcher=cores", "hydra.launcher.n_jobs=2")
TOKEN = "TMSGD_FAULT_TRIAL"
"""An environment variable that identifies all processes of a trial."""
ORPHAN_SECONDS = 15.0
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SECONDS = 300.0


def attempt(trial: Attempt) -> None:
    """Kill a sweep's main process or one of its workers, once or twice, and start the sweep once more to its end."""
    expected = trial.place.once("sweep", lambda: _undisturbed(trial.place))
    folder = trial.place.fresh("sweep-kills")
    token = folder.name + str(os.getpid())
    arguments = ["-m", *stores.settings(trial.place, folder / "store", *FAMILY), *PARALLEL]
    trial.fault = "12 runs by two workers"
    try:
        for number in range(trial.random.choice((1, 2))):
            _kill(trial, arguments, folder / f"output-{number}", token)
            stores.expect_readable(folder / "store")
        stores.expect_success(_ended(_start(arguments, folder / "output", token), folder / "output"))
    finally:
        for pid in _alive(token):
            os.kill(pid, signal.SIGKILL)
    stores.expect_facts(folder / "store", expected.facts)
    stores.expect_tidy(folder / "store", expected.names)
    shutil.rmtree(folder)


def _undisturbed(place: Place) -> stores.Undisturbed:
    """The same runs in one process, without shared prefixes."""
    folder = place.fresh("sweep")
    arguments = ["-m", *stores.settings(place, folder / "store", *FAMILY), "prefix=off"]
    stores.expect_success(_ended(_start(arguments, folder / "output", folder.name), folder / "output"))
    names = {run: sorted({*names, "prefix.json"}) for run, names in stores.names_of(folder / "store").items()}
    return stores.Undisturbed(stores.facts_of(folder / "store"), names, 0, 0.0)


def _start(arguments: list[str], output: Path, token: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "run.py"), *arguments]
    with output.open("wb") as file:
        environment = {**os.environ, TOKEN: token}
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)


def _ended(process: subprocess.Popen[bytes], output: Path) -> Ended:
    try:
        code = process.wait(timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Fault(LOST, f"the sweep does not end within {SECONDS:.0f} s") from error
    return Ended(code, output.read_text(errors="replace")).checked()


def _kill(trial: Attempt, arguments: list[str], output: Path, token: str) -> None:
    """Start the sweep and hit a process of it."""
    process, random = _start(arguments, output, token), trial.random
    number, worker, after = random.choice(SIGNALS), random.random() < 0.4, random.uniform(0.0, 8.0)
    trial.fault += f"; {number.name} to {'a worker' if worker else 'the main process'} after {after:.2f} s"
    _wait_for_work(process, output.parent / "store")
    time.sleep(after)
    victims = [pid for pid in _alive(token) if pid != process.pid] if worker else [process.pid]
    if victims and process.poll() is None:
        os.kill(random.choice(victims), number)
    _ended(process, output)
    _expect_no_orphans(token)


def _wait_for_work(process: subprocess.Popen[bytes], store: Path) -> None:
    """Wait for the first run to begin."""
    while process.poll() is None and not list(store.glob(".work/*")):
        time.sleep(0.05)


def _alive(token: str) -> list[int]:
    """The processes that a trial has started, whoever their parents are by now."""
    mark = f"{TOKEN}={token}\0".encode()
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if mark in _environment(folder)]


def _environment(folder: Path) -> bytes:
    try:
        return (folder / "environ").read_bytes() + b"\0"
    except OSError:  # it has ended, or is somebody else's
        return b""


def _expect_no_orphans(token: str) -> None:
    end = time.monotonic() + ORPHAN_SECONDS
    while (alive := _alive(token)) and time.monotonic() < end:
        time.sleep(0.2)
    if alive:
        raise Fault(LOST, f"{len(alive)} processes live on {ORPHAN_SECONDS:.0f} s after their sweep")


def hindrance() -> str:
    """Why processes cannot be found here; empty if they can."""
    return "" if Path("/proc/self/environ").exists() else "there is no /proc to find processes by"


KIND = Kind("sweep-kills", attempt, hindrance=hindrance, share=1.5)
