"""Checks that a finished run's folder is as it was published.

A run is *damaged* if a file differs from its checksum, if a value is not of its kind, if the digits of its name are not
those of its settings, or if its final or best metric is not that of its history. No number comes from a damaged run.
"""

from __future__ import annotations

import copy
import errno
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml

from tmsgd_bench import escaping, identity, manifest
from tmsgd_bench.files import os_reason
from tmsgd_bench.results import packed
from tmsgd_bench.results.record import CONFIG, ENVIRONMENT, HISTORY, KINDS, MEASURED, NUMBER, PREFIX, REQUIRED, RESULT
from tmsgd_bench.results.status import Status
from tmsgd_bench.version import BENCHMARK_VERSION

Fault = Literal["damaged", "unsealed", "unreadable", "outdated", "renamed"]
PARSED = 2048
"""So many files are kept as they were parsed: a report, or a check of all that is published, reads each repeatedly."""
AGAIN = "restore it from a copy, or train it again with the same command and force=true"
REMEDIES: dict[Fault, str] = {
    "damaged": AGAIN,
    "unsealed": AGAIN,
    "unreadable": "mend the permissions of its files, or the disk, and try again",
    "outdated": "migrate its store with 'python scripts/migrate_evidence.py STORE --out FILE', or train it again",
    "renamed": "give its folder that name; delete it if the run is there under its name already",
}


@dataclass(frozen=True)
class Problem:
    """What is wrong with a run's folder.

    Args:
        reason: a phrase without a colon.
        fault: damaged; *unsealed*, in itself whole, but without a manifest; *unreadable*, perhaps for a moment only;
            *outdated*, of a benchmark version whose rule for identities was another; *renamed*, under a name that is
            not its own, so that it could count twice.
    """

    reason: str
    fault: Fault = "damaged"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return REMEDIES[self.fault]

    def __str__(self) -> str:
        return f"{self.reason}: {self.remedy}"


@dataclass(frozen=True)
class Evidence:
    """What a finished run's folder says.

    Args:
        settings: of ``config.yaml``; empty if they are not those that the run's name stands for.
        environment: of ``environment.json``.
        result: of ``result.json``; empty if there is a problem.
        measured: of ``measured_later.json``; empty without one.
        problem: why nothing of this may be used, or None.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    problem: Problem | None = None


class Damaged(Exception):
    """A run's folder is not what was published there; the message is a phrase that says why."""

    fault: Fault = "damaged"


class Outdated(Damaged):
    """A run is of a benchmark version whose rule for identities was another."""

    fault: Fault = "outdated"


class Renamed(Damaged):
    """A run's folder has another name than the run."""

    fault: Fault = "renamed"


# ---------------------------------------------------------------- reading


