"""What names and numbers the benchmark's results, apart from the package's own version."""

BENCHMARK_VERSION = 2
"""Raised whenever a change of code, or of a constant in it, changes results.

Runs of different versions are never mixed.
"""

PROTOCOLS = ("table2", "corrected", "reduced", "tuned", "smoke", "own")
"""The sets of values in a task's YAML: as printed in the paper, with misprints corrected, real data in minutes, the
same with the best learning rate, a few seconds; and the only ones that a task needs that is not the paper's."""
LEVELS = {"table2": "full", "corrected": "full (corrected)", "reduced": "reduced", "tuned": "tuned"}
"""The level of evidence of runs on real data, by the protocol that they follow; others are no evidence for a claim."""
OWN_SETTINGS = ("reduced", "tuned")
"""Protocols whose settings are this project's own: each optimizer may have its own learning rate, and the data may be
unverified, because the public copies of some data sets are encoded anew, and the weights that training starts from may
be those of a file."""
