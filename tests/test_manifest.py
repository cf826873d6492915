"""Manifests notice every change of a file that they name, and never name one outside their folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tmsgd_bench import files, manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b.bin").write_bytes(b"\0\1\2")
    manifest.write(tmp_path, ["a.txt", "below/b.bin"])
    return tmp_path


def test_an_untouched_folder_has_no_problems(folder: Path) -> None:
    assert manifest.problems(folder) == []


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_noticed(folder: Path, bit: int) -> None:
    path = folder / "below" / "b.bin"
    data = bytearray(path.read_bytes())
    data[1] ^= 1 << bit
    path.write_bytes(data)
    assert manifest.problems(folder) == ["below/b.bin differs from its checksum"]


def test_missing_and_unnamed_files_are_problems(folder: Path) -> None:
    (folder / "a.txt").unlink()
    assert manifest.problems(folder, ["a.txt", "new"]) == ["a.txt is missing", "new is not in manifest.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}', '{"files": {"../x": {"sha256": "", "bytes": 0}}}'])
def test_a_damaged_manifest_is_a_problem(folder: Path, text: str) -> None:
    files.write_text(folder / manifest.NAME, text)
    assert manifest.problems(folder) == ["manifest.json is damaged"]


def test_no_manifest_is_a_problem(tmp_path: Path) -> None:
    assert manifest.problems(tmp_path) == ["manifest.json is missing"]