YAML: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser, six times as fast as the one in Python; PyYAML can be built without it."""
DEPTH = 50
"""So many levels a file of settings may have at most; ours have fewer than ten."""


def _plain_yaml(data: bytes) -> Any:
    """The value in a YAML document of plain values alone.

    Tags could run code, with aliases a short file could become a huge value, and thousands of levels end a process.
    """
    depth = 0
    for event in yaml.parse(data, Loader=YAML):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None or depth > DEPTH:
            raise yaml.YAMLError("an alias, a tag, or too many levels")
    return yaml.load(data, Loader=YAML)


def read_settings(folder: Path) -> dict[str, Any]:
    """The settings in ``config.yaml`` of a finished or unfinished run, each of its kind.

    Raises:
        Damaged: they cannot be read as settings.
        OSError: the file cannot be read.
    """
    return copy.deepcopy(_parsed_settings(read_bytes(folder, CONFIG)))


def settings_of_name(folder: Path) -> dict[str, Any]:
    """The settings of a finished or unfinished run, which are those that its folder's name stands for.

    Raises:
        Damaged: they are not, or cannot be read as settings.
        OSError: the file cannot be read.
    """
    settings = read_settings(folder)
    _check_identity(settings, folder.name)
    return settings


@lru_cache(maxsize=PARSED)
def _parsed_settings(data: bytes) -> dict[str, Any]:
    try:
        values = _plain_yaml(data)
    except Exception as error:  # PyYAML has many kinds for values that it cannot convert
        raise Damaged(f"{CONFIG} is not plain YAML") from error
    return _check_kinds(CONFIG, values)


def read_values(folder: Path, name: str) -> dict[str, Any]:
    """The values in a JSON file of a run, each of its kind.

    Args:
        name: ``result.json``, ``environment.json`` or ``measured_later.json``.

    Raises:
        Damaged: they cannot be read, or one is not of its kind.
        OSError: the file cannot be read.
    """
    try:
        values = json.loads(read_bytes(folder, name))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{name} is not JSON") from error
    return _check_kinds(name, values)


def read_history(folder: Path) -> pd.DataFrame:
    """The history of a finished run: a row for each epoch, numbers alone.

    Raises:
        Damaged: it cannot be read as such.
        OSError: the file cannot be read.
    """
    return _parsed_history(read_bytes(folder, HISTORY)).copy()


@lru_cache(maxsize=PARSED)
def _parsed_history(data: bytes) -> pd.DataFrame:
    import pyarrow as pa  # which takes half a second
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        history = table.to_pandas(use_threads=False)  # on small files threads cost more time than they save
    except Exception as error:  # pyarrow has many kinds for a damaged file
        raise Damaged(f"{HISTORY} is not Parquet") from error
    if not history.columns.is_unique or any(kind.kind not in "iufb" for kind in history.dtypes):
        raise Damaged(f"{HISTORY} has a column that is not of numbers, or two of one name")
    if len(history) and ("epoch" not in history or list(history["epoch"]) != list(range(len(history)))):
        raise Damaged(f"{HISTORY} has not one row for each epoch")
    return history


def _check_kinds(name: str, values: Any) -> dict[str, Any]:
    """The values of a file, if each is of its kind.

    Args:
        name: of the file, a key of KINDS.

    Raises:
        Damaged: one is not.
    """
    if not isinstance(values, dict):
        raise Damaged(f"{name} is not a mapping")
    for key, kind in KINDS[name].items():
        if not kind.holds(_at(values, key)):
            raise Damaged(f"{key} of {name} is not {kind.words}")
    return values


def _at(values: Mapping[str, Any], dotted: str) -> Any:
    """The value of a dotted key; None if it is not there."""
    value: Any = values
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def has(folder: Path, name: str) -> bool:
    """Whether a run has a file of this name, in its folder or packed."""
    contents = packed.run_at(folder)
    return (folder / name).exists() if contents is None else name in contents


def read_bytes(folder: Path, name: str) -> bytes:
    """The contents of a run's file, in its folder or packed.

    Raises:
        Damaged: it is missing, or no file but a folder, say.
        OSError: it cannot be read.
    """
    if (contents := packed.run_at(folder)) is not None:
        if name not in contents:
            raise Damaged(f"{name} is missing")
        return contents[name]
    path = folder / name
    try:
        if not path.is_file():  # asked first: opening a pipe would wait for ever
            raise Damaged(f"{name} is missing" if not path.is_symlink() and not path.exists() else f"{name} is no file")
        return path.read_bytes()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Damaged(f"{name} is no file") from error
        raise


# ---------------------------------------------------------------- checks


def examine(folder: Path) -> Evidence:
    """What a finished run's folder says, and what is wrong with it if anything is."""
    settings: dict[str, Any] = {}
    try:
        settings, wrong = _named_settings(folder)
        sealed = has(folder, manifest.NAME)
        if sealed:
            _check_sums(folder)
        if wrong:
            raise wrong
        result, environment = read_values(folder, RESULT), read_values(folder, ENVIRONMENT)
        _check_result(result, settings, read_history(folder))
        measured = _measured(folder) if sealed else {}
    except OSError as error:
        return Evidence(settings, problem=Problem(f"it cannot be read ({os_reason(error)})", "unreadable"))
    except Damaged as error:
        return Evidence(settings, problem=Problem(str(error), error.fault))
    if not sealed:
        return Evidence(settings, problem=Problem(f"{manifest.NAME} is missing", "unsealed"))
    return Evidence(settings, environment, result, measured)


