"""Small files are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tmsgd_bench.errors import StoreError
from tmsgd_bench.files import read_json, unwritable, write_atomically, write_json, write_text, write_texts, write_yaml


def plain(text: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings of plain values, nested, with such keys and texts."""
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=10,
    )
    return st.dictionaries(text, values, max_size=4)


READABLE = st.text(st.characters(categories=["L", "N", "P", "S"]) | st.just(" "), max_size=4)
"""Not control characters: PyYAML writes U+0085 so that it reads it as a space."""


def finite(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and (math.isnan(value) or math.isinf(value)) else value


def full_disk(path: Path) -> None:
    """Write a part, then fail as a full disk does."""
    path.write_text("ha")
    raise OSError(errno.ENOSPC, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_texts_are_written_into_a_folder_that_is_made(tmp_path: Path) -> None:
    texts = {"a.md": "ä\n", "b.csv": ""}
    write_texts(tmp_path / "deep" / "out", texts)
    assert {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "deep" / "out").iterdir()} == texts


def test_texts_that_cannot_be_written_are_told_with_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"file .*another folder\.$"):
        write_texts(tmp_path / "file", {"a": ""})


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for text in ("one", "two"):
        write_atomically(path, lambda temporary, text=text: temporary.write_text(text))  # type: ignore[misc]
        assert path.read_text() == text
    assert names(tmp_path) == ["file"]


def test_the_old_file_stays_while_the_new_one_is_written(tmp_path: Path) -> None:
    """A reader, or a power cut, at any moment finds the one or the other."""
    path = tmp_path / "file"
    path.write_text("old")
    seen: list[str] = []

    def write(temporary: Path) -> None:
        temporary.write_text("ne")
        seen.append(path.read_text())
        temporary.write_text("new")
        seen.append(path.read_text())

    write_atomically(path, write)
    assert seen == ["old", "old"]
    assert path.read_text() == "new"


def test_who_reads_the_old_file_reads_it_to_its_end(tmp_path: Path) -> None:
    """It is replaced as a whole and not overwritten."""
    path = tmp_path / "file"
    path.write_text("old")
    with path.open() as reader:
        write_atomically(path, lambda temporary: temporary.write_text("new"))
        assert reader.read() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("before", ["old", None])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "file"
    if before is not None:
        path.write_text(before)
    with pytest.raises(StoreError, match="No space left on device") as raised:
        write_atomically(path, full_disk)
    assert str(tmp_path) in str(raised.value)
    assert names(tmp_path) == ([] if before is None else ["file"])
    assert before is None or path.read_text() == before


def test_a_disk_that_fills_up_at_the_flush_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems report a full disk only then."""

    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(StoreError):
        write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert names(tmp_path) == ["file"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), KeyboardInterrupt()], ids=repr)
def test_a_writer_that_fails_otherwise_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    """Its own error comes through: ``torch.save`` raises RuntimeError, an interrupt KeyboardInterrupt."""

    def write(temporary: Path) -> None:
        temporary.write_text("ha")
        raise error

    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_that_is_not_there_is_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as raised:
        write_json(tmp_path / "none" / "file", {})
    assert f"cannot write into {tmp_path / 'none'} (No such file or directory)" in str(raised.value)
    assert "results.root=" in str(raised.value)


def test_the_reason_is_told_also_for_an_error_without_a_number(tmp_path: Path) -> None:
    assert "(odd)" in str(unwritable(tmp_path, OSError("odd")))


def test_many_threads_may_write_one_file(tmp_path: Path) -> None:
    """Each replaces it as a whole: what is there in the end is one of what was written."""
    path = tmp_path / "file"
    values = [{"n": n, "text": "x" * 5000} for n in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda value: write_json(path, value), values))
    assert read_json(path) in values
    assert names(tmp_path) == ["file"]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(values=plain(st.text(max_size=4)))
def test_json_comes_back_as_it_was_with_null_for_what_is_not_finite(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "values.json"
    write_json(path, values)
    assert read_json(path) == finite(values)


def test_json_has_null_for_nan_and_infinity_at_any_depth(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": (1.5, math.nan)})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, {"c": None}],
        "d": [1.5, None],
    }


@settings(max_examples=25, deadline=None, derandomize=True)
@given(values=plain(READABLE).map(finite))
def test_yaml_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "values.yaml"
    write_yaml(path, values)
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == values


def test_yaml_keeps_the_order_of_keys(tmp_path: Path) -> None:
    write_yaml(tmp_path / "file", {"z": 1, "a": 2})
    assert (tmp_path / "file").read_text() == "z: 1\na: 2\n"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b'{"status": "do'),
        lambda path: path.write_bytes(b'{"status": "\xff\xfe"}'),
        lambda path: path.write_bytes(b"\0" * 40),
        lambda path: path.write_bytes(b"[1, 2]"),
        lambda path: path.write_bytes(b"null"),
    ],
    ids=["missing", "a folder", "empty", "truncated", "not UTF-8", "zeros", "a list", "null"],
)
def test_a_missing_or_damaged_file_reads_as_none(tmp_path: Path, spoil: Callable[[Path], Any]) -> None:
    spoil(tmp_path / "file.json")
    assert read_json(tmp_path / "file.json") is None


def test_a_folder_in_the_place_of_the_file_is_named_and_stays(tmp_path: Path) -> None:
    (tmp_path / "file" / "below").mkdir(parents=True)
    with pytest.raises(StoreError, match=f"{tmp_path / 'file'} is a folder"):
        write_text(tmp_path / "file", "text")
    assert [path.name for path in tmp_path.rglob("*")] == ["file", "below"]


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match="taken"):
        write_json(tmp_path / "taken/result.json", {})
