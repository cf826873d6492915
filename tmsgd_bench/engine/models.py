"""The model of a task, made of its YAML's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from tmsgd_bench.checks import check_group
from tmsgd_bench.engine.schema import check_model_options
from tmsgd_bench.engine.signatures import check_made, one_line, resolve
from tmsgd_bench.engine.spec import without
from tmsgd_bench.errors import ConfigError

Model = TypeVar("Model")


def build_model(kind: type[Model], model: Mapping[str, Any], **given: Any) -> Model:
    """The model that a YAML names by ``_target_``, made of the YAML's options and of what only its task knows.

    Args:
        kind: what the task needs it to be.
        model: ``_target_`` and the options.
        given: what the task hands over; their names are the task's ``model_arguments``.

    Raises:
        ConfigError: the class cannot be found, refuses its options, or makes something else.
        DataError: weights that it begins with are missing or damaged.
    """
    check_group("model", model, ("_target_",))
    target, options = model["_target_"], without(model, "_target_")
    factory = resolve("model", target)
    check_model_options(factory, options, given)
    try:
        made = factory(**given, **options)
    except TypeError as error:
        raise ConfigError(f"the model class {target!r} refuses its options: {one_line(error)}") from error
    return check_made("model", target, made, kind)
