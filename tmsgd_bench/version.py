"""What names and numbers the benchmark's results, apart from the package's own version."""

BENCHMARK_VERSION = 2
"""Raised whenever a change of code, or of a constant in it, changes results.

Runs of different versions are never mixed.
"""

PROTOCOLS = ("table2", "corrected", "smoke")
"""The sets of values that every task's YAML has: printed in the paper, as read, and cut to seconds."""
