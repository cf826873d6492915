"""Click-through rate: text into numbers, the exact AUC, the model, and the task around them."""

from __future__ import annotations

import csv
import gc
import gzip
import hashlib
import io
import itertools
import logging
import math
import os
import re
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from whole_runs import Killed

import tasks
from tasks.ctr import ClickThrough, prepare, text
from tasks.ctr.auc import area_under_curve
from tasks.ctr.model import WideDeep
from tasks.ctr.prepare import RARE, prepared
from tasks.ctr.split import GROUPS, SPLITS, TEN, TEST, TRAIN, VALIDATION, split
from tmsgd_bench import TMSGD
from tmsgd_bench.data.catalog import find
from tmsgd_bench.data.kept import KEPT
from tmsgd_bench.data.synthetic import avazu
from tmsgd_bench.errors import ConfigError, DataError
from tmsgd_bench.seeding import subset
from tmsgd_bench.task import TaskSettings

CONF = Path(__file__).parents[2] / "conf"
CPU = torch.device("cpu")
ROWS = 640
FEW = {name: min(count, 6) for name, count in avazu.VALUES.items()} | {"device_ip": 300, "device_id": 40}
TARGET = "tasks.ctr.model.WideDeep"
SMALL = {"embedding": 3, "hidden": [5, 4]}
STAND_IN = find("avazu").fingerprint(Path(), "synthetic", verify=False)
"""Of contents that are not looked at; :func:`contents` looks."""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A small file's header and rows."""
    path = tmp_path_factory.mktemp("lines") / "train.csv"
    avazu.write_csv(path, ROWS, FEW)
    return path.read_text().splitlines()


