"""The record of a run: the files in its folder, and the kind of each value in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tmsgd_bench.checks import LARGEST, is_number, is_whole
from tmsgd_bench.results.status import FINISHED

RESULT = "result.json"
CONFIG = "config.yaml"
HISTORY = "history.parquet"
ENVIRONMENT = "environment.json"
PREFIX = "prefix.json"
MEASURED = "measured_later.json"
"""What a run could not measure itself, measured afterwards; it counts only if the manifest names it.

``metrics`` has every value by its name; ``primary`` declares the one that takes the place of the run's primary metric
(``name``, ``label``, ``unit``, ``direction``); ``measured_with`` records how.
"""
REQUIRED = (CONFIG, ENVIRONMENT, HISTORY, RESULT)


@dataclass(frozen=True)
class Kind:
    """A kind of value: in words, and the test."""

    words: str
    holds: Callable[[Any], bool]

    def __or__(self, other: Kind) -> Kind:
        return Kind(f"{self.words} or {other.words}", lambda value: self.holds(value) or other.holds(value))


def one_of(*words: str) -> Kind:
    """The kind of a value that is one of a few words."""
    return Kind(" or ".join(words), lambda value: isinstance(value, str) and value in words)


def list_of(kind: Kind) -> Kind:
    """The kind of a list, each entry of one kind."""
    return Kind(
        f"a list, each of it {kind.words}", lambda value: isinstance(value, list) and all(map(kind.holds, value))
    )


def mapping_to(kind: Kind) -> Kind:
    """The kind of a mapping, each value of one kind."""
    return Kind(
        f"a mapping, each value {kind.words}",
        lambda value: isinstance(value, dict) and all(map(kind.holds, value.values())),
    )


def _is_number(value: Any) -> bool:
    return is_number(value) and (isinstance(value, float) or is_whole(value, -LARGEST))


def _is_text(value: Any) -> bool:
    """Whether it is text that can be written as UTF-8."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


TEXT, WHOLE, NUMBER = (
    Kind("text", _is_text),
    Kind("a whole number", lambda value: is_whole(value, 0)),
    Kind("a finite number", _is_number),
)
MAPPING = Kind("a mapping", lambda value: isinstance(value, dict))
TRUTH = Kind("true or false", lambda value: isinstance(value, bool))
NONE = Kind("null", lambda value: value is None)

KINDS: dict[str, dict[str, Kind]] = {
    CONFIG: {
        "benchmark_version": WHOLE,
        "task": MAPPING,
        "task.name": TEXT,
        "task.dataset": TEXT | NONE,
        "task.evaluate_on": TEXT | NONE,
        "model": MAPPING,
        "model.name": TEXT,
        "data": MAPPING,
        "data.kind": TEXT,
        "data.limit": WHOLE | NONE,
        "data.fingerprint": TEXT | NONE,
        "optimizer": MAPPING,
        "optimizer.name": TEXT,
        "optimizer.label": TEXT,
        "optimizer.lr": NUMBER | NONE,
        "optimizer.switch_epoch": WHOLE | one_of("auto") | NONE,
        "epochs": WHOLE,
        "batch_size": WHOLE,
        "schedule": MAPPING | NONE,
        "seed": WHOLE,
        "protocols": list_of(TEXT),
    },
    RESULT: {
        "status": one_of(*FINISHED),
        "metric": TEXT,
        "unit": TEXT,
        "direction": one_of("min", "max"),
        "metrics": list_of(MAPPING) | NONE,
        "final": NUMBER | NONE,
        "best": NUMBER | NONE,
        "best_epoch": WHOLE | NONE,
        "initial": NUMBER | NONE,
        "epochs_done": WHOLE,
        "training_examples": WHOLE | NONE,
        "parameters": WHOLE | NONE,
        "training_seconds": NUMBER | NONE,
        "processor_seconds": NUMBER | NONE,
        "peak_memory_mib": NUMBER | NONE,
        "peak_gpu_memory_mib": NUMBER | NONE,
        "examples_per_second": NUMBER | NONE,
        "weights_sha256": TEXT | NONE,
        "note": TEXT,
        "prefix": MAPPING | NONE,
        "auto_switch": MAPPING | NONE,
        "auto_switch.epoch": WHOLE | NONE,
        "log_sharpness": MAPPING | NONE,
    },
    ENVIRONMENT: {
        "started": TEXT | NONE,
        "commit": TEXT | NONE,
        "verified_data": TRUTH | NONE,
        "arguments": list_of(TEXT) | NONE,
        "packages": MAPPING | NONE,
        "before": list_of(MAPPING) | NONE,
        "python": TEXT | NONE,
        "system": TEXT | NONE,
        "device": TEXT | NONE,
        "processor": TEXT | NONE,
        "accelerator": TEXT | NONE,
        "threads": WHOLE | NONE,
    },
    MEASURED: {
        "metrics": mapping_to(NUMBER | NONE),
        "primary": MAPPING,
        "primary.name": TEXT,
        "primary.label": TEXT,
        "primary.unit": TEXT,
        "primary.direction": one_of("min", "max"),
        "measured_with": MAPPING | NONE,
    },
}
"""What each file must hold, by dotted key; a key that is not there is null."""
