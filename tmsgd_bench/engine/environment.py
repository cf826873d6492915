"""The environment of a run: versions, hardware, commit. It is published, so it has neither host names nor paths."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tmsgd_bench import privacy
from tmsgd_bench.checks import choice
from tmsgd_bench.engine.spec import RunOptions
from tmsgd_bench.errors import ConfigError

DEVICE = choice("auto", "cpu", "cuda")
PACKAGES = ("torch", "torchmetrics", "pytorch-optimizer", "numpy", "pandas", "hydra-core", "omegaconf")


def resolve_device(name: str) -> torch.device:
    """The device behind "auto", "cpu" or "cuda".

    Raises:
        ConfigError: an unknown name, or CUDA asked for and absent.
    """
    DEVICE("device", name)
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device=cuda was asked for, but torch sees no CUDA device here: use device=auto or device=cpu."
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def workers(setting: int | str, device: torch.device) -> int:
    """How many processes make batches ahead.

    Args:
        setting: a number, or "auto": 1 if the CPU trains; if a GPU trains, the number of cores minus 1, at most 12.
        device: where the run trains.
    """
    if isinstance(setting, int):
        return setting
    return 1 if device.type == "cpu" else min(12, max(1, (os.cpu_count() or 2) - 1))


def prepare_process(options: RunOptions, tf32: bool = False) -> torch.device:
    """Set threads, determinism and precision of this process; returns the device.

    Args:
        tf32: see :class:`~tmsgd_bench.engine.spec.RunSpec`.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(options.deterministic)
    # PyTorch's default is True for convolutions and recurrent networks, and False for matrix products.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    return resolve_device(options.device)


def describe(device: torch.device) -> dict[str, Any]:
    """The environment of this process, as plain values."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": commit(),
        "device": device.type,
        "processor": _processor(),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled() or device.type == "cpu",
        "tf32": device.type == "cuda" and torch.backends.cudnn.allow_tf32,
        "arguments": privacy.arguments(sys.argv[1:]),
    }


def commit() -> str | None:
    """The checkout's commit, followed by "+changes" if code or settings differ from it; None outside a checkout."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():  # an installed package may lie inside another project's repository
        return None
    head = _git(folder, "rev-parse", "HEAD")
    if head is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--", "run.py", "conf", "tasks", "tmsgd_bench")
    return head + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
