"""Runs of benchmark version 1 become runs of version 2: other names and settings, the same results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tmsgd_bench import identity
from tmsgd_bench.engine.prefix import trunk_key
from tmsgd_bench.engine.spec import RunSpec
from tmsgd_bench.results import packed, packing, store
from tmsgd_bench.results.store import read_runs

WriteRun = Callable[..., Path]
TASKS = ("ic", "tc", "fkpd", "ig", "seg")


@pytest.fixture
def migration(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("migrate_evidence")


@pytest.fixture
def write_old(write_run: WriteRun) -> WriteRun:
    """A function that writes a run as version 1 wrote it, named by version 1's rule."""

    def write(root: Path, optimizer: str = "sgd", seed: int = 0, shared: bool = False, **changes: Any) -> Path:
        options = {"_target_": "torch.optim.SGD" if optimizer == "sgd" else "tmsgd_bench.optim.TMSGD"}
        task = {"name": "tc", "dataset": "r8", "tokens": 32, **changes.pop("task", {})}
        new = write_run(root, optimizer, seed, task=task, options=options, **changes)
        settings = yaml.safe_load((new / store.CONFIG).read_text())
        settings["benchmark_version"] = 1
        if not settings["tf32"]:
            del settings["tf32"]
        hashed = {key: value for key, value in settings.items() if key != "protocols"}
        hashed["optimizer"] = {key: value for key, value in settings["optimizer"].items() if key != "label"}
        digest = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()
        old = new.rename(new.with_name(f"{new.name[: -identity.DIGITS]}{digest[: identity.DIGITS]}"))
        (old / store.CONFIG).write_text(yaml.safe_dump({**settings, "setting": "of seeds"}, sort_keys=False))
        if shared:
            _note_prefix(old)
        store.seal(old)
        return old

    return write


def _note_prefix(run: Path) -> None:
    """As if the run had trained a trunk."""
    origin = {"trunk": "0123456789abcdef", "epochs": 2, "saved": 0, "trained_by": {run.name: 2}}
    (run / store.PREFIX).write_text(json.dumps(origin))
    result = json.loads((run / store.RESULT).read_text())
    (run / store.RESULT).write_text(json.dumps({**result, "prefix": origin}))


def test_settings_names_and_references_are_new_and_all_else_is_as_it_was(
    tmp_path: Path, write_old: WriteRun, migration: ModuleType
) -> None:
    old = {write_old(tmp_path / "old", name, seed, shared=True) for name in ("sgd", "tmsgd") for seed in range(2)}
    assert migration.main([str(tmp_path / "old"), "--out", str(tmp_path / "new.parquet")]) == 0
    runs = read_runs(tmp_path / "new.parquet")
    assert set(runs["status"]) == {"done"} and set(runs["benchmark_version"]) == {2}
    for before in old:
        start = before.name[: -identity.DIGITS]
        (run_id,) = (name for name in runs["run_id"] if name.startswith(start))
        after = packed.read(tmp_path / "new.parquet")[run_id]
        settings = yaml.safe_load(after[store.CONFIG])
        assert settings["tf32"] is False and "setting" not in settings
        same = (store.HISTORY, store.ENVIRONMENT)
        assert [after[name] for name in same] == [(before / name).read_bytes() for name in same]
        _check_references(before, after, run_id)


def _check_references(before: Path, after: packed.Files, run_id: str) -> None:
    settings = yaml.safe_load(after[store.CONFIG])
    del settings["benchmark_version"]
    key = trunk_key(RunSpec(**settings))
    origin = json.loads(after[store.PREFIX])
    assert key is not None and origin["trunk"] == key[:16] and origin["trained_by"] == {run_id: 2}
    result = json.loads(after[store.RESULT])
    assert result.pop("prefix") == origin
    assert result == {k: v for k, v in json.loads((before / store.RESULT).read_text()).items() if k != "prefix"}


