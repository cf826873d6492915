"""Errors as one sentence for the user: what is wrong, and the remedy."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from tmsgd_bench import extras
from tmsgd_bench.engine import schema
from tmsgd_bench.engine.signatures import one_line
from tmsgd_bench.errors import BenchError, ConfigError
from tmsgd_bench.version import PROTOCOLS

DETAIL = re.compile(r"\s*(full_key|object_type|reference_type)[:=]")
"""Lines of OmegaConf's messages that are of no use to a user."""
LIMITED = ("reduced", "smoke")
"""The protocols that limit the training examples."""
REWORDED = {
    r"Ambiguous value for argument '(.+?)'\s": "{} has several values: add -m to train a run with each of them.",
    r"Additional config directory '(.+)' not found": "the folder {} of --config-dir is not there: correct its name.",
}
"""Messages of Hydra, and what stands in their place."""
EXTRAS = {"joblib": "parallel", "ray": "ray", "submitit": "slurm", "optuna": "optuna"}
"""The extra that a launcher or a sweeper comes with, by the first word of its name."""


def explain(error: BaseException, conf: Path) -> str | None:
    """One sentence for an error that the user can correct; None for one that needs a traceback."""
    if isinstance(error, BenchError):
        return str(error)
    if isinstance(error, ImportError) and (lacking := extras.lacking()):
        return lacking
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _missing(error.missing_cfg_file, error.options or (), conf)
    if sentence := _unreadable(error) or _of_a_sweeper(error):
        return sentence
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _explain_override(error, conf)
    if _is_hydras(error):
        return f"Hydra cannot use these settings ({one_line(error)}): 'python run.py --cfg job' shows what there is."
    if isinstance(error, OSError) and error.filename:
        return (
            f"cannot use {error.filename} ({error.strerror}): repair it, or choose another folder with the setting "
            "that names it: results.root, data.root, hydra.run.dir or hydra.sweep.dir."
        )
    return None


def _missing(file: str, options: Iterable[str], conf: Path) -> str:
    """A sentence for a group's file that is not there."""
    group, _, name = file.rpartition("/")
    known = sorted({*options, *(path.stem for path in (conf / group).glob("*.yaml"))})
    if group in ("hydra/launcher", "hydra/sweeper") and (extra := EXTRAS.get(name.partition("_")[0])):
        return f"{group}={name} is not installed: pip install -e '.[{extra}]'."
    return f"unknown {group or 'configuration'} {name!r}: choose one of {', '.join(known)}."


def _unreadable(error: BaseException) -> str:
    """A sentence for a setting or a file with a syntax error; empty for other errors."""
    if isinstance(error, OverrideParseException):
        if error.override and ("=" not in error.override or error.override.endswith(",")):
            return f"cannot read the setting {error.override}: write NAME=VALUE, or NAME=VALUE,VALUE without a space."
        return (
            f"cannot read the setting {error.override}: put a value with special letters in quotes, as in "
            "\"data.root='my folder'\", with \\' for a quote inside."
        )
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}, is not YAML ({error.problem}): correct it."
    return ""


def _is_hydras(error: BaseException) -> bool:
    """Whether Hydra itself raised the error: it reads some settings before they are checked."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    modules = [frame.f_globals.get("__name__", "").partition(".")[0] for frame in frames]
    sets_up_logging = any(frame.f_code.co_name == "configure_log" for frame in frames)
    return bool(modules) and (modules[-1] in ("hydra", "omegaconf", "antlr4") or sets_up_logging)


def _of_a_sweeper(error: BaseException) -> str | None:
    """A sentence for Optuna's error at the end of a sweep without a result."""
    if isinstance(error, ValueError) and "No trials are completed" in str(error):
        return "no run of the sweep has a result, so there are no best settings: correct what its summary says."
    return None


