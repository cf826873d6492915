"""Options of a class that a YAML names by ``_target_``, checked against the signature of its constructor."""

from __future__ import annotations

import difflib
import inspect
import math
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from tmsgd_bench.checks import LARGEST, class_name, full_name, is_number, is_whole, shown, unknown_setting
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.garbage import uncollected

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
MISSPELT = 0.85
"""The similarity (:mod:`difflib`) from which on a name is taken for another one: ``weigth_decay``, ``lerning_rate``."""


def resolve(section: str, target: Any) -> Any:
    """The class or function that ``section._target_`` names.

    Raises:
        ConfigError: it cannot be imported, or cannot be called.
    """
    key = full_name(section, "_target_")
    class_name()(key, target)
    try:
        with uncollected():  # it may import torch
            kind = pkgutil.resolve_name(target)
    except Exception as error:  # a module may raise anything while it is imported
        raise ConfigError(
            f"{key} names the class {target!r}, which cannot be imported ({one_line(error)}): correct _target_ in its "
            "YAML or install its package."
        ) from error
    if not callable(kind):
        raise ConfigError(f"{key} names {target!r}, which is not a class: correct _target_ in its YAML.")
    return kind


def check_made(section: str, target: str, made: Any, kind: type[Made]) -> Made:
    """Return the object that a class named in a YAML has made, if it is of the right type.

    Args:
        section: of the settings, for the message.
        target: the class's name.
        made: the object.
        kind: the type that it must have.

    Raises:
        ConfigError: it has another type.
    """
    if isinstance(made, kind):
        return made
    raise ConfigError(
        f"{section}._target_ names {target!r}, which makes no {type_name(kind)}: correct _target_ in its YAML."
    )


def one_line(error: BaseException) -> str:
    """The first line of an error's message; some of torch's errors add a stack of calls."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def check_signature(
    section: str,
    kind: Any,
    options: Mapping[str, Any],
    arguments: Iterable[str] = (),
    first: int = 1,
    otherwise: str = "",
) -> None:
    """Raise ConfigError unless a class can be called with these options, as far as its signature tells.

    Args:
        section: of the settings, for messages.
        options: the settings by name.
        arguments: names of further arguments, which the engine or the task passes; they are no settings.
        first: how many arguments the engine passes by position before them.
        otherwise: what else than adding a missing setting may help, as a clause that begins with "or".
    """
    signature = parameters(kind, first)
    if signature is None:
        return
    arguments = set(arguments)
    settings = {key: needed for key, needed in signature.named.items() if key not in arguments}
    for key in options:
        if key in arguments or not (key in settings or signature.takes(key)):
            raise unknown_setting(full_name(section, key), key, list(settings))
    for key, needed in settings.items():
        if needed and key not in options:
            remedy = ", ".join(filter(None, ["add it", otherwise]))
            raise ConfigError(
                f"setting {full_name(section, key)!r} is missing, which {kind.__qualname__} needs: {remedy}."
            )
    _check_types(section, kind, options)


@dataclass(frozen=True)
class Parameters:
    """The parameters that a class or a function takes by name.

    Args:
        named: whether each parameter is required, by its name.
        open_ended: whether it also takes any other name (``**options``).
    """

    named: dict[str, bool]
    open_ended: bool

    def takes(self, key: str) -> bool:
        """Whether a name that is not one of the parameters may be given; not if it looks like one of them, misspelt."""
        return self.open_ended and not difflib.get_close_matches(key, self.named, cutoff=MISSPELT)


def parameters(kind: Any, first: int = 0) -> Parameters | None:
    """The parameters after the first ones; None if the class has no signature, as some that are written in C.

    Args:
        first: how many arguments are passed by position.
    """
    try:
        signature = list(inspect.signature(kind).parameters.values())
    except (TypeError, ValueError):
        return None
    named = {
        parameter.name: parameter.default is inspect.Parameter.empty
        for parameter in signature[first:]
        if parameter.kind in NAMED
    }
    return Parameters(named, any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in signature))


def _check_types(section: str, kind: Any, options: Mapping[str, Any]) -> None:
    hints = _hints(kind)
    for key, value in options.items():
        if not fits(value, hints.get(key, Any)):
            allowed = type_name(hints[key])
            raise ConfigError(
                f"{full_name(section, key)} must be {allowed}, as {kind.__qualname__} declares it, not {shown(value)}: "
                "correct it in its YAML, or on the command line."
            )


def type_name(annotation: Any) -> str:
    """An annotation as a program writes it, with each class by its shortest name that can be imported.

    Example:
        >>> import torch
        >>> type_name(torch.nn.modules.module.Module | None)
        'torch.nn.Module | None'
    """
    return re.sub(r"\w+(\.\w+)+", lambda match: _shortest(match[0]), inspect.formatannotation(annotation))


def _shortest(name: str) -> str:
    """Another name of the same object, in the outermost package that has it."""
    parts = name.split(".")
    packages = (".".join(parts[:length]) for length in range(1, len(parts)))
    return next((short for package in packages if _same(short := f"{package}.{parts[-1]}", name)), name)


def _same(name: str, other: str) -> bool:
    try:
        return pkgutil.resolve_name(name) is pkgutil.resolve_name(other)
    except (ImportError, AttributeError, ValueError):
        return False


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind.__init__ if inspect.isclass(kind) else kind)
    except Exception:  # annotations may have names that are imported only for a type checker
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value from a YAML is of an annotation's type. A whole number counts as a float, NaN does not.

    A type that YAML cannot hold, such as a tensor, refuses nothing unless the annotation allows other types too.
    """
    answers = [_matches(value, kind) for kind in _alternatives(hint)]
    return True in answers or all(answer is None for answer in answers)


def _alternatives(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [kind for member in typing.get_args(hint) for kind in _alternatives(member)]
    return [hint]


def _matches(value: Any, hint: Any) -> bool | None:
    """Whether a value is of a type; None if it is a type that YAML cannot hold."""
    if hint in SIMPLE:
        return SIMPLE[hint](value)
    origin = typing.get_origin(hint) or hint
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in typing.get_args(hint))
    if not isinstance(origin, type) or origin is object:
        return True
    if issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    # YAML's list serves for a tuple, a sequence, and any other iterable of the standard library.
    plain = origin.__module__ in ("builtins", "collections.abc")
    return isinstance(value, list) if plain and issubclass(origin, Iterable) else None
