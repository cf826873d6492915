"""Numerical experiments: the optimizer with each multistep method, as an integrator of gradient flows.

The paper announces such experiments (section III-B: the Taylor multistep method is more accurate than Euler's, and
fluctuates early on), but gives no details. The problems and settings here are this project's own.
"""

NAMES = ("order", "regions", "early", "frequency", "limits", "noise")
"""The experiments, in the order in which they run."""
