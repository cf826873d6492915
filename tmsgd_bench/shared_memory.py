"""Shared memory, which processes of one run or one sweep exchange batches and locks through: whether it can be used.

Containers often have little of it. Without it a worker's batch would be lost, and its run would wait for it forever.
"""

from __future__ import annotations

import multiprocessing

from tmsgd_bench.errors import ConfigError
from tmsgd_bench.files import os_reason

PLACE = "/dev/shm"


def check(processes: int, otherwise: str) -> None:
    """See whether so many processes can be started: the system keeps their locks in shared memory.

    Args:
        processes: how many.
        otherwise: what to do if they cannot, as a clause.

    Raises:
        ConfigError: they cannot.
    """
    context = multiprocessing.get_context("spawn")
    try:
        for _ in [context.Lock() for _ in range(4 * processes + 16)]:  # more than they need, all at once
            pass
    except OSError as error:
        raise lacking(error, otherwise) from error


def lacking(error: Exception, otherwise: str) -> ConfigError:
    """The error for processes that cannot exchange anything, with what to do about it.

    Args:
        error: the system's, or torch's.
        otherwise: see :func:`check`.
    """
    return ConfigError(
        f"worker processes cannot exchange anything, since shared memory ({PLACE}) is full, too small, read-only or "
        f"missing ({os_reason(error)}): {otherwise}, or provide more of it (docker run --shm-size=2g)."
    )