@pytest.fixture(scope="module")
def prepared_folder(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> Path:
    """The same as a data set's folder, to be read only."""
    return put(tmp_path_factory.mktemp("prepared"), lines)


@pytest.fixture(scope="module")
def stand_in(synthetic_data: Callable[[str], Path]) -> Path:
    return synthetic_data("avazu")


def put(root: Path, lines: list[str], name: str = "train.csv", end: str = "\n") -> Path:
    """A data set's folder with these lines in a file; gzip if its name says so."""
    folder = root / "avazu"
    folder.mkdir(parents=True, exist_ok=True)
    whole = "".join(f"{line}{end}" for line in lines).encode()
    (folder / name).write_bytes(gzip.compress(whole, 1) if name.endswith(".gz") else whole)
    return folder


def settings(folder: Path, **changes: Any) -> TaskSettings:
    """Those of a small run; ``changes`` replaces some."""
    made = replace(TaskSettings(folder, None, 16, 0, CPU, SMALL, fingerprint=STAND_IN), **changes)
    return replace(made, model={"_target_": TARGET, **made.model})


def contents(folder: Path) -> str:
    """The fingerprint that a run on real data has."""
    return find("avazu").fingerprint(folder, "real", verify=False)


def make(
    folder: Path, min_count: int = 4, hour: str = "value", evaluate_on: str = "test", **changes: Any
) -> ClickThrough:
    torch.manual_seed(0)
    return ClickThrough(settings(folder, **changes), min_count, hour, evaluate_on)


def rows_of(
    folder: Path, name: str, min_count: int = 4, hour: str = "value", **changes: Any
) -> tuple[list[list[int]], list[int]]:
    """A split's ids and clicks."""
    tensors = prepared(settings(folder, **changes), min_count, hour)
    rows = tensors[f"rows {name}"].long()
    columns = [values[rows] for key, values in tensors.items() if key.startswith("field ")]
    starts = tensors["sizes"].cumsum(0) - tensors["sizes"]
    return (torch.stack(columns, dim=1) + starts).tolist(), tensors["click"][rows].tolist()


def contents_of(folder: Path, min_count: int = 4, hour: str = "value", **changes: Any) -> dict[str, list[int]]:
    """Everything that is prepared from a data set."""
    return {name: values.tolist() for name, values in prepared(settings(folder, **changes), min_count, hour).items()}


def sizes_of(folder: Path, min_count: int = 4, hour: str = "value") -> dict[str, int]:
    """How many numbers each field has."""
    tensors = prepared(settings(folder), min_count, hour)
    fields = [key.removeprefix("field ") for key in tensors if key.startswith("field ")]
    return dict(zip(fields, tensors["sizes"].tolist(), strict=True))


# --- the split -----------------------------------------------------------------------------------------------------


def test_of_every_ten_rows_one_is_for_testing_and_one_for_validation() -> None:
    groups = np.sort(split(2 * TEN * GROUPS + 50).reshape(-1, TEN), axis=1)
    assert (groups == [TRAIN] * 8 + [VALIDATION, TEST]).all()


@pytest.mark.parametrize("rows", [0, 1, 7, 10, 999, TEN * GROUPS, TEN * GROUPS + 3])
def test_a_rows_split_does_not_depend_on_the_rows_behind_it(rows: int) -> None:
    member = split(rows)
    assert member.shape == (rows,) and member.dtype == np.uint8
    assert (member == split(TEN * GROUPS + 77)[:rows]).all()


def test_the_split_is_the_one_that_published_runs_have() -> None:
    """If this fails, runs from before are on other rows."""
    digest = hashlib.sha256(split(2 * TEN * GROUPS + 77).tobytes()).hexdigest()
    assert digest == "0836949ab1e167f0c2de6251ae5ba43b3633d843d2844d2cba243fb3ce9cd360"


def test_every_place_of_ten_is_drawn_equally_often() -> None:
    """Within four standard errors, for both splits and for how far they are apart."""
    member = split(TEN * GROUPS).reshape(GROUPS, TEN)
    validation, test = ((member == number).argmax(axis=1) for number in (VALIDATION, TEST))
    for places, kinds in ((validation, 10), (test, 10), ((validation - test) % 10 - 1, 9)):
        counts = np.bincount(places, minlength=kinds)
        assert (abs(counts - GROUPS / kinds) < 4 * math.sqrt(GROUPS / kinds)).all()


# --- text into numbers ---------------------------------------------------------------------------------------------


def reference(
    lines: list[str], min_count: int, hour: str = "value"
) -> tuple[dict[str, list[dict[str, int]]], list[int]]:
    """Every split's rows as numbers, and how many numbers each field has, by Python's own means: in each field, the
    values that are frequent in the training split have the numbers from 1 on, in their sorted order. Values of eight
    characters are sorted from the last character to the first."""
    rows = [_with_parts_of_the_hour(row, hour) for row in csv.DictReader(lines)]
    member = split(len(rows))
    names = [name for name in rows[0] if name not in ("id", "click")]
    order = {name: (lambda value: value[::-1]) if name in text.HEXADECIMAL else int for name in names}
    numbers = {}
    for name in names:
        counts = Counter(row[name] for row, own in zip(rows, member, strict=True) if own == TRAIN)
        frequent = sorted((value for value, count in counts.items() if count >= min_count), key=order[name])
        numbers[name] = {value: 1 + place for place, value in enumerate(frequent)}
    numbered = [
        {name: numbers[name].get(row[name], RARE) for name in names} | {"click": int(row["click"])} for row in rows
    ]
    splits = {name: [numbered[k] for k in np.flatnonzero(member == place)] for place, name in enumerate(SPLITS)}
    return splits, [1 + len(numbers[name]) for name in names]


def _with_parts_of_the_hour(row: dict[str, str], hour: str) -> dict[str, str]:
    if hour == "value":
        return row
    time = datetime.strptime(row["hour"], "%y%m%d%H")
    parts = {"hour_of_day": str(time.hour), "weekday": str(time.weekday())}
    return parts | {name: value for name, value in row.items() if name != "hour"}


@pytest.mark.parametrize("hour", ["value", "split"])
@pytest.mark.parametrize("min_count", [1, 2, 4, 9, 10_000])
def test_numbers_stand_for_the_values_of_the_file(
    prepared_folder: Path, lines: list[str], min_count: int, hour: str
) -> None:
    """Rows in their order; a field's numbers follow those of the field before; its first stands for all rare values."""
    expected, sizes = reference(lines, min_count, hour)
    assert list(sizes_of(prepared_folder, min_count, hour).values()) == sizes
    starts = np.cumsum(sizes) - sizes
    for name in SPLITS:
        ids, clicks = rows_of(prepared_folder, name, min_count=min_count, hour=hour)
        assert clicks == [row.pop("click") for row in expected[name]]
        assert (np.array(ids) == np.array([list(row.values()) for row in expected[name]]) + starts).all()


def test_the_fields_are_the_columns_in_their_order(prepared_folder: Path) -> None:
    assert tuple(sizes_of(prepared_folder)) == text.FIELDS
    assert tuple(sizes_of(prepared_folder, hour="split")) == ("hour_of_day", "weekday", *text.FIELDS[1:])


def test_columns_are_as_narrow_as_their_numbers_allow(prepared_folder: Path) -> None:
    tensors = prepared(settings(prepared_folder), 1, "value")
    for name, size in sizes_of(prepared_folder, min_count=1).items():
        assert tensors[f"field {name}"].dtype == (torch.uint8 if size <= 256 else torch.int16)


@pytest.mark.parametrize("size", [2, 255, 256, 257, 32_768, 32_769])
def test_the_largest_number_fits_its_column(size: int) -> None:
    """Just below and above what a type holds."""
    values = np.arange(size - 1)
    column = prepare.Column(values[::-1], [(values, values)])
    numbers, found = prepare._numbers(column, np.ones(size - 1, bool), 1)
    assert found == size and numbers.tolist() == list(range(size - 1, 0, -1))


def test_a_value_that_only_the_test_split_has_gets_the_rare_number(tmp_path: Path, lines: list[str]) -> None:
    row = int(np.flatnonzero(split(ROWS) == TEST)[3])
    folder = put(
        tmp_path, [*lines[: row + 1], changed(lines[row + 1], C14="-77", site_id="new-site"), *lines[row + 2 :]]
    )
    tensors = prepared(settings(folder), 1, "value")
    assert tensors["field C14"][row] == tensors["field site_id"][row] == RARE


def shuffled(lines: list[str]) -> list[str]:
    """The columns the other way round."""
    return [",".join(line.split(",")[::-1]) for line in lines]


WRITINGS: dict[str, Callable[[Path, list[str]], Path]] = {
    "gzip": lambda root, lines: put(root, lines, "train.gz"),
    "carriage returns": lambda root, lines: put(root, lines, end="\r\n"),
    "gzip under another name": lambda root, lines: (
        put(root, lines, "train.gz").rename(root / "moved") and _renamed(root)
    ),
    "columns in another order": lambda root, lines: put(root, shuffled(lines)),
    "byte-order mark": lambda root, lines: put(root, ["\ufeff" + lines[0], *lines[1:]]),
    "byte-order mark, gzip": lambda root, lines: put(root, ["\ufeff" + lines[0], *lines[1:]], "train.gz"),
    "blank lines": lambda root, lines: put(root, [*lines[:5], "", *lines[5:], "", ""], "train.gz"),
    "blank lines with carriage returns": lambda root, lines: put(root, [*lines, "", ""], end="\r\n"),
    "no line end behind the last line": lambda root, lines: _without_last_byte(put(root, lines)),
    "zeros and blanks before numbers": lambda root, lines: put(
        root, [lines[0], *(changed(k, C14=" 0" + cell(k, "C14")) for k in lines[1:])]
    ),
}


def _renamed(root: Path) -> Path:
    folder = (root / "moved").rename(root / "avazu")
    (folder / "train.gz").rename(folder / "train.csv")
    return folder


def _without_last_byte(folder: Path) -> Path:
    path = folder / "train.csv"
    path.write_bytes(path.read_bytes()[:-1])
    return folder


@pytest.mark.parametrize("writing", WRITINGS)
def test_the_same_rows_written_otherwise_give_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared_folder: Path, lines: list[str], writing: str
) -> None:
    expected = contents_of(prepared_folder)
    monkeypatch.setattr(text, "BLOCK_BYTES", 1 << 15)
    assert contents_of(WRITINGS[writing](tmp_path, lines)) == expected


