"""What a run costs a machine: processor seconds, and the peak of its memory."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import torch

PEAK = "VmHWM:"
"""The line of Linux's /proc/self/status that holds the largest memory so far, in KiB."""
RESET_PEAK = "5"
"""What one writes to Linux's /proc/self/clear_refs to begin a new peak."""


def processor_seconds() -> float:
    """Seconds that all cores together have worked for this process and for those of its children that have ended."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak of memory: an earlier run of the same process may have used more."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # not Linux, or not allowed: see ``peak_memory``
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)


def peak_memory(device: torch.device) -> dict[str, float | None]:
    """The largest memory of this process since ``reset_peak_memory``, in MiB, without that of its batch workers.

    Returns:
        ``peak_memory_mib``: main memory; None where the system does not tell. If the system cannot begin a new peak, it
        is the largest since the process started. ``peak_gpu_memory_mib``: tensors on the GPU; None on a CPU.
    """
    gpu = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {"peak_memory_mib": _peak_of_process(), "peak_gpu_memory_mib": gpu}


def _peak_of_process() -> float | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(PEAK)), None)
