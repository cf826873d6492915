"""The version of the benchmark's results, apart from the package's."""

BENCHMARK_VERSION = 1
"""Raised whenever a change of code changes results; runs of different versions are never mixed."""
