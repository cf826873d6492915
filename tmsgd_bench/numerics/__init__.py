"""Numerical experiments: the multistep rules as integrators of gradient flows, through the optimizer itself.

The paper announces such experiments (section III-B: the Taylor multi-step rule is more accurate than Euler's, and it
fluctuates early on) and gives no details. The problems and settings here are this project's own.
"""

NAMES = ("order", "regions", "early", "frequency", "limits", "noise")
"""The experiments, in the order in which they run."""
