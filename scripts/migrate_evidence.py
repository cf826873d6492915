"""Turn finished runs of benchmark version 1 into runs of version 2, with the same results.

    python scripts/migrate_evidence.py STORE... --out FILE
    python -m tmsgd_bench unpack FILE --out results/runs        # if they are to be folders again

A STORE is a folder of runs or a packed file. FILE is a packed file, which is made or added to. Give stores together
whose runs trained epochs for each other.

What was trained stays bit for bit as it is: histories, metrics, digests of weights, environments. A run's settings get
those that version 2 added (``ADDED``), each with the value that version 1 went by, and version 2's names of values
(``RENAMED``). The run's name follows from its settings; ``prefix.json`` and ``result.json`` name other runs and trunks,
and get the new names.

Before, each run is checked: its files against its manifest, its name against its settings by version 1's rule. After,
it is checked as any run is. Runs of version 2 are passed on as they are. If a run is damaged or cannot be migrated
(``RETRAIN``), nothing is written, and each such run is named.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tmsgd_bench import files, identity, manifest, terminal
from tmsgd_bench.engine.prefix import trunk_key
from tmsgd_bench.engine.spec import RunSpec
from tmsgd_bench.errors import BenchError, StoreError
from tmsgd_bench.results import packed, packing
from tmsgd_bench.results.packed import Files
from tmsgd_bench.results.record import CONFIG, PREFIX, REQUIRED, RESULT

OLD, NEW = 1, 2
ADDED: dict[str, dict[str, dict[str, Any]]] = {
    "task.name": {
        "fkpd": {"task.short_side": 250, "task.crop": 224},
        "ig": {"task.evaluation_images": None, "task.label_smoothing": 0.0},
    },
    "model.name": {},
    "optimizer._target_": {},
}
"""Settings that version 2 added, each with the value that version 1 went by: for every task, model and optimizer."""
RENAMED: dict[str, dict[str, dict[Any, Any]]] = {"ctr": {"task.evaluate_on": {"valid": "validation"}}}
"""Values that version 2 renamed, by task and setting."""
RETRAIN = {"od": "version 2 changed RFBNet and average precision, and with them its result: train it again"}
"""Tasks whose runs cannot be migrated, and why."""


class CannotMigrate(Exception):
    """A run cannot be migrated; the message says why."""


# ---------------------------------------------------------------- reading


def read(root: Path) -> dict[str, Files]:
    """The small files of a store's finished runs by their ids, unchecked.

    Raises:
        StoreError: there is no run, or a file cannot be read.
    """
    if file := packed.file_at(root):
        return dict(packed.read(file))
    folders = sorted(path.parent for path in root.glob(f"[!.]*/{RESULT}"))
    if not folders:
        raise StoreError(f"there is no finished run in {root}: name a folder of runs, or a packed file.")
    try:
        return {folder.name: _small_files(folder) for folder in folders}
    except OSError as error:
        raise files.unreadable(root, error) from error


def _small_files(folder: Path) -> Files:
    names = (*packing.EVIDENCE, manifest.NAME)
    return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}


def settings_of(run_id: str, contents: Files) -> dict[str, Any]:
    """The settings of a run of any version.

    Raises:
        CannotMigrate: a file differs from the manifest, or the settings are not those of the run's name.
    """
    named = manifest.parse(contents.get(manifest.NAME, b"")) or {}
    names = sorted({*REQUIRED, *contents} - {manifest.NAME})
    wrong = [name for name in names if name not in contents or manifest.entry(contents[name]) != named.get(name)]
    if wrong:
        raise CannotMigrate(f"it is damaged ({', '.join(wrong)}): restore it from a copy")
    settings = _parsed(contents[CONFIG])
    if settings["benchmark_version"] not in (OLD, NEW):
        raise CannotMigrate(f"it is of benchmark version {settings['benchmark_version']}, not {OLD} or {NEW}")
    if not run_id.endswith(f"-{_identity(settings)[: identity.DIGITS]}"):
        raise CannotMigrate(f"the settings in {CONFIG} are not those of its name: restore it from a copy")
    return settings


def _parsed(config: bytes) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(config)
    except yaml.YAMLError:
        settings = None
    if not isinstance(settings, dict) or "benchmark_version" not in settings:
        raise CannotMigrate(f"{CONFIG} holds no settings of a run: restore it from a copy")
    return settings


def _identity(settings: Mapping[str, Any]) -> str:
    """The identity by the rule of the settings' own version."""
    if settings["benchmark_version"] != OLD:
        return identity.identity(settings)
    hashed = {key: value for key, value in settings.items() if key not in ("setting", "protocols")}
    hashed["optimizer"] = {key: value for key, value in settings["optimizer"].items() if key != "label"}
    if not hashed.get("tf32"):
        hashed.pop("tf32", None)
    return files.digest(hashed)


# ---------------------------------------------------------------- to version 2