def _measured(folder: Path) -> dict[str, Any]:
    """What was measured afterwards; empty if nothing was that counts."""
    if MEASURED not in named_files(folder):
        return {}
    values = read_values(folder, MEASURED)
    check_measured(values)
    return values


def named_files(folder: Path) -> dict[str, dict[str, Any]]:
    """What a run's manifest says of each file, in its folder or packed; empty if it is missing or damaged."""
    contents = packed.run_at(folder)
    return (manifest.read(folder) if contents is None else manifest.parse(contents.get(manifest.NAME, b""))) or {}


def check_measured(values: Any) -> None:
    """Check what ``measured_later.json`` holds, or is to hold.

    Raises:
        Damaged: a value is not of its kind, or the primary metric has no finite one.
    """
    _check_kinds(MEASURED, values)
    name = values["primary"]["name"]
    if not NUMBER.holds(values["metrics"].get(name)):
        raise Damaged(f"{MEASURED} has no finite number for {escaping.plain(name)}")


def _check_sums(folder: Path) -> None:
    """Compare the small files with their checksums; the others are compared when they are used."""
    named = named_files(folder)
    optional = [name for name in (PREFIX, MEASURED) if name in named or (name == PREFIX and has(folder, name))]
    for name in (manifest.NAME, *REQUIRED):
        read_bytes(folder, name)  # tells a file that cannot be read now from one that is damaged
    names = (*REQUIRED, *optional)
    if packed.run_at(folder) is None:
        wrong = manifest.problems(folder, names)
    else:
        differing = [name for name in names if manifest.entry(read_bytes(folder, name)) != named.get(name)]
        wrong = [f"{name} differs from its checksum" for name in differing]
    if wrong:
        raise Damaged("; ".join(wrong))


def _named_settings(folder: Path) -> tuple[dict[str, Any], Damaged | None]:
    """The settings if they are those that the folder's name stands for, or why there are none."""
    try:
        return settings_of_name(folder), None
    except Damaged as error:
        return {}, error


def _check_identity(settings: Mapping[str, Any], name: str) -> None:
    try:
        expected = identity.run_id(settings)
    except (TypeError, ValueError, RecursionError) as error:
        raise Damaged(f"{CONFIG} holds more than plain values") from error
    if name == expected:
        return
    if name.endswith(expected[-identity.DIGITS - 1 :]):
        raise Renamed(f"the run's name is {escaping.plain(expected)}")
    version = settings["benchmark_version"]
    if version < BENCHMARK_VERSION:
        raise Outdated(f"it is of benchmark version {version}, which named runs by another rule")
    raise Damaged(f"the settings in {CONFIG} are not those of the run's name")


def _check_result(result: Mapping[str, Any], settings: Mapping[str, Any], history: pd.DataFrame) -> None:
    """What the result says of the run's end must be what its history ends with."""
    done = result["status"] == Status.DONE
    if done and len(history) != settings["epochs"]:
        raise Damaged(f"{HISTORY} has {len(history)} epochs of {settings['epochs']}")
    expected = {"epochs_done": len(history), **_primary(result, history if done else history.iloc[:0])}
    if result["final"] is None and result.get("best") is None:
        del expected["best"]  # a last epoch without the metric hides those before it
    for key, value in expected.items():
        if result.get(key) != value:
            raise Damaged(f"{key} of {RESULT} differs from {HISTORY}")


def _primary(result: Mapping[str, Any], history: pd.DataFrame) -> dict[str, float | None]:
    """The final and the best value of the primary metric in a history.

    Raises:
        Damaged: the best value is not at the epoch that the result names.
    """
    name, epoch = result["metric"], result.get("best_epoch")
    column = history[name] if name in history else pd.Series(dtype=float)
    values = column.to_numpy(dtype=float, na_value=math.nan)
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {"final": None, "best": None}
    best = float(finite.max() if result["direction"] == "max" else finite.min())
    if epoch is not None and (epoch >= len(values) or values[epoch] != best):
        raise Damaged(f"best_epoch of {RESULT} differs from {HISTORY}")
    final = float(values[-1])
    return {"final": final if math.isfinite(final) else None, "best": best}
