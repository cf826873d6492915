"""Whether what a run is to hold fits into memory: without a check the system would kill the run without a word."""

from __future__ import annotations

import os
from pathlib import Path

from tmsgd_bench.errors import ConfigError

MEMINFO = Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")
"""The folder of a container's control group (version 2)."""
GIB = 2**30


def available() -> int:
    """Bytes of memory that processes can still use: what the machine has left, and the container if it is in one."""
    free = _first_number(MEMINFO, "MemAvailable:")
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if free is None else 1024 * free
    return min(free, _left_in_container(free))


def _left_in_container(otherwise: int) -> int:
    """A container's limit less what is in use; cached files that nobody has read twice are not: they give way."""
    limit = _first_number(CONTAINER / "memory.max", "")
    if limit is None:
        return otherwise
    used = _first_number(CONTAINER / "memory.current", "") or 0
    cached = _first_number(CONTAINER / "memory.stat", "inactive_file ") or 0
    return max(0, limit - max(0, used - cached))


def check(needed: int, what: str, remedy: str) -> None:
    """Check that so many bytes fit into memory.

    Args:
        what: is to be held, as the start of a sentence.
        remedy: what to do if it does not fit, as a clause.

    Raises:
        ConfigError: it does not fit; the message says how much is needed.
    """
    if needed > (free := available()):
        raise ConfigError(f"{what} need {needed / GIB:.1f} GiB of memory, and {free / GIB:.1f} GiB are free: {remedy}.")


def _first_number(path: Path, start: str) -> int | None:
    """The number behind a word at the start of a line; None if there is no such file, line or number."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    words = [line.removeprefix(start).split() for line in lines if line.startswith(start)]
    return int(words[0][0]) if words and words[0] and words[0][0].isdigit() else None
