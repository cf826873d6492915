"""Checks of settings. A value that is not allowed is refused in one sentence.

A :class:`Rule` checks one value, a :class:`Section` a group of named settings. Both are called with the setting's full
name and its value, return nothing if the value is allowed, and raise :class:`ConfigError` otherwise. They never change
a value, because settings are part of a run's identity.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tmsgd_bench.errors import ConfigError

Check = Callable[[str, Any], None]
"""Called with a setting's name and value; raises ConfigError."""

LONGEST_NAME, LONGEST_TEXT, LONGEST_PATH = 64, 200, 4096
SHOWN = 60
"""How many characters of a refused value a message repeats."""
LARGEST = 2**63 - 1
"""The largest whole number that a column of 64-bit integers can hold."""
COUNT = 10**9
"""The largest count of examples, epochs or updates."""
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.+-]{{0,{LONGEST_NAME - 1}}}")
CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*")


@dataclass(frozen=True)
class Rule:
    """A check of one value.

    Args:
        allowed: what the value must be, as the end of "NAME must be ...".
        example: a value that is allowed, as the command line takes it.
        accepts: whether a value is allowed.
    """

    allowed: str
    example: object
    accepts: Callable[[Any], bool]

    def __call__(self, name: str, value: Any) -> None:
        """Return if the value is allowed.

        Raises:
            ConfigError: it is not; the message names the setting, the value and what is allowed.
        """
        if not self.accepts(value):
            raise ConfigError(
                f"{name} must be {self.allowed}, not {shown(value)}: set it with {name}={self.example}, say."
            )


@dataclass(frozen=True)
class Section:
    """A check of a group of settings: no required one is missing, none is unknown, and every value is allowed.

    Args:
        required: the check of each setting that must be there.
        optional: the check of each setting that may be left out.
        null: whether the group may be null.
        together: a check of the whole group, after the checks of its settings.
    """

    required: Mapping[str, Check]
    optional: Mapping[str, Check] = field(default_factory=dict)
    null: bool = False
    together: Check | None = None

    @property
    def checks(self) -> dict[str, Check]:
        """The check of every setting by its name."""
        return {**self.required, **self.optional}

    def checks_for(self, values: Mapping[str, Any]) -> dict[str, Check]:
        """The same as ``checks``; in :class:`Variants` it depends on the values."""
        return self.checks

    def __call__(self, name: str, values: Any) -> None:
        """Return if the group is complete and everything in it is allowed; ``name`` is "" for the top level.

        Raises:
            ConfigError: a setting is missing, unknown, or not allowed.
        """
        if values is None and self.null:
            return
        check_group(name, values, self.required, self.checks, self.null)
        for key, value in values.items():
            self.checks[key](full_name(name, key), value)
        if self.together is not None:
            self.together(name, values)


@dataclass(frozen=True)
class Variants:
    """A check of a group of settings in which one setting decides which others there are.

    Args:
        key: the setting that decides.
        sections: the check of the other settings, for each value of ``key``.
    """

    key: str
    sections: Mapping[str, Section]

    @property
    def required(self) -> tuple[str, ...]:
        """The settings that every variant needs."""
        return (self.key,)

    def checks_for(self, values: Mapping[str, Any]) -> dict[str, Check]:
        """The check of every setting of all variants by its name; that of the chosen variant takes precedence."""
        chosen = [section for variant, section in self.sections.items() if variant == values.get(self.key)]
        sections = [*self.sections.values(), *chosen]
        return {self.key: choice(*self.sections)} | {
            key: check for section in sections for key, check in section.checks.items()
        }

    def __call__(self, name: str, values: Any) -> None:
        """See :class:`Section`."""
        check_group(name, values, (self.key,))
        choice(*self.sections)(full_name(name, self.key), values[self.key])
        self.sections[values[self.key]](name, {key: value for key, value in values.items() if key != self.key})


Options = Section | Variants
Callee = TypeVar("Callee", bound=Callable[..., Any])
DECLARED = "__options__"


def takes(options: Options) -> Callable[[Callee], Callee]:
    """Declare the allowed options of a class or a function that a YAML names by ``_target_``.

    Without this, the options are checked against the signature and its type hints, which have no ranges.
    """

    def declare(kind: Callee) -> Callee:
        setattr(kind, DECLARED, options)
        return kind

    return declare


def declared(kind: Any) -> Options | None:
    """The options that a class or a function declares with :func:`takes`, or None; a subclass does not inherit them."""
    options: Options | None = getattr(kind, "__dict__", {}).get(DECLARED)
    return options


def check_group(
    name: str, values: Any, required: Collection[str], known: Collection[str] | None = None, null: bool = False
) -> None:
    """Raise ConfigError unless ``values`` is a mapping that has all required keys, and no unknown ones.

    Args:
        known: all allowed keys; None allows any.
        null: whether the message says that null is allowed.
    """
    if not isinstance(values, Mapping):
        keys = ", ".join(known or required)
        raise ConfigError(
            f"{name} must {'be null or ' * null}have the keys {keys}, not {shown(values)}: set one of them, as in "
            f"{name}.{next(iter(known or required))}=VALUE."
        )
    for key in required:
        if key not in values:
            raise ConfigError(
                f"setting {full_name(name, key)!r} is missing: add it to its YAML, or leave out the ~ that removes it."
            )
    if known is not None:
        for key in set(values) - set(known):
            raise unknown_setting(full_name(name, key), key, known)


def unknown_setting(full: str, key: Any, known: Collection[str]) -> ConfigError:
    """The error for an unknown setting: it names the most similar known setting or, if none is similar, all of them."""
    guesses = difflib.get_close_matches(str(key), known, n=1)
    hint = f"did you mean {guesses[0]!r}?" if guesses else f"the settings there are {', '.join(known) or 'none'}."
    return ConfigError(f"unknown setting {shown(full)}: {hint}")


