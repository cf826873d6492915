"""The errors a user can mend. Each message is one sentence that names the fix."""

from __future__ import annotations


class BenchError(Exception):
    """A mistake or a missing thing that the user can put right; printed without a traceback."""


class ConfigError(BenchError):
    """A setting that cannot be used: unknown name, wrong type, value out of range."""


class DataError(BenchError):
    """A data set that is missing, incomplete or altered."""


class StoreError(BenchError):
    """A results folder that cannot be read or written."""


class RunIsBusy(BenchError):
    """Another process is training this very run."""


class OutputError(BenchError):
    """What a command prints cannot be written; no file is to blame."""
