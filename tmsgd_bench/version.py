"""What names and numbers the benchmark's results, apart from the package's own version."""

BENCHMARK_VERSION = 2
"""Raised whenever a change of code changes results; runs of different versions are never mixed."""

PROTOCOLS = ("table2", "corrected", "reduced", "smoke")
"""The sets of values that a task's YAML may have: printed in the paper, as read, real data in minutes, cut to seconds."""
OWN_SETTINGS = ("reduced",)
"""Protocols that this project chose for real data: an optimizer may have a learning rate of its own, and the data may be
unverified, because public copies of some data sets are encoded anew."""
