"""Damaged evidence: every change of a finished run is noticed, named, and kept out of every number."""

from __future__ import annotations

import errno
import json
import math
import random
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tmsgd_bench import files, identity, manifest
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import (
    claim_forms,
    claims,
    comparison,
    evidence,
    export,
    numerical,
    record,
    statistics,
    store,
    table_forms,
    tables,
)
from tmsgd_bench.results.numerical import CLAIMED_ORDER, Numerics
from tmsgd_bench.results.report import charts, content
from tmsgd_bench.results.store import read_runs

WriteRun = Callable[..., Path]
ODD: tuple[Any, ...] = (None, True, -1, 10**30, 1.5, float("nan"), "text", "", [], {}, [1], {"a": 1}, "\ud800")


def status(root: Path) -> dict[str, str]:
    runs = read_runs(root)
    return dict(zip(runs["run_id"], runs["status"], strict=True))


def reason(root: Path) -> str:
    """What is said of the one damaged run of a store."""
    (sentence,) = store.complaints(read_runs(root))
    return sentence


def rewrite(path: Path, key: str, value: Any) -> None:
    """Change one value of a JSON or YAML file by its dotted key."""
    text = path.read_text(encoding="utf-8")
    values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    *parents, last = key.split(".")
    place = values
    for parent in parents:
        place = place[parent]
    place[last] = value
    path.write_text(json.dumps(values) if path.suffix == ".json" else yaml.safe_dump(values), encoding="utf-8")


def measured(distance: float) -> dict[str, Any]:
    """What a tool writes that measures a distance of a finished run."""
    primary = {"name": "distance", "label": "", "unit": "", "direction": "min"}
    return {"metrics": {"distance": distance}, "primary": primary, "measured_with": {"images": 12}}