@pytest.mark.parametrize("size", [500, 1000, 30_000, 1 << 20])
def test_the_size_of_blocks_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared_folder: Path, lines: list[str], size: int
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", size)
    assert contents_of(put(tmp_path, lines)) == contents_of(prepared_folder)


# --- bad files -----------------------------------------------------------------------------------------------------


def cell(line: str, name: str) -> str:
    """A line's value in a column."""
    return line.split(",")[text.COLUMNS.index(name)]


def changed(line: str, **cells: str) -> str:
    """A line with other values in some columns."""
    values = line.split(",")
    for name, value in cells.items():
        values[text.COLUMNS.index(name)] = value
    return ",".join(values)


BAD_LINES: dict[str, tuple[Callable[[str], str], str]] = {
    "a column too few": (lambda line: line.rpartition(",")[0], "Expected 24 columns, got 23"),
    "a column too many": (lambda line: line + ",0", "Expected 24 columns, got 25"),
    "click of 2": (lambda line: changed(line, click="2"), "'2' for click, which must be 0 or 1"),
    "no click": (lambda line: changed(line, click=""), "'' for click, which must be 0 or 1"),
    "click as a fraction": (lambda line: changed(line, click="1.0"), "'1.0' for click, which must be 0 or 1"),
    "short site": (lambda line: changed(line, site_id="abc"), "for site_id, which must be 8 characters"),
    "word": (lambda line: changed(line, C14="x1"), "'x1' for C14, which must be a whole number of 32 bits"),
    "empty": (lambda line: changed(line, C21=""), "'' for C21, which must be a whole number of 32 bits"),
    "quotes": (lambda line: changed(line, C21='"5"'), "'\"5\"' for C21, which must be a whole number of 32 bits"),
    "plus sign": (lambda line: changed(line, C21="+5"), "for C21, which must be a whole number of 32 bits"),
    "large": (lambda line: changed(line, C20="2147483648"), "for C20, which must be a whole number of 32 bits"),
    "bytes of no text": (lambda line: changed(line, C20="\udcff"), "for C20, which must be a whole number of 32 bits"),
    "hour": (lambda line: changed(line, hour="14102199"), "14102199 for hour, which must be YYMMDDHH"),
    "day": (lambda line: changed(line, hour="14023100"), "14023100 for hour, which must be YYMMDDHH"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
@pytest.mark.parametrize("row", [0, 333, ROWS - 1])
def test_a_bad_line_is_named_by_file_and_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], kind: str, row: int
) -> None:
    """In whichever block it is, and nothing is left of the attempt."""
    monkeypatch.setattr(text, "BLOCK_BYTES", 20_000)
    spoil, expected = BAD_LINES[kind]
    folder = put(tmp_path, [])
    bad = "\n".join([*lines[: row + 1], spoil(lines[row + 1]), *lines[row + 2 :]])
    (folder / "train.csv").write_bytes(bad.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=re.escape(expected)) as raised:
        prepared(settings(folder), 4, "value")
    message = str(raised.value)
    assert message.startswith(f"{folder / 'train.csv'} in line {row + 2}: ")
    assert "put train.gz of https://www.kaggle.com" in message and str(folder) in message
    assert not names(tmp_path / ".cache")


