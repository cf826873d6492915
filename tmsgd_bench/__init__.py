"""TM-SGD, a Taylor multi-step SGD, and a benchmark that reproduces its paper.

For the optimizer, use ``from tmsgd_bench import TMSGD``; this imports nothing of the benchmark.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tmsgd_bench.optim import TMSGD, MultistepScheme

__version__ = "0.1.0"
__all__ = ["TMSGD", "MultistepScheme", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the optimizer at its first use, because other parts of the package need no torch."""
    if name in ("TMSGD", "MultistepScheme"):
        import tmsgd_bench.optim as optim

        return getattr(optim, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
