"""Checks that shared memory can be used: through it processes exchange batches and locks.

Containers often have little of it. Without it a worker's batch would be lost, and its run would wait forever.
"""

from __future__ import annotations

import multiprocessing

from tmsgd_bench.errors import ConfigError
from tmsgd_bench.files import os_reason

PLACE = "/dev/shm"


def check(processes: int, otherwise: str) -> None:
    """Check that there is shared memory for the locks of so many processes.

    Args:
        processes: how many are to be started.
        otherwise: what to do if there is not, as a clause.

    Raises:
        ConfigError: there is not.
    """
    context = multiprocessing.get_context("spawn")
    try:
        for _ in [context.Lock() for _ in range(4 * processes + 16)]:  # all at once, and more than they need
            pass
    except OSError as error:
        raise lacking(error, otherwise) from error


def lacking(error: Exception, otherwise: str) -> ConfigError:
    """The error for missing shared memory, with its remedies.

    Args:
        error: raised by the system or by torch.
        otherwise: see :func:`check`.
    """
    return ConfigError(
        f"worker processes cannot exchange anything, since shared memory ({PLACE}) is full, too small, read-only or "
        f"missing ({os_reason(error)}): {otherwise}, or provide more of it (docker run --shm-size=2g)."
    )