def test_a_carriage_return_within_a_line_is_refused(tmp_path: Path, lines: list[str]) -> None:
    """It ends the line there, as in any text."""
    with pytest.raises(DataError, match="in line 9: Expected 24 columns, got 1:"):
        prepared(settings(put(tmp_path, [*lines[:7], lines[7][:-1] + "\r" + lines[7][-1:], *lines[8:]])), 4, "value")


def test_the_first_of_several_bad_lines_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 1000)
    bad = [line + ",0" if number in (50, 300, 301) else line for number, line in enumerate(lines, start=1)]
    with pytest.raises(DataError, match="in line 50: Expected 24 columns, got 25"):
        prepared(settings(put(tmp_path, bad)), 4, "value")


def without(lines: list[str], *names: str) -> list[str]:
    dropped = [text.COLUMNS.index(name) for name in names]
    return [",".join(c for k, c in enumerate(line.split(",")) if k not in dropped) for line in lines]


BAD_FILES: dict[str, tuple[Callable[[list[str]], bytes], str]] = {
    "empty": (lambda lines: b"", "lacks the columns id"),
    "Kaggle's test file": (
        lambda lines: "\n".join(without(lines, "click")).encode(),
        "lacks the columns click in line 1",
    ),
    "two columns missing": (
        lambda lines: "\n".join(without(lines, "C1", "hour")).encode(),
        "lacks the columns hour, C1",
    ),
    "a column twice": (
        lambda lines: "\n".join(f"{line},{line.split(',')[1]}" for line in lines).encode(),
        "has 25 columns in line 1 in place of 24",
    ),
    "no header": (lambda lines: "\n".join(lines[1:]).encode(), "lacks the columns id, click"),
    "gzip cut off": (lambda lines: gzip.compress("\n".join(lines).encode())[:-3000], "cannot be read"),
    "gzip without its end": (lambda lines: gzip.compress("\n".join(lines).encode())[:-8], "cannot be read"),
    "gzip altered": (lambda lines: _alter(gzip.compress("\n".join(lines).encode())), "(cannot be read|in line)"),
    "images": (lambda lines: b"\x89PNG\r\n\x1a\n\x00\xff\n", "lacks the columns id"),
}


def _alter(packed: bytes) -> bytes:
    middle = len(packed) // 2
    return packed[:middle] + bytes(255 - byte for byte in packed[middle : middle + 20]) + packed[middle + 20 :]


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_cannot_be_used_is_named_with_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], kind: str
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 20_000)
    spoil, expected = BAD_FILES[kind]
    folder = put(tmp_path, [])
    (folder / "train.csv").write_bytes(spoil(lines))
    with pytest.raises(DataError, match=expected) as raised:
        prepared(settings(folder), 4, "value")
    assert str(raised.value).startswith(str(folder / "train.csv"))
    assert str(raised.value).count("put train.gz") == 1


def test_a_missing_file_is_named_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "avazu").mkdir()
    with pytest.raises(DataError, match=r"train\.gz cannot be read \(No such file.*put train\.gz of"):
        prepared(settings(tmp_path / "avazu"), 4, "value")


@pytest.mark.parametrize("row", [1, 200, 639])
def test_an_hour_that_goes_back_is_told_with_its_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: list[str], row: int
) -> None:
    """The rows are used all the same: no split depends on the time."""
    late = [changed(line, hour="14102023") if number > row else line for number, line in enumerate(lines)]
    with caplog.at_level(logging.WARNING):
        prepared(settings(put(tmp_path, late)), 4, "value")
    assert re.findall(r"goes back in line (\d+)", caplog.text) == [str(row + 2)]


def test_a_file_in_order_gets_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: list[str]) -> None:
    with caplog.at_level(logging.INFO):
        prepared(settings(put(tmp_path, lines)), 4, "value")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"has {ROWS} rows (the whole of Avazu: 40,428,967)" in caplog.text


@pytest.mark.parametrize("clicks", ["0", "1"])
def test_rows_of_one_kind_alone_are_refused(tmp_path: Path, lines: list[str], clicks: str) -> None:
    folder = put(tmp_path, [lines[0], *(changed(line, click=clicks) for line in lines[1:])])
    with pytest.raises(DataError, match=r"train split .* only clicks or none among 512 rows"):
        make(folder)


def test_too_few_rows_for_every_split_are_refused(tmp_path: Path, lines: list[str]) -> None:
    """As few as it takes to lack one; and nothing is kept of them."""
    enough = next(rows for rows in range(1, TEN + 1) if set(split(rows)) == {TRAIN, VALIDATION, TEST})
    for rows in range(enough):
        folder = put(tmp_path, lines[: 1 + rows])
        with pytest.raises(DataError, match=rf"^the \w+ split has no rows, since .*train\.csv has only {rows}: use"):
            prepared(settings(folder, fingerprint=contents(folder)), 4, "value")
    assert not names(tmp_path / ".cache")
    folder = put(tmp_path, lines[: 1 + enough])
    assert len(prepared(settings(folder, fingerprint=contents(folder)), 4, "value")["click"]) == enough


