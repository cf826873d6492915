"""The errors that a user can correct. Each message is one sentence that names the remedy."""

from __future__ import annotations


class BenchError(Exception):
    """An error that the user can correct; printed without a traceback."""


class ConfigError(BenchError):
    """A setting with an unknown name, a wrong type or a value out of range."""


class DataError(BenchError):
    """A data set that is missing, incomplete or altered."""


class StoreError(BenchError):
    """A results folder that cannot be read or written."""


class RunIsBusy(BenchError):
    """Another process is training the same run."""


class OutputError(BenchError):
    """A command's output cannot be printed."""
