"""Packed runs: the very bytes of their files, or one sentence that says what is wrong with the packed file."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmsgd_bench import cli
from tmsgd_bench.errors import StoreError
from tmsgd_bench.results import packed, packing
from tmsgd_bench.results.store import read_runs

WriteRun = Callable[..., Path]
NAMES = st.text("abcdefghij0123456789-", min_size=1)
FILES = st.dictionaries(st.sampled_from(["config.yaml", "result.json"]), st.text().map(str.encode), min_size=1)
HISTORIES = st.fixed_dictionaries({"history.parquet": st.binary()})
RUNS = st.dictionaries(NAMES, st.builds(lambda texts, history: {**texts, **history}, FILES, HISTORIES), min_size=1)


@pytest.fixture
def path(tmp_path: Path, write_run: WriteRun) -> Path:
    """A packed file with two runs."""
    for seed in range(2):
        write_run(tmp_path / "store", seed=seed)
    packed.write(tmp_path / packed.NAME, packing.read([tmp_path / "store"]))
    return tmp_path / packed.NAME


@given(runs=st.dictionaries(NAMES, st.builds(lambda one, other: {**one, **other}, FILES, HISTORIES), min_size=1))
def test_files_come_back_as_they_were(
    runs: dict[str, dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("packed") / packed.NAME
    packed.write(path, runs)
    assert packed.read(path) == runs and list(packed.read(path)) == sorted(runs)


def test_the_same_runs_give_the_same_bytes(path: Path, tmp_path: Path) -> None:
    runs = packed.read(path)
    packed.write(tmp_path / "again.parquet", dict(reversed(runs.items())))
    assert (tmp_path / "again.parquet").read_bytes() == path.read_bytes()


def test_of_a_file_with_a_flipped_bit_either_all_runs_are_read_or_none(path: Path) -> None:
    data, whole, rng = path.read_bytes(), packed.read(path), random.Random(0)
    refused = 0
    for place in rng.sample(range(8 * len(data)), 60):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        packed._read.cache_clear()
        try:
            assert packed.read(path) == whole
        except StoreError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
    assert refused > 30


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_cut_file_is_named_by_a_command(path: Path, kept: float, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert cli.main(["runs", "--results", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(path) in said and "restore it from a copy" in said


def test_an_edited_file_and_one_of_another_kind_are_refused(path: Path) -> None:
    frame = pd.read_parquet(path)
    frame.to_parquet(path)
    with pytest.raises(StoreError, match="no packed runs"):
        packed.read(path)


@pytest.mark.parametrize("name", ["../outside", "/outside", ".hidden", "a/b", ""])
def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    for number, runs in enumerate(({name: {"config.yaml": b""}}, {"run": {f"{name or '/'}": b""}})):
        path = tmp_path / f"{number}.parquet"
        packed.write(path, runs)
        with pytest.raises(StoreError, match="leads out"):
            packed.read(path)


def test_a_full_disk_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match=f"cannot write {path} .No space left"):
        packed.write(path, {})
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize("place", ["file", "folder", "both"])
def test_packed_runs_are_read_like_folders(path: Path, place: str) -> None:
    """All but where they are; beside folders of the same runs each counts once."""
    root = {"file": path, "folder": path.parent, "both": path.parent / "store"}[place]
    if place == "both":
        path.rename(root / packed.NAME)
    folders = read_runs(path.parent / "store").drop(columns="folder")
    pd.testing.assert_frame_equal(read_runs(root).drop(columns="folder"), folders)


@pytest.mark.parametrize("wrong", ["twice", "no name", "numbers for names"])
def test_a_file_of_another_shape_is_refused_in_one_sentence(path: Path, wrong: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    metadata = table.schema.metadata
    if wrong == "twice":
        table = pa.concat_tables([table, table.slice(0, 1)])
    else:
        names = pa.array([None] * len(table), pa.string()) if wrong == "no name" else pa.array(range(len(table)))
        table = table.set_column(table.column_names.index(packed.RUN_ID), packed.RUN_ID, names)
    pq.write_table(table.replace_schema_metadata(metadata), path)
    with pytest.raises(StoreError, match=r"runs\.parquet is damaged"):
        packed.read(path)