# --- what is kept on the disk --------------------------------------------------------------------------------------


def names(cache: Path) -> set[str]:
    """What is kept but for the locks, which stay."""
    return {path.name for path in cache.iterdir() if path.suffix != ".lock"}


def test_rows_are_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    folder = put(tmp_path, lines)
    first = contents_of(folder)
    monkeypatch.setattr(prepare, "_make", lambda *arguments: pytest.fail("prepared again"))
    assert contents_of(folder) == first


def test_rows_in_use_are_not_deleted(tmp_path: Path, lines: list[str]) -> None:
    """By a task that trains on them, however many others are made; and afterwards they are."""
    folder = put(tmp_path, lines)
    task = make(folder, min_count=2)
    (used,) = names(tmp_path / ".cache")
    for count in range(3, 9):
        prepared(settings(folder), count, "value")
    assert used in names(tmp_path / ".cache") and len(names(tmp_path / ".cache")) == 1 + KEPT
    del task
    gc.collect()
    prepared(settings(folder), 9, "value")
    assert used not in names(tmp_path / ".cache") and len(names(tmp_path / ".cache")) == KEPT


def test_a_file_that_changes_before_it_is_read_is_refused(tmp_path: Path, lines: list[str]) -> None:
    """Its rows would be kept as those of the contents before."""
    folder = put(tmp_path, lines)
    old = contents(folder)
    put(tmp_path, lines[:-1])
    with pytest.raises(DataError, match=r"train\.csv has changed since this run looked at its contents: wait"):
        prepared(settings(folder, fingerprint=old), 4, "value")
    assert not names(tmp_path / ".cache")
    prepared(settings(folder, fingerprint=contents(folder)), 4, "value")


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    folder, read = put(tmp_path, lines), text.read_batches

    def grown(path: Path) -> Iterator[Any]:
        yield from read(path)
        with path.open("a") as file:
            file.write(lines[1] + "\n")

    monkeypatch.setattr(prepare, "read_batches", grown)
    with pytest.raises(DataError, match="has changed since"):
        prepared(settings(folder, fingerprint=contents(folder)), 4, "value")
    assert not names(tmp_path / ".cache")


@pytest.mark.parametrize("stage", ["read_batches", "split", "_numbers"])
def test_nothing_is_left_of_an_interrupted_preparation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared_folder: Path, lines: list[str], stage: str
) -> None:
    """And the next one gives the same rows."""
    folder = put(tmp_path, lines)

    def killed(*arguments: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(prepare, stage, killed)
        with pytest.raises(Killed):
            prepared(settings(folder), 4, "value")
    assert not names(tmp_path / ".cache")
    assert contents_of(folder) == contents_of(prepared_folder)


def test_the_temporary_files_have_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    """So nothing is left of them, whatever kills the process."""
    seen = []
    monkeypatch.setattr(prepare, "split", lambda rows: seen.append(names(tmp_path / ".cache")) or split(rows))
    prepared(settings(put(tmp_path, lines)), 4, "value")
    assert seen == [set()]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_full_disk_is_told_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    with (
        Path("/dev/full").open("r+b") as full,
        pytest.raises(DataError, match=r"cannot prepare avazu in .*\(No space left .*free some space .* data\.root"),
    ):
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: full)
        prepared(settings(put(tmp_path, lines)), 4, "value")
    assert not names(tmp_path / ".cache")


# --- the exact AUC -------------------------------------------------------------------------------------------------


def pairs_won(scores: Tensor, labels: Tensor) -> float:
    """The definition: over all pairs, in double precision."""
    wins = scores[labels == 1].double()[:, None] - scores[labels == 0].double()[None]
    return float(((wins > 0).double() + 0.5 * (wins == 0).double()).mean())


cases = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: len({label for _, label in rows}) == 2
)


@given(cases)
def test_the_area_is_the_share_of_pairs_won_with_ties(rows: list[tuple[int, bool]]) -> None:
    scores, labels = (
        torch.tensor([float(s) for s, _ in rows]),
        torch.tensor([int(k) for _, k in rows], dtype=torch.uint8),
    )
    assert area_under_curve(scores, labels) == pytest.approx(pairs_won(scores, labels), rel=1e-14)