def test_runs_of_version_2_are_passed_on(tmp_path: Path, write_old: WriteRun, migration: ModuleType) -> None:
    """So the second time nothing changes, from folders as from a packed file, and also in place."""
    write_old(tmp_path / "old")
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    for source, out in ((tmp_path / "old", first), (first, second), (first, first)):
        assert migration.main([str(source), "--out", str(out)]) == 0
    packing.unpack(first, tmp_path / "folders")
    assert migration.main([str(tmp_path / "folders"), "--out", str(first)]) == 0
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("task", TASKS)
def test_every_task_evaluates_on_what_it_did(
    tmp_path: Path, write_old: WriteRun, migration: ModuleType, task: str
) -> None:
    write_old(tmp_path / "old", task={"name": task})
    assert migration.main([str(tmp_path / "old"), "--out", str(tmp_path / "new.parquet")]) == 0
    assert list(read_runs(tmp_path / "new.parquet")["split"]) == ["test"]


@pytest.mark.parametrize(("old", "new"), [("valid", "validation"), ("test", "test")])
def test_renamed_values_get_their_new_name(
    tmp_path: Path, write_old: WriteRun, migration: ModuleType, old: str, new: str
) -> None:
    write_old(tmp_path / "old", task={"name": "ctr", "evaluate_on": old})
    assert migration.main([str(tmp_path / "old"), "--out", str(tmp_path / "new.parquet")]) == 0
    assert list(read_runs(tmp_path / "new.parquet")["split"]) == [new]


def test_tf32_stays_on_where_it_was(tmp_path: Path, write_old: WriteRun, migration: ModuleType) -> None:
    write_old(tmp_path / "old", tf32=True)
    assert migration.main([str(tmp_path / "old"), "--out", str(tmp_path / "new.parquet")]) == 0
    ((_, contents),) = packed.read(tmp_path / "new.parquet").items()
    assert yaml.safe_load(contents[store.CONFIG])["tf32"] is True


@pytest.mark.parametrize("fault", ["another task", "edited", "renamed", "lacks a run"])
def test_what_cannot_be_migrated_is_named_and_nothing_is_written(
    tmp_path: Path, write_old: WriteRun, migration: ModuleType, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_old(tmp_path / "old", seed=1)
    run = write_old(tmp_path / "old", shared=True, **({"task": {"name": "od"}} if fault == "another task" else {}))
    if fault == "edited":
        (run / store.RESULT).write_text((run / store.RESULT).read_text().replace("90.0", "99.0"))
    elif fault == "renamed":
        run = run.rename(run.with_name(f"{run.name[: -identity.DIGITS]}{'0' * identity.DIGITS}"))
    elif fault == "lacks a run":
        origin = json.loads((run / store.PREFIX).read_text())
        (run / store.PREFIX).write_text(json.dumps({**origin, "trained_by": {"tc-gone-seed0-0123456789": 2}}))
        store.seal(run)
    assert migration.main([str(tmp_path / "old"), "--out", str(tmp_path / "new.parquet")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and ("tc-gone-seed0-0123456789" if fault == "lacks a run" else run.name) in said
    assert not (tmp_path / "new.parquet").exists()


def test_a_run_of_a_version_that_it_does_not_know_is_refused(
    tmp_path: Path, write_run: WriteRun, migration: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "newer")
    settings = yaml.safe_load((run / store.CONFIG).read_text())
    (run / store.CONFIG).write_text(yaml.safe_dump({**settings, "benchmark_version": 3}))
    store.seal(run)
    assert migration.main([str(tmp_path / "newer"), "--out", str(tmp_path / "new.parquet")]) == 2
    assert run.name in (said := capsys.readouterr().err) and "version 3" in said
    assert not (tmp_path / "new.parquet").exists()


def test_the_file_to_write_must_be_named_as_one(
    tmp_path: Path, write_old: WriteRun, migration: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    write_old(tmp_path / "old")
    assert migration.main([str(tmp_path / "old"), "--out", str(tmp_path / "new")]) == 2
    assert ".parquet" in capsys.readouterr().err and not (tmp_path / "new").exists()
