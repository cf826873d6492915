"""TM-SGD, a Taylor multi-step SGD, and a benchmark that reproduces its paper.

The optimizer alone is ``from tmsgd_bench import TMSGD``; nothing else of the package is imported with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tmsgd_bench.optim import TMSGD, MultistepScheme

__version__ = "0.1.0"
__all__ = ["TMSGD", "MultistepScheme", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the optimizer when it is asked for: looking at runs and settings needs no torch."""
    if name in ("TMSGD", "MultistepScheme"):
        import tmsgd_bench.optim as optim

        return getattr(optim, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
