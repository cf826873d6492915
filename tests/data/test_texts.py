"""Large texts: measured once, the same however they are compressed, and used under either of their names."""

from __future__ import annotations

import gzip
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tmsgd_bench.data import texts
from tmsgd_bench.data.catalog import Dataset, find
from tmsgd_bench.data.sources import DataFile
from tmsgd_bench.data.texts import Text, measure, open_text
from tmsgd_bench.errors import DataError

LINES = b"id,click\n1,0\n2,1\n"


def dataset(lines: int = 3) -> Dataset:
    """Avazu's entry for a file of so many lines."""
    return replace(find("avazu"), files=(replace(find("avazu").files[0], lines=lines),))


def put(root: Path, name: str, contents: bytes = LINES) -> Path:
    path = root / "avazu" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(contents) if name.endswith(".gz") else contents)
    return path


@pytest.mark.parametrize("name", ["train.gz", "train.csv"])
@pytest.mark.parametrize(("contents", "lines"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n\n", 2)])
def test_a_text_is_measured_however_it_is_compressed(tmp_path: Path, name: str, contents: bytes, lines: int) -> None:
    assert measure(put(tmp_path, name, contents)) == Text(hashlib.sha256(contents).hexdigest(), lines)


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_the_size_of_what_is_read_at_once_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(texts, "CHUNK", chunk)
    assert measure(put(tmp_path, "train.gz")) == Text(hashlib.sha256(LINES).hexdigest(), 3)


def test_gzip_is_told_from_its_bytes_and_not_from_its_name(tmp_path: Path) -> None:
    for packed in (LINES, gzip.compress(LINES), gzip.compress(LINES[:5]) + gzip.compress(LINES[5:])):
        path = put(tmp_path, "train.csv", packed)
        with path.open("rb") as raw, open_text(raw) as file:
            assert file.read() == LINES


def test_a_text_is_read_again_only_if_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its size or its time; what was measured lies beside the data set's folder."""
    monkeypatch.setattr(texts, "RECORDED_FROM", 0)
    path, read = put(tmp_path, "train.csv"), []
    own = texts._measure
    monkeypatch.setattr(texts, "_measure", lambda path: read.append(path) or own(path))
    first = measure(path)
    assert measure(path) == first and len(read) == 1
    assert [p.name for p in (tmp_path / ".cache").iterdir()] == ["avazu-train.csv.json"]
    path.write_bytes(LINES + b"3,0\n")
    assert measure(path).lines == 4 and len(read) == 2
    os.utime(path, ns=(0, 0))
    assert measure(path).lines == 4 and len(read) == 3


def test_of_a_small_text_nothing_is_left_behind(tmp_path: Path) -> None:
    assert measure(put(tmp_path, "train.csv")).lines == 3
    assert [path.name for path in tmp_path.iterdir()] == ["avazu"]


def test_a_folder_that_may_only_be_read_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "RECORDED_FROM", 0)
    path = put(tmp_path, "train.csv")
    (tmp_path / ".cache").touch()  # in the place of the folder
    assert measure(path).lines == 3


@pytest.mark.parametrize("cut", [slice(None, -4), slice(None, 12), slice(3, None)])
def test_a_damaged_file_is_named(tmp_path: Path, cut: slice) -> None:
    path = put(tmp_path, "train.gz")
    path.write_bytes(b"\x1f\x8b" + path.read_bytes()[2:][cut])
    with pytest.raises(OSError, match="it is damaged or cut off") as raised:
        measure(path)
    assert raised.value.filename == str(path)
    (problem,) = dataset().problems(path.parent)
    assert problem == f"{path} cannot be read (it is damaged or cut off)"
    with pytest.raises(DataError, match=r"train\.gz .*put train\.gz of"):
        dataset().fingerprint(path.parent, "real", verify=False)


# --- a file under one of several names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("present", "used"),
    [
        ([], "train.gz"),
        (["train.gz"], "train.gz"),
        (["train.csv"], "train.csv"),
        (["train.csv", "train.gz"], "train.gz"),
    ],
)
def test_a_file_is_used_under_the_first_name_that_is_there(tmp_path: Path, present: list[str], used: str) -> None:
    for name in present:
        put(tmp_path, name)
    file = DataFile("train.gz", alternatives=("train.csv",))
    assert file.path(tmp_path / "avazu") == tmp_path / "avazu" / used


@pytest.mark.parametrize("name", ["train.gz", "train.csv"])
def test_a_text_of_the_published_length_is_verified_under_either_name(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, name)
    assert dataset().prepare(tmp_path, "real") == path.parent
    assert dataset().problems(path.parent) == []
    (problem,) = dataset(lines=40_428_968).problems(path.parent)
    assert problem == f"{path} has 3 lines in place of 40,428,968"


def test_a_sample_is_refused_with_the_way_to_use_it_all_the_same(tmp_path: Path) -> None:
    path = put(tmp_path, "train.csv")
    with pytest.raises(DataError) as raised:
        find("avazu").verify(path.parent)
    message = str(raised.value)
    for words in (str(path), "3 lines", "40,428,968", "put train.gz of https://www.kaggle", "data.verify=false"):
        assert words in message


def test_a_missing_file_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.gz is missing.*put train\.gz of"):
        find("avazu").prepare(tmp_path, "real")


def test_the_fingerprint_is_that_of_the_text(tmp_path: Path) -> None:
    """The same rows are the same data, compressed or not; other rows are others."""
    found = [dataset().fingerprint(put(tmp_path / n, n).parent, "real", verify=True) for n in ("train.gz", "train.csv")]
    assert found[0] == found[1]
    other = put(tmp_path / "other", "train.csv", LINES.replace(b"1", b"7"))
    assert dataset().fingerprint(other.parent, "real", verify=True) != found[0]