def _explain_override(error: BaseException, conf: Path) -> str:
    """This project's own sentence, or Hydra's message on one line; for a misspelt key, the key that it resembles."""
    if refused := _refusal(error):
        return str(refused)
    for pattern, sentence in REWORDED.items():
        if match := re.search(pattern, str(error)):
            return sentence.format(match[1])
    if isinstance(error, InterpolationResolutionError) and error.full_key:
        return _refers_to_nothing(error)
    cause = error.__cause__ or error
    key = getattr(cause, "full_key", None) or getattr(cause, "key", None)
    lines = f"{error}\n{error.__cause__ or ''}".splitlines()
    text = " ".join(" ".join(line for line in lines if not DETAIL.match(line)).split()) or type(error).__name__
    if key is None or "not in struct" not in f"{error} {cause}":
        return text
    if str(key).startswith("schedule."):
        known = ", ".join(PROTOCOLS)
        return f"{key} belongs to the task's protocol: set task.PROTOCOL.{key}, with PROTOCOL one of {known}."
    guesses = difflib.get_close_matches(str(key), _keys(conf), n=1)
    hint = f"did you mean {guesses[0]!r}?" if guesses else "see them all with 'python run.py --cfg job'."
    return f"unknown setting {str(key)!r}: {hint}"


def _keys(conf: Path) -> list[str]:
    """Every setting of the default run, with dots between its parts."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf)):
        return setting_names(OmegaConf.to_container(compose("config"), resolve=False))


def setting_names(values: Any, prefix: str = "") -> list[str]:
    """The names of all settings and groups in nested mappings, with dots between their parts; lists have none.

    Example:
        >>> setting_names({"data": {"limit": None}, "betas": [0.9]})
        ['data', 'data.limit', 'betas']
    """
    if not isinstance(values, dict):
        return []
    nested = ((f"{prefix}{key}", value) for key, value in values.items())
    return [name for key, value in nested for name in (key, *setting_names(value, f"{key}."))]


def _of_a_protocol(task: dict[str, Any], protocol: str, key: str) -> ConfigError:
    """The error for a task that lacks a protocol's values, or one of them.

    Args:
        task: its settings.
        protocol: the one that is chosen.
        key: the value that was asked for.
    """
    block, others = task.get(protocol), [name for name in PROTOCOLS if task.get(name)]
    if isinstance(block, dict):
        return ConfigError(
            f"setting 'task.{protocol}.{key}' is missing: add {key} to the block {protocol} of the task's YAML."
        )
    limited = ("limit",) if protocol in LIMITED else ()
    keys = ", ".join(f"{name}: …" for name in (*schema.OF_A_PROTOCOL, *limited))
    choice = f", or choose protocol={' or protocol='.join(others)}" if others else ""
    return ConfigError(
        f"task={task.get('name')} has no values for protocol={protocol}: add a line '{protocol}: {{{keys}}}' to its "
        f"YAML{choice}."
    )


def _refusal(error: BaseException | None) -> ConfigError | None:
    """What one of this project's resolvers said of its arguments, where OmegaConf made another error of it."""
    while error is not None and not isinstance(error, ConfigError):
        error = error.__cause__ or error.__context__
    return error


def unusable(error: OmegaConfBaseException, config: DictConfig) -> ConfigError:
    """The error for a setting that refers to one that does not exist, or whose value cannot be computed."""
    raw: Any = OmegaConf.to_container(config, resolve=False)
    task, model = ({} if not isinstance(raw.get(group), dict) else raw[group] for group in ("task", "model"))
    schema.check_protocol(raw.get("protocol"), task)
    if refused := _refusal(error):
        return refused
    if unknown := re.search(r"(?:'|access )lrs\.(\w+)", str(error)):
        return ConfigError(
            f"experiment=tuned has no learning rate for optimizer={unknown[1]}: take the command with the best rates "
            f"from 'python -m tmsgd_bench best --task {task.get('name')}', or add one with lrs.{unknown[1]}=0.1, say."
        )
    missing = re.search(r"'task\.\w+\.(\w+)[\w.]*'", str(error))
    if missing and (missing[1] in (*schema.OF_A_PROTOCOL, "limit")):
        return _of_a_protocol(task, str(raw.get("protocol")), missing[1])
    # A model's YAML refers to options in the protocols of its task; other tasks' protocols lack them.
    if missing and not any(missing[1] in (task.get(name) or ()) for name in PROTOCOLS):
        return schema.other_model(model.get("name"), task.get("name"))
    return ConfigError(_refers_to_nothing(error))


def _refers_to_nothing(error: OmegaConfBaseException) -> str:
    return f"setting {str(error.full_key)!r} cannot be used ({one_line(error).rstrip('.')}): correct what it refers to."
