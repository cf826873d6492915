"""Settings of Hydra's command line: how to write them, and what to check before Hydra reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from tmsgd_bench.checks import shown, unknown_setting
from tmsgd_bench.engine import schema
from tmsgd_bench.errors import ConfigError

OPTION = re.compile(r"\w[\w.+/-]*")
"""A name of a file of a group, without .yaml."""
GROUPS_OF_FILES = ("task", "model", "optimizer", "data", "protocol", "prefix", "tracker", "experiment")


WITH_VALUE = ("--config-dir", "--config-name", "--config-path", "--cfg", "--package", "--experimental-rerun")
SHORT = ("-cd", "-cn", "-cp", "-c", "-p")
"""Hydra's options whose value is the next argument. The long ones may be cut short."""


def settings_last(arguments: Sequence[str]) -> list[str]:
    """The same arguments with all settings behind all options: Hydra's parser refuses settings on both sides of one.

    Example:
        >>> settings_last(["task=tc", "--config-dir", "my", "-m", "seed=0,1"])
        ['--config-dir', 'my', '-m', 'task=tc', 'seed=0,1']
    """
    if "--" in arguments or (arguments and _takes_value(arguments[-1], "")):  # its value is missing: no setting is it
        return list(arguments)
    options: list[str] = []
    settings: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        is_option = argument.startswith("-") or _takes_value(before, argument)
        (options if is_option else settings).append(argument)
    return [*options, *settings]


def _takes_value(option: str, following: str) -> bool:
    """Whether an argument of Hydra's takes the one that follows; ``--info`` need not have a value."""
    if option == "-i" or (option.startswith("--i") and "--info".startswith(option)):
        return following != "" and "=" not in following
    return option in SHORT or (option.startswith("--") and any(name.startswith(option) for name in WITH_VALUE))


def search_path(hydra: Any) -> list[str]:
    """The override with which a configuration is composed again from the same folders.

    Hydra's compose() remembers the folder of ``--config-dir``, but not those of ``hydra.searchpath``.

    Args:
        hydra: Hydra's own section of the configuration; None if it does not come from a command line.
    """
    sources = hydra.runtime.config_sources if hydra else ()
    in_search_path = (source for source in sources if source.provider.startswith("hydra.searchpath"))
    folders = [f"{source.schema}://{source.path}" for source in in_search_path]
    return [f"hydra.searchpath=[{','.join(_quoted(folder) for folder in folders)}]"] if folders else []


def override(key: str, value: str | None) -> str:
    """A setting as an override for Hydra's command line, with its value quoted.

    Example:
        >>> print(override("results.root", "o'brien"))
        results.root='o\\'brien'
    """
    return f"{key}=null" if value is None else f"{key}={_quoted(value)}"


def _quoted(value: str) -> str:
    # Hydra needs backslashes doubled before a quote, and only there.
    escaped = re.sub(r"(\\*)('|\Z)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
    return f"'{escaped}'"


def check_verbose(verbose: Any) -> None:
    """Raise ConfigError unless ``hydra.verbose`` is true, false, or the names of modules that exist."""
    names = [verbose] if isinstance(verbose, str) else verbose
    for name in names if isinstance(names, Sequence) else ():
        if not _is_module(str(name)):
            raise ConfigError(
                f"hydra.verbose must be true, false, or a list of modules whose log to show, not {shown(name)}: set it "
                "with hydra.verbose=true, say."
            )


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def check_groups(overrides: Iterable[str], conf: Path) -> None:
    """Raise ConfigError for a group, such as optimizer, whose value is not the name of one of its files.

    And for a setting that is added with ``+`` although nothing reads it.

    Args:
        overrides: as on the command line; one that cannot be parsed is left to Hydra, which refuses it.
        conf: the folder of the groups.
    """
    for text in overrides:
        group = text.partition("=")[0]
        _check_added(group)
        if group.lstrip("+") == "model._target_" and text.partition("=")[2].startswith(schema.OF_THIS_PROJECT):
            raise ConfigError(f"{text}: choose a model of this project by its name, with model=NAME.")
        if "=" in text and group in GROUPS_OF_FILES:
            with suppress(HydraException):
                _check_group(group, OverridesParser.create().parse_overrides([text])[0], conf)


def _check_added(key: str) -> None:
    """Refuse an unknown setting that is added at the top level; options may be added within a section."""
    added, known = key.lstrip("+"), {*schema.GROUPS, *GROUPS_OF_FILES, "hydra", "local"}
    if added != key and re.fullmatch(r"\w+", added) and added not in {*known, *schema.VARIABLES}:
        raise unknown_setting(added, added, sorted(known))


def check_names(config: DictConfig, choices: Mapping[str, str | None], sources: Iterable[Any]) -> None:
    """Raise ConfigError for a task, model or optimizer whose ``name`` is not that of its YAML file.

    Tables select runs by these names: another optimizer with the name sgd would be in SGD's row. And for a chosen file
    that two folders have: Hydra takes one, and says nothing of the other.

    Args:
        choices: the option chosen in each of Hydra's groups.
        sources: the folders that Hydra looks in, ``hydra.runtime.config_sources``, in the order in which it does.
    """
    _check_hidden(choices, sources)
    for group in ("task", "model", "optimizer"):
        chosen = str(choices[group]).rpartition("/")[2]
        if (name := config[group].name) != chosen:
            raise ConfigError(f"{group}.name must be {chosen!r}, the name of its YAML file, not {shown(name)}.")


def _check_hidden(choices: Mapping[str, str | None], sources: Iterable[Any]) -> None:
    folders = {Path(source.path).resolve(): None for source in sources if source.schema == "file"}
    for group, chosen in choices.items():
        paths = [path for folder in folders if (path := folder / group / f"{chosen}.yaml").is_file()]
        if len(paths) > 1:
            raise ConfigError(f"{paths[1]} would not be used, because {paths[0]} has its name: give it another name.")


def _check_group(group: str, override: Override, conf: Path) -> None:
    value = None if override.is_sweep_override() else override.value()
    if override.is_sweep_override() or (isinstance(value, str) and OPTION.fullmatch(value)):
        return
    known = ", ".join(sorted(path.stem for path in (conf / group).glob("*.yaml")))
    raise ConfigError(f"{group} must be the name of a file in conf/{group}, not {shown(value)}: choose one of {known}.")
