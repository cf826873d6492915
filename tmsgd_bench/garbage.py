"""Python's garbage collector, kept from slowing imports down."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """A block in which no garbage is collected, for imports.

    What is imported stays. To look at all of it again and again would take a fifth of the time that torch needs.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