def full_name(section: str, key: Any) -> str:
    """A setting's name, with its section's before it."""
    return f"{section}.{key}" if section else str(key)


def shown(value: Any) -> str:
    """A value for a message: on one line, and cut if it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text):,} characters)"


# --- numbers -----------------------------------------------------------------------------------------------------


def is_whole(value: object, least: int, most: int = LARGEST) -> bool:
    """Whether a setting is a whole number in a range."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def whole(least: int, most: int = COUNT) -> Rule:
    """A whole number from ``least`` to ``most``."""
    allowed = f"a whole number >= {least} and <= {most:,}"
    return Rule(allowed, max(least, min(1, most)), lambda value: is_whole(value, least, most))


def is_number(value: object) -> bool:
    """Whether a setting is a finite number; true and false are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not isinstance(value, float) or math.isfinite(value)


def number(least: float, most: float, example: float, above: bool = False, below: bool = False) -> Rule:
    """A finite number in a range.

    Args:
        least, most: the ends of the range.
        above, below: whether ``least`` and ``most`` themselves are not allowed.
    """

    def accepts(value: Any) -> bool:
        return (
            is_number(value)
            and (value > least if above else value >= least)
            and (value < most if below else value <= most)
        )

    allowed = f"a finite number {'>' if above else '>='} {least:,.10g} and {'<' if below else '<='} {most:,.10g}"
    return Rule(allowed, f"{example:g}", accepts)


# --- words -------------------------------------------------------------------------------------------------------


def choice(*choices: Any) -> Rule:
    """One of a few values, compared with their types: 1 is not true."""
    words = ", ".join(map(_word, choices))
    return Rule(
        f"one of {words}" if len(choices) > 1 else words,
        _word(choices[0]),
        lambda value: any(type(value) is type(allowed) and value == allowed for allowed in choices),
    )


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def flag() -> Rule:
    """True or false. Hydra reads yes and no as texts, which Python would take for true, so they are refused."""
    return Rule("true or false", "true", lambda value: isinstance(value, bool))


def name() -> Rule:
    """A short name that can be part of a file's name."""
    allowed = f"a name of at most {LONGEST_NAME} letters, digits and -_.+ that begins with a letter or digit"
    return Rule(allowed, "mine", lambda value: isinstance(value, str) and bool(NAME.fullmatch(value)))


def class_name() -> Rule:
    """A class with its module, such as ``torch.optim.SGD``."""
    return Rule(
        "the name of a class with its module",
        "package.module.Class",
        lambda value: isinstance(value, str) and len(value) <= LONGEST_TEXT and bool(CLASS.fullmatch(value)),
    )


def text(longest: int = LONGEST_TEXT) -> Rule:
    """Printable text on one line without < and >, which could be HTML."""

    def accepts(value: Any) -> bool:
        return isinstance(value, str) and 0 < len(value) <= longest and value.isprintable() and not set("<>") & {*value}

    return Rule(f"printable text of at most {longest} characters without < and >", "mine", accepts)


def remark() -> Rule:
    """A comment for the reader of a YAML."""
    return Rule("text", "why", lambda value: isinstance(value, str) and value.isprintable() and 0 < len(value) <= 2000)


def path() -> Rule:
    """The path of a file or folder, which need not exist."""

    def accepts(value: Any) -> bool:
        return isinstance(value, str) and 0 < len(value) <= LONGEST_PATH and value.isprintable() and bool(value.strip())

    return Rule("a path", "./folder", accepts)


def names_weights_file(value: Any) -> bool:
    """Whether a model's ``weights`` are the path of a file, and not a name of published weights."""
    return isinstance(value, str) and ("/" in value or value.endswith((".pth", ".pt")))


def weights(*words: str) -> Rule:
    """One of a model's names for initial weights, or the path of a file."""
    return either(
        choice(*words),
        Rule("the path of a file", "./weights.pth", lambda value: names_weights_file(value) and path().accepts(value)),
    )


# --- combinations ------------------------------------------------------------------------------------------------


def either(*rules: Rule) -> Rule:
    """A value that one of several rules allows."""
    return Rule(
        ", or ".join(rule.allowed for rule in rules),
        rules[-1].example if rules[0].example == "null" else rules[0].example,
        lambda value: any(rule.accepts(value) for rule in rules),
    )


def optional(rule: Rule) -> Rule:
    """Null, or a value that a rule allows."""
    return either(Rule("null", "null", lambda value: value is None), rule)


def items(rule: Rule, least: int = 0, most: int = 1000) -> Rule:
    """A list of ``least`` to ``most`` items that a rule allows."""
    count = str(least) if least == most else f"{least} to {most}"
    example = f"[{','.join([str(rule.example)] * max(1, least))}]"
    return Rule(
        f"a list of {count} items, each {rule.allowed}",
        example,
        lambda value: isinstance(value, list | tuple) and least <= len(value) <= most and all(map(rule.accepts, value)),
    )


def keyed(rule: Rule | None = None, least: int = 0) -> Rule:
    """A mapping from at least ``least`` names to values that a rule allows; without a rule, to any values."""

    def accepts(value: Any) -> bool:
        named = isinstance(value, Mapping) and all(NAME.fullmatch(str(key)) for key in value)
        return named and len(value) >= least and (rule is None or all(map(rule.accepts, value.values())))

    allowed = f"a mapping of {f'at least {least} ' * bool(least)}names"
    allowed += "" if rule is None else f", each to {rule.allowed}"
    return Rule(allowed, f"{{mine:{'mine' if rule is None else rule.example}}}", accepts)
