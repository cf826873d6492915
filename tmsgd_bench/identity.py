"""What identifies a run: the rule by which its settings become the digits at the end of its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tmsgd_bench.files import digest

LABELS = ("protocols", "setting")
"""Settings that follow from the others."""
DIGITS = 10
RUN_ID = re.compile(rf".+-seed\d+-[0-9a-f]{{{DIGITS}}}")


def determinants(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a run's settings that determine its result.

    Args:
        settings: of a whole run, with ``benchmark_version`` and ``optimizer``.
    """
    values = {key: value for key, value in settings.items() if key not in LABELS}
    values["optimizer"] = {key: value for key, value in settings["optimizer"].items() if key != "label"}
    if not values.get("tf32"):  # runs from before there was this setting keep their identity
        values.pop("tf32", None)
    return values


def identity(settings: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of the determinants."""
    return digest(determinants(settings))


def setting(settings: Mapping[str, Any]) -> str:
    """The identity without the seed: runs that differ in their seed alone share it."""
    return digest({key: value for key, value in determinants(settings).items() if key != "seed"})
