"""Disks that are full: one sentence, nothing lost, and the same command goes on when there is room again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from faults import stores
from faults.commands import train
from faults.trial import LOST, Attempt, Fault, Kind

LEAST, MOST = 40, 2500
"""KiB of the small disk: from too little for the settings of a run of task tc, to enough for the whole run."""
ROOMY = "64m"
WAYS = ((), ("prefix=on",), ("save_weights=true",))


def attempt(trial: Attempt) -> None:
    """Train on a disk until it is full, enlarge it, and start the same command again."""
    chosen = (*stores.small(trial.random.choice(("tc", "tc", "ctr")), "tmsgd"), *trial.random.choice(WAYS))
    expected = stores.undisturbed(trial.place, *chosen)
    folder, size = trial.place.fresh("full-disk"), trial.random.randint(LEAST, MOST)
    with_data = trial.random.random() < 0.3
    trial.fault = f"{' '.join(chosen)} on a disk of {size} KiB{', its data too' if with_data else ''}"
    disk = folder / "disk"
    disk.mkdir()
    _mount(disk, f"size={size}k")
    try:
        arguments = stores.settings(trial.place, disk / "store", *chosen, data=disk / "data" if with_data else None)
        ended = train(arguments, folder / "output").checked()
        if ended.code != 0:
            stores.expect_sentence(ended)
        stores.expect_readable(disk / "store")
        _mount(disk, f"remount,size={ROOMY}")
        stores.expect_success(train(arguments, folder / "output-again"))
        stores.expect_facts(disk / "store", expected.facts)
        stores.expect_tidy(disk / "store", expected.names)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    shutil.rmtree(folder)


def _mount(folder: Path, options: str) -> None:
    result = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "faults", str(folder)], capture_output=True, text=True
    )
    if result.returncode:
        raise Fault(LOST, f"the small disk could not be made: {result.stderr.strip()}")


def hindrance() -> str:
    """Why no small disk can be made here; empty if it can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "a small disk needs Linux and root"
    return "" if shutil.which("mount") else "there is no mount command"


KIND = Kind("full-disk", attempt, hindrance=hindrance)
