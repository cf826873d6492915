"""TM-SGD and the linear multistep methods to which it belongs."""

from tmsgd_bench.optim.auto_switch import AutoSwitch
from tmsgd_bench.optim.curvature import Sharpness, largest_stable_lr, sharpness
from tmsgd_bench.optim.schemes import SCHEMES, MultistepScheme
from tmsgd_bench.optim.tmsgd import TMSGD

__all__ = ["SCHEMES", "TMSGD", "AutoSwitch", "MultistepScheme", "Sharpness", "largest_stable_lr", "sharpness"]
