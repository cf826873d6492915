"""Tells other processes, every few seconds, that a run is alive; tmsgd_bench/results/heartbeat.py reads it."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tmsgd_bench.engine.observers import Observer
from tmsgd_bench.errors import StoreError
from tmsgd_bench.files import write_json
from tmsgd_bench.results import heartbeat

if TYPE_CHECKING:
    from tmsgd_bench.engine.loop import Trainer


class Heartbeat(Observer):
    """Writes which process trains a run, since when, and its progress to a file in the work folder, while it trains.

    Args:
        folder: the run's work folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / heartbeat.NAME
        self.stopped = threading.Event()

    def start(self, trainer: Trainer) -> None:
        self.thread = threading.Thread(target=self._beat, args=(trainer,), daemon=True)
        self.thread.start()

    def end(self, trainer: Trainer, error: BaseException | None) -> None:
        self.stopped.set()
        self.thread.join()
        with suppress(OSError):  # if it stays, other machines take the run for running until the file is stale
            self.path.unlink(missing_ok=True)

    def _beat(self, trainer: Trainer) -> None:
        who = {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        while not self.stopped.is_set():
            progress = {"epoch": trainer.epoch, "epochs": trainer.spec.epochs, "trained": trainer.trained_here}
            with suppress(StoreError):  # a full disk ends the run only if a checkpoint cannot be written
                write_json(self.path, {**who, "time": time.time(), **progress})
            self.stopped.wait(heartbeat.SECONDS)
