"""The tasks of the paper's Table 1: data, models, loss and metric of one row each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tmsgd_bench.engine.models import build_model as build_model
from tmsgd_bench.engine.signatures import one_line, resolve
from tmsgd_bench.errors import ConfigError

if TYPE_CHECKING:  # importing torch takes seconds, which looking at the figures' names should not cost
    from tmsgd_bench.task import Task, TaskSettings

FIGURES = {
    "1": ("tasks.fkpd.figure", "key points found on seven test faces (task fkpd), a row for each optimizer"),
    "2": ("tasks.ig.figure", "images by the generator while it trains (task ig), a row for each optimizer"),
}
"""The figures that the tasks can draw of runs: the module whose ``write`` does, and what is on it."""


def build(target: str, settings: TaskSettings, options: Mapping[str, Any]) -> Task:
    """The task of a class name such as ``tasks.tc.TextClassification``.

    Args:
        settings: what the task is told about its run.
        options: the remaining keys of its YAML.

    Raises:
        ConfigError: the class cannot be found, refuses its options, or needs more memory than there is.
    """
    kind = resolve("task", target)
    if getattr(kind, "splits_training", False):
        settings, options = settings.evaluated(options)
    try:
        task: Task = kind(settings, **options)
    except TypeError as error:
        raise ConfigError(f"the task class {target!r} refuses its options: {one_line(error)}") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise ConfigError(
            f"the network and the data of {target} do not fit into memory ({one_line(error)}): choose a smaller model, "
            "batch_size or data.limit."
        ) from error
    return task
