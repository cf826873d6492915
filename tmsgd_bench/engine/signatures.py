"""Options of a class that a YAML names by ``_target_``, checked against the signature of its constructor."""

from __future__ import annotations

import inspect
import math
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tmsgd_bench.checks import LARGEST, class_name, full_name, is_number, is_whole, shown, unknown_setting
from tmsgd_bench.errors import ConfigError

Made = TypeVar("Made")
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
SIMPLE: dict[Any, Callable[[Any], bool]] = {
    type(None): lambda value: value is None,
    bool: lambda value: isinstance(value, bool),
    int: lambda value: is_whole(value, -LARGEST),
    float: lambda value: is_number(value) or value in (math.inf, -math.inf),
    str: lambda value: isinstance(value, str),
}
"""Whether a value is of a type."""


def resolve(section: str, target: Any) -> Any:
    """The class or function that ``section._target_`` names.

    Raises:
        ConfigError: it cannot be imported, or cannot be called.
    """
    key = full_name(section, "_target_")
    class_name()(key, target)
    try:
        kind = pkgutil.resolve_name(target)
    except Exception as error:  # a module may raise anything while it is imported
        raise ConfigError(
            f"{key} names the class {target!r}, which cannot be imported ({one_line(error)}): correct _target_ in its "
            "YAML or install its package."
        ) from error
    if not callable(kind):
        raise ConfigError(f"{key} names {target!r}, which is no class: correct _target_ in its YAML.")
    return kind


def check_made(section: str, target: str, made: Any, kind: type[Made], name: str = "") -> Made:
    """What a class that a YAML names has made, which must be of a kind.

    Args:
        section: of the settings, for the message.
        target: the class's name.
        name: of the kind, where it has a shorter one than its module and its own.

    Raises:
        ConfigError: it is of another kind.
    """
    if isinstance(made, kind):
        return made
    raise ConfigError(
        f"{section}._target_ names {target!r}, which makes no {name or f'{kind.__module__}.{kind.__qualname__}'}: "
        "correct _target_ in its YAML."
    )


def one_line(error: BaseException) -> str:
    """What an error says, without the stack of calls that some of torch's come with."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def check_signature(
    section: str, kind: Any, options: Mapping[str, Any], given: Iterable[str] = (), first: int = 1
) -> None:
    """Raise ConfigError unless a class can be called with these options, as far as its signature tells.

    Args:
        section: of the settings, for messages.
        options: the settings by name.
        given: names of further arguments that the engine or the task passes; they are no settings.
        first: how many arguments the engine passes by position before them.
    """
    found = parameters(kind, first)
    if found is None:
        return
    given = set(given)
    names = {key: needed for key, needed in found.named.items() if key not in given}
    for key in options:
        if key in given or not (key in names or found.open_ended):
            raise unknown_setting(full_name(section, key), key, list(names))
    for key, needed in names.items():
        if needed and key not in options:
            raise ConfigError(
                f"setting {full_name(section, key)!r} is missing, which {kind.__qualname__} needs: add it."
            )
    _check_types(section, kind, options)


@dataclass(frozen=True)
class Parameters:
    """What a class or a function can be called with by name.

    Args:
        named: whether each parameter is needed, by its name.
        open_ended: it takes any other name, too.
    """

    named: dict[str, bool]
    open_ended: bool


def parameters(kind: Any, first: int = 0) -> Parameters | None:
    """The parameters behind the first ones; None if there is no telling: some classes written in C have no signature.

    Args:
        first: how many arguments are passed by position.
    """
    try:
        found = list(inspect.signature(kind).parameters.values())
    except (TypeError, ValueError):
        return None
    named = {one.name: one.default is inspect.Parameter.empty for one in found[first:] if one.kind in NAMED}
    return Parameters(named, any(one.kind is inspect.Parameter.VAR_KEYWORD for one in found))


def _check_types(section: str, kind: Any, options: Mapping[str, Any]) -> None:
    hints = _hints(kind)
    for key, value in options.items():
        if not fits(value, hints.get(key, Any)):
            wanted = inspect.formatannotation(hints[key])
            raise ConfigError(
                f"{full_name(section, key)} must be {wanted}, as {kind.__qualname__} declares it, not {shown(value)}."
            )


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind.__init__ if inspect.isclass(kind) else kind)
    except Exception:  # annotations may name what is imported for a type checker alone
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value that YAML can hold is of an annotation's type; a whole number is a float, too, NaN is none.

    An annotation of another type, a tensor for one, says nothing unless others stand beside it.
    """
    answers = [_matches(value, kind) for kind in _alternatives(hint)]
    return True in answers or all(answer is None for answer in answers)


def _alternatives(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [kind for one in typing.get_args(hint) for kind in _alternatives(one)]
    return [hint]


def _matches(value: Any, hint: Any) -> bool | None:
    """Whether a value is of a type; None if it is a type that YAML cannot hold."""
    if hint in SIMPLE:
        return SIMPLE[hint](value)
    origin = typing.get_origin(hint) or hint
    if origin is typing.Literal:
        return any(value == one and type(value) is type(one) for one in typing.get_args(hint))
    if not isinstance(origin, type) or origin is object:
        return True
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    # A list stands for a tuple, a sequence, and whatever else of the standard library is iterable.
    plain = origin.__module__ in ("builtins", "collections.abc")
    return isinstance(value, list) if plain and issubclass(origin, Iterable) else None
