"""TM-SGD, a Taylor multi-step SGD, and a benchmark that reproduces its paper.

The optimizer alone is ``from tmsgd_bench import TMSGD``; nothing else of the package is imported with it.
"""

from tmsgd_bench.optim import TMSGD, MultistepScheme

__version__ = "0.1.0"
__all__ = ["TMSGD", "MultistepScheme", "__version__"]