@pytest.mark.parametrize("name", [*record.REQUIRED, manifest.NAME])
@pytest.mark.parametrize("how", ["empty", "truncated", "flipped", "missing", "a folder", "a loop"])
def test_every_damage_to_a_file_is_named_and_hides_no_other_run(
    tmp_path: Path, write_run: WriteRun, name: str, how: str
) -> None:
    whole, run = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    path = run / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    if how in ("empty", "truncated", "flipped"):
        path.write_bytes({"empty": b"", "truncated": data[: len(data) // 2], "flipped": bytes(data)}[how])
    elif how == "a folder":
        path.mkdir()
    elif how == "a loop":
        path.symlink_to(path)
    assert status(tmp_path) == {whole.name: "done", run.name: "damaged"}
    assert str(run) in reason(tmp_path) and ": " in reason(tmp_path) and "delete" not in reason(tmp_path)
    assert store.RunFolder(tmp_path, run.name).finished() is None


@pytest.mark.parametrize("link", [False, True], ids=["copy", "link"])
def test_a_run_does_not_count_twice_under_two_names(tmp_path: Path, write_run: WriteRun, link: bool) -> None:
    """A copy would be one more seed: it would make differences look surer than they are."""
    run = write_run(tmp_path)
    for name in (f"old-{run.name}", run.name.replace("seed0", "seed1")):
        copy = tmp_path / name
        copy.symlink_to(run) if link else shutil.copytree(run, copy)
        told = (
            f"damaged: {copy}: the run's name is {run.name}: give its folder that name; delete it if the run is there"
        )
        (sentence,) = store.complaints(read_runs(tmp_path))
        assert sentence.startswith(told)
        copy.unlink() if link else shutil.rmtree(copy)
    assert status(tmp_path) == {run.name: "done"}


def test_every_single_flipped_bit_of_the_small_files_is_noticed(tmp_path: Path, write_run: WriteRun) -> None:
    run, rng = write_run(tmp_path), random.Random(0)
    for name in record.REQUIRED:
        data = (run / name).read_bytes()
        for place in rng.sample(range(8 * len(data)), 20):
            flipped = bytearray(data)
            flipped[place // 8] ^= 1 << place % 8
            (run / name).write_bytes(flipped)
            manifest._sha256.cache_clear()
            assert reason(tmp_path).startswith(f"damaged: {run}: {name} differs from its checksum: restore it from")
        (run / name).write_bytes(data)


@pytest.mark.parametrize(
    ("name", "key", "value", "told"),
    [
        (store.CONFIG, "batch_size", 6, "the settings in config.yaml are not those of the run's name"),
        (store.CONFIG, "protocols", 3, "protocols of config.yaml is not a list, each of it text"),
        (store.CONFIG, "seed", 10**30, "seed of config.yaml is not a whole number"),
        (store.CONFIG, "optimizer", "sgd", "optimizer of config.yaml is not a mapping"),
        (store.ENVIRONMENT, "arguments", [1], "arguments of environment.json is not a list, each of it text or null"),
        (store.ENVIRONMENT, "started", 2026, "started of environment.json is not text or null"),
        (store.ENVIRONMENT, "verified_data", "no", "verified_data of environment.json is not true or false or null"),
        (store.RESULT, "final", 99.9, "final of result.json differs from history.parquet"),
        (store.RESULT, "best", 99.9, "best of result.json differs from history.parquet"),
        (store.RESULT, "best_epoch", 2, "best_epoch of result.json differs from history.parquet"),
        (store.RESULT, "epochs_done", 2, "epochs_done of result.json differs from history.parquet"),
        (store.RESULT, "final", float("nan"), "final of result.json is not a finite number or null"),
        (store.RESULT, "status", "failed", "status of result.json is not done or diverged"),
    ],
)
def test_what_does_not_follow_is_damage_also_under_a_fitting_manifest(
    tmp_path: Path, write_run: WriteRun, name: str, key: str, value: Any, told: str
) -> None:
    run = write_run(tmp_path)
    rewrite(run / name, key, value)
    store.seal(run)
    assert reason(tmp_path) == f"damaged: {run}: {told}: {evidence.AGAIN}"


@pytest.mark.parametrize("place", ["done", "abandoned"])
@pytest.mark.parametrize(
    "contents", [b"", b"task:\n  name: t", b"task: [1, {", b"- 1\n", b"\0" * 9, b"task: \xff\xfe\n", b"[" * 1000]
)
def test_a_run_with_unreadable_settings_is_named(
    tmp_path: Path, write_run: WriteRun, contents: bytes, place: str
) -> None:
    """Finished or not; of a finished one nothing is read once its checksum differs."""
    whole, run = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1, status=place)
    (run / store.CONFIG).write_bytes(contents)
    assert status(tmp_path) == {whole.name: "done", run.name: "damaged"}
    assert str(run) in reason(tmp_path) and store.CONFIG in reason(tmp_path)
    seeds = [read_runs(tmp_path)["seed"][number] for number in range(2)]
    assert sum(isinstance(seed, int) for seed in seeds) == 1


def test_a_published_folder_without_a_result_and_a_renamed_one_are_named(tmp_path: Path, write_run: WriteRun) -> None:
    empty, renamed = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1).rename(tmp_path / "mine")
    shutil.rmtree(empty)
    empty.mkdir()
    assert status(tmp_path) == {empty.name: "damaged", renamed.name: "damaged"}


def test_a_run_without_a_manifest_is_damaged(tmp_path: Path, write_run: WriteRun) -> None:
    (write_run(tmp_path) / manifest.NAME).unlink()
    assert "manifest.json is missing: " in reason(tmp_path)


def test_a_run_of_a_version_that_named_runs_otherwise_is_told_how_to_migrate_it(
    tmp_path: Path, write_run: WriteRun
) -> None:
    run = write_run(tmp_path, benchmark_version=1)
    run.rename(run.with_name(f"{run.name[: -identity.DIGITS]}{'0' * identity.DIGITS}"))
    assert "benchmark version 1" in reason(tmp_path) and "migrate_evidence" in reason(tmp_path)


@pytest.mark.parametrize("place", ["done", "abandoned"])
def test_a_run_that_may_not_be_read_hides_no_other_and_is_not_called_lost(
    tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    whole, run = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1, status=place)
    real = Path.is_file

    def is_file(self: Path, **options: Any) -> bool:
        if run in self.parents:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(self, **options)

    monkeypatch.setattr(Path, "is_file", is_file)
    assert status(tmp_path) == {whole.name: "done", run.name: "damaged"}
    assert "it cannot be read (Permission denied)" in reason(tmp_path) and "restore" not in reason(tmp_path)


def test_a_measurement_that_was_cut_short_counts_as_none(
    tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any of its three steps, first or again, the run is whole, with the new number or without one."""
    run, real, left = write_run(tmp_path), files.write_atomically, 0

    def killed(path: Path, write: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        real(path, write)

    for score in (41.5, 42.5):
        for steps in (0, 1, 2, 3):
            left = steps
            with monkeypatch.context() as patch:
                patch.setattr(files, "write_atomically", killed)
                with suppress(KeyboardInterrupt):
                    store.add_measured(run, measured(score))
            (row,) = read_runs(tmp_path).to_dict("records")
            assert row["status"] == "done" and row["final"] in (90.0, 41.5, score)
            assert row["metric"] == ("accuracy" if row["final"] == 90.0 else "distance")
        store.add_measured(run, measured(score))
        assert read_runs(tmp_path)["final"][0] == score
    rewrite(run / record.MEASURED, "primary.unit", "%")
    assert "measured_later.json differs from its checksum" in reason(tmp_path)
    store.seal(run)
    assert read_runs(tmp_path)["unit"][0] == "%"
    rewrite(run / record.MEASURED, "primary.name", "another")
    store.seal(run)
    assert "measured_later.json has no finite number for another" in reason(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": {"distance": math.nan}}, "no finite number for distance"),
        ({"metrics": {}}, "no finite number for distance"),
        ({"metrics": {"distance": "1"}}, "metrics of measured_later.json is not a mapping, each value a finite number"),
        ({"primary": {"name": "distance", "label": "", "unit": ""}}, "primary.direction of"),
    ],
    ids=str,
)
def test_a_measurement_that_could_not_be_used_is_not_written(
    tmp_path: Path, write_run: WriteRun, changes: dict[str, Any], words: str
) -> None:
    """The run counts as before."""
    run = write_run(tmp_path)
    with pytest.raises(StoreError, match=words):
        store.add_measured(run, {**measured(41.5), **changes})
    assert read_runs(tmp_path)["final"][0] == 90.0 and not (run / record.MEASURED).exists()


@pytest.mark.parametrize(
    "line",
    [
        "note: !!python/object/apply:pathlib.Path.touch [PLACE]",
        "note: !!python/object/apply:os.system ['touch PLACE']",
        "note: {_target_: pathlib.Path.touch, _args_: [PLACE]}",
    ],
)
def test_reading_somebody_elses_store_runs_nothing(tmp_path: Path, write_run: WriteRun, line: str) -> None:
    run, place = write_run(tmp_path / "store"), tmp_path / "ran"
    with (run / store.CONFIG).open("a") as file:
        file.write(line.replace("PLACE", str(place)) + "\n")
    store.seal(run)
    use(tmp_path / "store", tmp_path)
    assert status(tmp_path / "store") == {run.name: "damaged"} and not place.exists()


def test_settings_that_would_grow_beyond_all_bounds_are_not_read(tmp_path: Path, write_run: WriteRun) -> None:
    run = write_run(tmp_path)
    names = "abcdefghijklmnopqrstuvwxyz"
    lines = ["a: &a [x, x]", *(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise(names))]
    with (run / store.CONFIG).open("a") as file:
        file.write("\n".join(lines))
    store.seal(run)
    assert "config.yaml is not plain YAML" in reason(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        f"x: {'[' * 600}{']' * 600}",
        f"x:\n  {'- ' * 600}1",
        "x: !!timestamp never",
        "x: !!int ''",
        f"x: {'1:' * 300}1.0",
    ],
    ids=["deep", "deep blocks", "no time", "no number", "no angle"],
)
def test_settings_that_yaml_cannot_hold_are_damaged(tmp_path: Path, write_run: WriteRun, line: str) -> None:
    run = write_run(tmp_path)
    with (run / store.CONFIG).open("a") as file:
        file.write(line)
    store.seal(run)
    assert "config.yaml is not plain YAML" in reason(tmp_path)


# --- anything at all -------------------------------------------------------------------------------------------------


def use(root: Path, folder: Path) -> str:
    """All that the commands make of a store, as text."""
    runs = read_runs(root)
    table = tables.build(runs, "5")
    verdicts = claims.evaluate(runs, Numerics(CLAIMED_ORDER, {}))
    said = [form(table) for form in table_forms.FORMATS.values()]
    said += [form(verdicts) for form in claim_forms.FORMATS.values()]
    said += [form(groups) for form in comparison.FORMATS.values() if (groups := comparison.build(runs))]
    said += [export.tidy(runs).to_csv(), export.histories(runs).to_csv()]
    content.evidence(runs, folder)
    said += [str(section.table) for section in content.sections(runs, folder)]
    return "\n".join(said)


def numbers(text: str) -> set[str]:
    """Every number with decimals in a text."""
    return set(re.findall(r"\d+\.\d+", text))


def mutate(run: Path, rng: random.Random) -> None:
    """Change bytes of a run, or one value of it under a fitting manifest."""
    path = run / rng.choice([*record.REQUIRED, manifest.NAME])
    if path.name == manifest.NAME or rng.random() < 0.4:
        data = bytearray(path.read_bytes())
        start = rng.randrange(len(data))
        data[start : start + rng.choice((0, 1, 9))] = rng.randbytes(rng.choice((0, 1, 9)))
        path.write_bytes(data[: rng.choice((len(data), start))])
        return
    if path.suffix == ".parquet":
        history = pd.read_parquet(path).astype(float)
        history.loc[rng.randrange(3), rng.choice(list(history))] = rng.choice((-7.25, float("nan"), float("inf")))
        rng.choice((history, history.iloc[1:], history.astype(str), history.drop(columns="epoch"))).to_parquet(path)
    else:
        key = rng.choice(list(record.KINDS[path.name]))
        rewrite(path, key.partition(".")[0] if rng.random() < 0.5 else key, rng.choice(ODD))
    store.seal(run)


def test_whatever_is_done_to_a_run_nothing_breaks_and_no_other_number_is_used(
    tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each of many seeded changes, all that is made of the store holds numbers of undamaged runs alone."""
    monkeypatch.setattr(statistics, "RESAMPLES", 20)
    monkeypatch.setattr(content, "paper", lambda: {"tables": ["5"]})
    monkeypatch.setattr(charts, "of_experiment", lambda *_: iter(()))  # they take the same runs as the tables
    root, rng = tmp_path / "store", random.Random(5)
    for optimizer in ("sgd", "tmsgd"):
        for seed in range(2):
            kept = write_run(root, optimizer, seed, final=90.0 + seed / 8, outcome={"auto_switch": {}, "prefix": {}})
    spare = shutil.copytree(kept, tmp_path / "spare")
    allowed = numbers(use(root, tmp_path))
    shutil.rmtree(kept)
    allowed |= numbers(use(root, tmp_path))
    seen: set[str] = set()
    for _ in range(100):
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(spare, kept)
        manifest._sha256.cache_clear()
        mutate(kept, rng)
        frame = read_runs(root).drop(columns="note").to_json()
        if frame not in seen:  # all else is made of the frame
            seen.add(frame)
            assert numbers(use(root, tmp_path)) <= allowed
    assert len(seen) > 2


def test_numerical_tables_of_the_repository_are_whole() -> None:
    published = Path(__file__).resolve().parents[2] / "results" / "numerics"
    assert manifest.problems(published) == []
    assert numerical.read_numerics(published).problems == {}


def test_a_file_in_the_place_of_a_run_is_named(tmp_path: Path, write_run: WriteRun) -> None:
    run = write_run(tmp_path)
    shutil.rmtree(run)
    run.write_text("no folder")
    assert status(tmp_path) == {run.name: "damaged"}