@pytest.mark.parametrize("levels", [2, 50, 10**9])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_area_does_not_depend_on_the_order_of_rows(levels: int, device: str) -> None:
    """To the last bit; and a strictly rising function of the scores changes nothing."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    draw = torch.Generator().manual_seed(levels)
    scores = torch.randint(0, levels, (4000,), generator=draw).double().to(device)
    labels = (torch.rand(4000, generator=draw) < 0.2).to(device)
    found = area_under_curve(scores, labels)
    assert found == pytest.approx(pairs_won(scores, labels), rel=1e-13)
    order = torch.randperm(4000, generator=draw).to(device)
    assert area_under_curve(scores[order], labels[order]) == found == area_under_curve(3 * scores - 7, labels)
    assert area_under_curve(-scores, labels) == pytest.approx(1.0 - found, rel=1e-13)


def test_the_area_is_the_one_below_the_curve() -> None:
    """By trapezoids, over the rates of true and false positives at every threshold."""
    draw = torch.Generator().manual_seed(1)
    scores = torch.randint(0, 30, (3000,), generator=draw) / 30
    labels = (torch.rand(3000, generator=draw) < scores).long()
    chosen = scores[None] >= torch.cat([scores.unique(), torch.tensor([2.0])]).flip(0)[:, None]
    rates = [chosen[:, labels == label].double().mean(dim=1) for label in (0, 1)]
    assert (rates[0][0], rates[0][-1]) == (0.0, 1.0)
    assert area_under_curve(scores, labels) == pytest.approx(float(torch.trapezoid(rates[1], rates[0])), rel=1e-12)


def test_the_area_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    draw = torch.Generator().manual_seed(1)
    scores = torch.randint(0, 30, (3000,), generator=draw) / 30
    labels = (torch.rand(3000, generator=draw) < scores).long()
    assert area_under_curve(scores, labels) == pytest.approx(metrics.roc_auc_score(labels, scores), rel=1e-12)


@pytest.mark.parametrize("scores", [[0.1, 0.2], [0.1, math.nan]])
@pytest.mark.parametrize("labels", [[0, 0], [1, 1], [0, 1]])
def test_the_area_is_undefined_without_both_kinds_or_with_a_nan(scores: list[float], labels: list[int]) -> None:
    found = area_under_curve(torch.tensor(scores), torch.tensor(labels))
    assert math.isnan(found) == (len(set(labels)) == 1 or math.isnan(scores[1]))


# --- model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "inputs", "width", "hidden"), [(900, 22, 16, (256, 128)), (9, 2, 3, ()), (9, 2, 3, (5,))]
)
def test_parameter_counts_follow_the_formula(rows: int, inputs: int, width: int, hidden: tuple[int, ...]) -> None:
    widths = [inputs * width, *hidden, 1]
    layers = sum((one + 1) * other for one, other in itertools.pairwise(widths))
    model = WideDeep(rows, inputs, width, hidden)
    assert sum(p.numel() for p in model.parameters()) == rows * (width + 1) + layers


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
def test_the_output_is_the_sum_of_both_parts(kind: torch.dtype) -> None:
    """Against sums and matrix products written out, in double precision."""
    torch.manual_seed(0)
    model = WideDeep(9, 2, 3, (5,)).double()
    with torch.no_grad():
        model.wide.weight.normal_()
    ids = torch.tensor([[0, 7], [3, 3], [8, 1]], dtype=kind)
    first, last = (layer for layer in model.deep if isinstance(layer, nn.Linear))
    for row, odds in zip(ids.tolist(), model(ids), strict=True):
        joined = torch.cat([model.vectors.weight[k] for k in row])
        units = (first.weight @ joined + first.bias).clamp(min=0)
        expected = sum(model.wide.weight[k, 0] for k in row) + last.weight[0] @ units + last.bias[0]
        torch.testing.assert_close(odds, expected, rtol=1e-12, atol=1e-14)


def test_the_wide_part_starts_at_zero_and_the_vectors_as_torchs() -> None:
    torch.manual_seed(0)
    model = WideDeep(4000, 2, 16, (5,))
    assert not model.wide.weight.any()
    torch.manual_seed(0)
    assert torch.equal(model.vectors.weight, nn.Embedding(4000, 16).weight)


@pytest.mark.parametrize("std", [1, 0.01])
def test_vectors_start_at_the_scale_that_is_asked_for(std: float) -> None:
    """And everything else as before."""
    torch.manual_seed(0)
    usual = WideDeep(4000, 2, 16, [5]).state_dict()
    torch.manual_seed(0)
    scaled = WideDeep(4000, 2, 16, [5], std).state_dict()
    assert torch.equal(scaled.pop("vectors.weight"), usual["vectors.weight"] * std)
    assert float(usual["vectors.weight"].std()) == pytest.approx(1.0, rel=0.02)
    assert all(torch.equal(value, usual[name]) for name, value in scaled.items()) and scaled


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"embedding": 3}, "setting 'model.hidden' is missing"),
        *(
            ({"embedding": 3, "hidden": [], "init_std": value}, r"model\.init_std must be a finite number > 0")
            for value in (0, -1.0, math.nan, math.inf, True, "1", None)
        ),
        ({"embedding": 3, "hidden": [2], "dropout": 0.1}, "unknown setting 'model.dropout'"),
        ({"embedding": 0, "hidden": [2]}, r"model\.embedding must be a whole number >= 1"),
        ({"embedding": 3, "hidden": 5}, r"model\.hidden must be a list"),
        *(
            (
                {"embedding": 3, "hidden": hidden},
                r"whole number >= 1 and <= 16,384, not .*: set it with model\.hidden=",
            )
            for hidden in ([5, 0], [-3], [True], [2.0], ["5"], [None])
        ),
    ],
)
def test_settings_of_the_model_that_cannot_be_used_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        tasks.build_model(WideDeep, {"_target_": TARGET, **options}, rows=9, fields=2)


# --- rows that a batch does not touch ------------------------------------------------------------------------------

SWINGS = (0.5, 0.25, -0.125, -0.1875, -0.03125, 0.078125, 0.0546875)
"""How far a row is beyond its new place, in units of the move there, 1, 2, … steps after its only gradient."""


def test_an_untouched_row_swings_about_where_sgd_leaves_it() -> None:
    """What docs/tasks/ctr.md says: the history carries on by half, swings back, and adds up to nothing."""
    table = nn.Embedding(2, 1).double()
    start, optimizer = table.weight.detach().clone(), TMSGD(table.parameters(), lr=0.1)
    for step in range(60):
        optimizer.zero_grad()
        row = torch.tensor([0 if step == 2 else 1])  # two steps fill the history
        (3.0 * table(row)).sum().backward()
        optimizer.step()
        if 2 < step < 3 + len(SWINGS):
            beyond = (table.weight[0] - start[0]) / -0.3 - 1.0
            torch.testing.assert_close(beyond.item(), SWINGS[step - 3], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(table.weight[0], start[0] - 0.3, rtol=0, atol=1e-8)


def test_plain_sgd_leaves_untouched_rows_alone(prepared_folder: Path) -> None:
    task = make(prepared_folder)
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.1)
    before, seen = task.model.vectors.weight.detach().clone(), set()
    for batch in itertools.islice(task.batches(0), 3):
        task.training_step(batch, {"wide_deep": optimizer})
        seen |= set(batch[0].unique().tolist())
    moved = (task.model.vectors.weight != before).any(dim=1).nonzero().flatten().tolist()
    assert set(moved) <= seen and len(moved) > len(seen) / 2 and len(seen) < len(before)


# --- task ----------------------------------------------------------------------------------------------------------


def flat(batches: Iterator[tuple[Tensor, Tensor]]) -> list[tuple[tuple[int, ...], float]]:
    """Every example of an epoch, in order."""
    return [(tuple(i.tolist()), float(c)) for ids, clicks in batches for i, c in zip(ids, clicks, strict=True)]


@pytest.mark.parametrize("gathered", [1, 20, 1 << 14])
@pytest.mark.parametrize("size", [1, 7, 50, 64])
def test_an_epoch_covers_every_example_once(
    prepared_folder: Path, monkeypatch: pytest.MonkeyPatch, size: int, gathered: int
) -> None:
    """Whatever is gathered at once; the examples are those that the seeded limit keeps."""
    monkeypatch.setattr("tasks.ctr.task.GATHERED", gathered)
    task, whole = make(prepared_folder, batch_size=size, data_limit=50), make(prepared_folder)
    batches = list(task.batches(0))
    assert [len(clicks) for _, clicks in batches[:-1]] == [size] * (task.steps_per_epoch - 1)
    rows = subset(len(whole.train), 50)
    ids, clicks = whole.train.batch(rows)
    expected = [(tuple(own), float(click)) for own, click in zip(ids.tolist(), clicks, strict=True)]
    assert sorted(flat(iter(batches))) == sorted(expected)
    assert {ids.dtype for ids, _ in batches} == {torch.int32} and {c.dtype for _, c in batches} == {torch.float32}


def test_the_loss_is_the_mean_cross_entropy(prepared_folder: Path) -> None:
    task = make(prepared_folder)
    ids, clicks = next(task.batches(0))
    chances = task.model(ids).double().sigmoid()
    expected = -(clicks * chances.log() + (1 - clicks) * (1 - chances).log()).mean()
    assert float(task.loss((ids, clicks)).detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


@pytest.mark.parametrize("evaluate_on", ["test", "validation"])
@pytest.mark.parametrize("size", [1, 17, 8192])
@torch.no_grad()
def test_evaluation_agrees_with_a_computation_by_hand(
    prepared_folder: Path, monkeypatch: pytest.MonkeyPatch, size: int, evaluate_on: str
) -> None:
    monkeypatch.setattr("tasks.ctr.task.EVALUATION_BATCH", size)
    task = make(prepared_folder, evaluate_on=evaluate_on)
    ids, clicks = (torch.tensor(part) for part in rows_of(prepared_folder, evaluate_on))
    odds = task.model(ids).double()
    found = task.evaluate()
    assert found["auc"] == pytest.approx(pairs_won(odds, clicks), abs=1e-3)  # rounding may swap scores that are near
    expected = F.binary_cross_entropy(odds.sigmoid(), clicks.double())
    assert found["log_loss"] == pytest.approx(float(expected), rel=1e-6)
    ratio = float(odds.sigmoid().mean() / clicks.double().mean())
    assert found["calibration_error"] == pytest.approx(abs(ratio - 1), rel=1e-5)


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "TM-SGD": lambda p: TMSGD(p, lr=0.05, switch_step=50),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_stand_in_can_be_learnt(stand_in: Path, name: str) -> None:
    """Better than guessing, by far; and the loss falls below that of the best constant prediction."""
    task = make(stand_in, batch_size=32, model={"embedding": 8, "hidden": [16]})
    optimizers = {"wide_deep": OPTIMIZERS[name](task.model.parameters())}
    share = float(task.train.clicks[task.train.rows].double().mean())
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    for epoch in range(2):
        losses = [float(task.training_step(batch, optimizers)["loss"]) for batch in task.batches(epoch)]
    with torch.no_grad():
        found = task.evaluate()
    assert found["auc"] > 0.65
    assert sum(losses) / len(losses) < entropy


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"min_count": 0}, r"task\.min_count"),
        ({"hour": "raw"}, r"task\.hour .*value, split"),
        ({"evaluate_on": "train"}, r"task\.evaluate_on .*test, validation"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(prepared_folder: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        make(prepared_folder, **options)


def test_the_protocols_are_the_papers_as_printed_and_as_read() -> None:
    values = yaml.safe_load((CONF / "task/ctr.yaml").read_text(encoding="utf-8"))
    printed = {"epochs": 20, "lr": 0.001, "batch_size": 256, "switch_epoch": 15, "schedule": None}
    assert values["table2"] == values["corrected"] == printed
    model = yaml.safe_load((CONF / "model/wide_deep.yaml").read_text(encoding="utf-8"))
    assert model.pop("_target_") == TARGET
    assert model == {"name": "wide_deep", "embedding": 16, "hidden": [256, 128]}  # part of every run's identity


def real_rows(unpacked: Path) -> Path:
    """The real train.csv, or some of it: in $TMSGD_DATA/avazu, or unpacked from ../shared/data."""
    real = Path(os.environ.get("TMSGD_DATA", "none")) / "avazu/train.csv"
    if real.is_file() and real.stat().st_size <= 1 << 28:
        return real
    pack = Path(__file__).parents[3] / "shared/data/packs/avazu.tar.xz"
    if not pack.is_file():
        pytest.skip("needs real rows: set TMSGD_DATA to the folder of the data sets, with an avazu of 256 MiB at most")
    with tarfile.open(pack) as archive:
        archive.extractall(unpacked, filter="data")
    return next(unpacked.rglob("train.csv"))


def test_real_rows_can_be_prepared(tmp_path: Path) -> None:
    """Any real train.csv of moderate size: its splits are 8 : 1 : 1, and a sixth of its rows are clicks."""
    real = real_rows(tmp_path / "unpacked")
    (tmp_path / "avazu").mkdir()
    (tmp_path / "avazu/train.csv").symlink_to(real)
    tensors = prepared(settings(tmp_path / "avazu"), 4, "value")
    rows = len(tensors["click"])
    assert rows == sum(1 for _ in real.open("rb")) - 1
    for name, share in zip(SPLITS, (0.8, 0.1, 0.1), strict=True):
        assert abs(len(tensors[f"rows {name}"]) - rows * share) <= 2
    assert 0.1 < float(tensors["click"].double().mean()) < 0.25


# --- the stand-in --------------------------------------------------------------------------------------------------

GOLDEN = {1: "c6dbf7c022e975235dcd77a1049223c3c298cdb3364b4c24f9bc51790cd1d951"}
"""SHA-256 of the file of each version."""


def test_the_stand_ins_bytes_are_those_of_its_version(stand_in: Path) -> None:
    """If this fails, a change here (or of NumPy's streams) has changed the stand-in: raise ``VERSION``."""
    assert hashlib.sha256((stand_in / "train.csv").read_bytes()).hexdigest() == GOLDEN[avazu.VERSION]


def test_the_stand_in_has_the_real_columns_and_order(stand_in: Path) -> None:
    rows = pd.read_csv(stand_in / "train.csv", dtype=str)
    assert tuple(rows.columns) == avazu.COLUMNS == text.COLUMNS
    assert len(rows) == avazu.ROWS and tuple(avazu.HEXADECIMAL) == text.HEXADECIMAL
    assert rows["hour"].astype(int).is_monotonic_increasing
    assert pd.to_datetime(rows["hour"], format="%y%m%d%H").notna().all()
    for name in text.HEXADECIMAL:
        assert rows[name].str.fullmatch("[0-9a-f]{8}").all()
    assert 0.15 < (rows["click"] == "1").mean() < 0.3


@pytest.mark.parametrize("chunk", [100, 1000])
def test_rows_of_any_number_can_be_written(tmp_path: Path, chunk: int) -> None:
    avazu.write_csv(tmp_path / "some.csv", 730, avazu.VALUES, chunk)
    rows = pd.read_csv(io.BytesIO((tmp_path / "some.csv").read_bytes()), dtype=str)
    assert len(rows) == 730 and (rows["hour"].iloc[0], rows["hour"].iloc[-1]) == ("14102100", "14103023")
    assert rows["device_ip"].nunique() > 600
