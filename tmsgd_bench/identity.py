"""What identifies a run: the rule by which its settings become the digits at the end of its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tmsgd_bench.files import digest

LABEL = "protocols"
"""The setting that follows from the others."""
DIGITS = 10
RUN_ID = re.compile(rf".+-seed\d+-[0-9a-f]{{{DIGITS}}}")


def determinants(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a run's settings that determine its result: all but the labels.

    Args:
        settings: of a whole run, with ``benchmark_version`` and ``optimizer``.
    """
    values = {key: value for key, value in settings.items() if key != LABEL}
    return {**values, "optimizer": {key: value for key, value in settings["optimizer"].items() if key != "label"}}


def identity(settings: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of the determinants."""
    return digest(determinants(settings))


def run_id(settings: Mapping[str, Any]) -> str:
    """The name of a run's folder: readable, and unique through the identity's first digits.

    Args:
        settings: as in :func:`determinants`, with the ``name`` of task, model and optimizer.
    """
    optimizer = settings["optimizer"]
    names = [settings["task"]["name"], settings["model"]["name"], optimizer["name"]]
    switch = [] if optimizer.get("switch_epoch") is None else [f"switch{optimizer['switch_epoch']}"]
    return "-".join([*names, *switch, f"seed{settings['seed']}", identity(settings)[:DIGITS]])
