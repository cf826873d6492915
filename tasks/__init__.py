"""The tasks of the paper's Table 1: data, models, loss and metric of one row each."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from typing import Any

from tmsgd_bench.errors import ConfigError
from tmsgd_bench.task import Task, TaskSettings


def build(target: str, settings: TaskSettings, options: Mapping[str, Any]) -> Task:
    """The task of a class name such as ``tasks.tc.TextClassification``.

    Args:
        settings: what the task is told about its run.
        options: the remaining keys of its YAML.

    Raises:
        ConfigError: the class cannot be found, or it refuses its options.
    """
    try:
        kind = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"the task class {target!r} cannot be imported ({error}): correct _target_ in its YAML."
        ) from error
    try:
        task: Task = kind(settings, **options)
    except TypeError as error:
        raise ConfigError(f"the task class {target!r} refuses its options: {error}") from error
    return task
