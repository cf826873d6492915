"""TM-SGD and the linear multistep rules it belongs to."""

from tmsgd_bench.optim.schemes import SCHEMES, MultistepScheme
from tmsgd_bench.optim.tmsgd import TMSGD

__all__ = ["SCHEMES", "TMSGD", "MultistepScheme"]