def migrated(settings: Mapping[str, Any]) -> RunSpec:
    """The run of version 2 that has the same result as one of version 1.

    Raises:
        CannotMigrate: there is none.
    """
    task = settings["task"]["name"]
    if task in RETRAIN:
        raise CannotMigrate(RETRAIN[task])
    names = {field.name for field in fields(RunSpec)}
    new = json.loads(json.dumps({key: value for key, value in settings.items() if key in names}))
    for setting, values in RENAMED.get(task, {}).items():
        section, key = _place(new, setting)
        if section.get(key) in values:
            section[key] = values[section[key]]
    for chooser, added in ADDED.items():
        section, key = _place(settings, chooser)
        for setting, value in added.get(section[key], {}).items():
            section, key = _place(new, setting)
            section[key] = value
    return RunSpec(**{"tf32": False, **new, "protocols": tuple(new["protocols"])})


def _place(settings: Mapping[str, Any], dotted: str) -> tuple[dict[str, Any], str]:
    """The section that a setting is in, and the setting's key there."""
    section, _, key = dotted.partition(".")
    return settings[section], key


def migrate(runs: Mapping[str, Files]) -> dict[str, Files]:
    """Runs of version 2 in place of those of version 1, by their new ids.

    Args:
        runs: of either version, with all that trained epochs for them.

    Raises:
        StoreError: runs are damaged or cannot be migrated; the message names each.
    """
    specs: dict[str, RunSpec | None] = {}
    problems: dict[str, list[str]] = {}
    for run_id, contents in runs.items():
        try:
            settings = settings_of(run_id, contents)
            specs[run_id] = None if settings["benchmark_version"] == NEW else migrated(settings)
        except CannotMigrate as error:
            problems.setdefault(str(error), []).append(run_id)
    if problems:
        sentences = [f"{', '.join(run_ids)}: {reason}" for reason, run_ids in problems.items()]
        raise StoreError(f"nothing is written; {'; '.join(sentences)}.")
    names = {run_id: spec.run_id if spec else run_id for run_id, spec in specs.items()}
    return {
        names[run_id]: _rewritten(runs[run_id], spec, names) if spec else runs[run_id] for run_id, spec in specs.items()
    }


def _rewritten(contents: Files, spec: RunSpec, names: Mapping[str, str]) -> Files:
    """A run's files with its new settings, and with the new names of runs and trunks.

    Args:
        names: the new id of each run by its old one.
    """
    new = {**contents, CONFIG: files.yaml_text(spec.described).encode()}
    result = json.loads(contents[RESULT])
    if PREFIX in contents:
        new[PREFIX] = _json(_origin(json.loads(contents[PREFIX]), spec, names))
    if result.get("prefix"):
        new[RESULT] = _json({**result, "prefix": _origin(result["prefix"], spec, names)})
    del new[manifest.NAME]
    return {**new, manifest.NAME: manifest.text({name: manifest.entry(data) for name, data in new.items()}).encode()}


def _origin(origin: dict[str, Any], spec: RunSpec, names: Mapping[str, str]) -> dict[str, Any]:
    """Where a run's first epochs came from, by the new names.

    Raises:
        StoreError: one of the runs is not among those that are migrated.
    """
    key, lacking = trunk_key(spec), sorted(set(origin["trained_by"]) - set(names))
    if key is None or lacking:
        lack = f"trained by {lacking[0]}, which is missing: give its store, too" if lacking else "which it cannot have"
        raise StoreError(f"nothing is written: {spec.run_id} has shared epochs, {lack}.")
    trained_by = {names[run_id]: epochs for run_id, epochs in origin["trained_by"].items()}
    return {**origin, "trunk": key[: len(origin["trunk"])], "trained_by": trained_by}


def _json(values: dict[str, Any]) -> bytes:
    return files.json_text(values).encode()


# ---------------------------------------------------------------- command


def write(roots: Sequence[Path], path: Path) -> int:
    """Migrate the runs of stores into a packed file; returns how many runs it holds then.

    Raises:
        ConfigError: the file's name does not say what it is.
        StoreError: a run is damaged, cannot be migrated, or is there already with other files.
    """
    packed.check_name(path)
    runs: dict[str, Files] = {}
    for root in roots:
        for run_id, contents in read(root).items():
            if runs.setdefault(run_id, contents) != contents:
                raise StoreError(f"{run_id} in {root} differs from that of another store: leave one of them out.")
    with tempfile.TemporaryDirectory() as folder:
        new = Path(folder) / packed.NAME
        packed.write(new, migrate(runs))
        return packing.add(path, packing.gathered([new]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Migrate; returns the exit code: 0 fine, 2 nothing was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("stores", type=Path, nargs="+", metavar="STORE", help="a folder of runs, or a packed file")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the packed file to make or to add to")
    options = parser.parse_args(arguments)
    try:
        count = write(options.stores, options.out)
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.out} holds {count} runs.")
    return 0


if __name__ == "__main__":
    sys.exit(terminal.piped(main))
