"""Click-through rate: text into numbers, the exact AUC, the model, and the task around them."""

from __future__ import annotations

import csv
import errno
import gc
import gzip
import hashlib
import io
import itertools
import json
import logging
import math
import os
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from whole_runs import Killed

import tasks
from tasks.ctr import ClickThrough, data, parts, prepare, text
from tasks.ctr import kept as on_disk
from tasks.ctr.auc import area_under_curve
from tasks.ctr.fields import RARE, Tally, fields, hour_of_day, numbers, weekday
from tasks.ctr.model import WideDeep
from tasks.ctr.split import GROUPS, SPLITS, TEN, TEST, TRAIN, VALID, grouped, sizes_before, split
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


def kept(folder: Path, min_count: int = 4, hour: str = "value", **changes: Any) -> dict[str, bytes]:
    """Every file that is prepared from a data set."""
    found = prepare.prepared(settings(folder, **changes), min_count, hour)
    return {path.name: path.read_bytes() for path in found.folder.iterdir()}


def rows_of(folder: Path, name: str, **options: Any) -> tuple[list[list[int]], list[int]]:
    """A split's ids and clicks."""
    found = kept(folder, **options)
    width = len(json.loads(found[on_disk.META])["sizes"])
    ids = np.frombuffer(found[f"{name}.ids"], np.int32).reshape(-1, width)
    return ids.tolist(), list(found[f"{name}.clicks"])


# --- the split -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, TEN * GROUPS - 50, 7 * TEN * GROUPS])
def test_of_every_ten_rows_one_is_for_testing_and_one_for_validation(first: int) -> None:
    groups = np.sort(split(first, 100).reshape(-1, TEN), axis=1)
    assert (groups == [0] * 8 + [1, 2]).all()


@given(first=st.integers(0, 3 * TEN * GROUPS), rows=st.integers(1, 50))
@hypothesis_settings(max_examples=60, deadline=None)
def test_a_rows_split_depends_on_its_number_alone(first: int, rows: int) -> None:
    whole = split(first, rows)
    assert whole.shape == (rows,) and whole.dtype == np.uint8
    assert (np.concatenate([split(first + row, 1) for row in range(rows)]) == whole).all()


@given(first=st.integers(0, 400), rows=st.integers(1, 50))
@hypothesis_settings(deadline=None)
def test_rows_are_brought_together_by_split(first: int, rows: int) -> None:
    """Each of them once, those of a split in their order."""
    order, sizes = grouped(first, rows)
    member = split(first, rows)
    assert order.tolist() == [row for number in range(3) for row in range(rows) if member[row] == number]
    assert (sizes == sizes_before(first + rows) - sizes_before(first)).all()


@given(first=st.integers(0, 400))
@hypothesis_settings(deadline=None)
def test_sizes_before_a_row_are_counted(first: int) -> None:
    counted = np.bincount(split(0, first), minlength=3) if first else np.zeros(3)
    assert (sizes_before(first) == counted).all()


def test_the_split_is_the_one_that_published_runs_have() -> None:
    """If this fails, runs from before are on other rows."""
    digest = hashlib.sha256(split(0, 2 * TEN * GROUPS + 77).tobytes()).hexdigest()
    assert digest == "0836949ab1e167f0c2de6251ae5ba43b3633d843d2844d2cba243fb3ce9cd360"


def test_every_place_of_ten_is_drawn_equally_often() -> None:
    """Within four standard errors, for both splits and for how far they are apart."""
    member = split(0, TEN * GROUPS).reshape(GROUPS, TEN)
    valid, test = ((member == number).argmax(axis=1) for number in (1, 2))
    for places, kinds in ((valid, 10), (test, 10), ((valid - test) % 10 - 1, 9)):
        counts = np.bincount(places, minlength=kinds)
        assert (abs(counts - GROUPS / kinds) < 4 * math.sqrt(GROUPS / kinds)).all()


# --- text into numbers ---------------------------------------------------------------------------------------------


def reference(lines: list[str], min_count: int) -> dict[str, list[dict[str, str]]]:
    """Every split's rows with rare values replaced by a mark, by Python's own means."""
    rows = list(csv.DictReader(lines))
    member = split(0, len(rows))
    trained = [row for row, own in zip(rows, member, strict=True) if own == TRAIN]
    counts = {name: Counter(row[name] for row in trained) for name in text.FIELDS}
    marked = [
        {name: row[name] if counts[name][row[name]] >= min_count else "rare" for name in text.FIELDS}
        | {"click": row["click"]}
        for row in rows
    ]
    return {name: [marked[k] for k in np.flatnonzero(member == number)] for number, name in enumerate(SPLITS)}


@pytest.mark.parametrize("min_count", [1, 2, 4, 9, 10_000])
@pytest.mark.parametrize("name", SPLITS)
def test_numbers_stand_for_the_values_of_the_file(
    prepared_folder: Path, lines: list[str], min_count: int, name: str
) -> None:
    """Rows in their order; equal values of a field, and they alone, have equal numbers; all too rare ones have the
    field's first; each field's numbers follow those of the field before."""
    expected = reference(lines, min_count)[name]
    ids, clicks = rows_of(prepared_folder, name, min_count=min_count)
    sizes = json.loads(kept(prepared_folder, min_count)[on_disk.META])["sizes"]
    assert list(sizes) == list(text.FIELDS)
    assert clicks == [int(row["click"]) for row in expected]
    start = 0
    for place, (field, size) in enumerate(sizes.items()):
        meaning = {start + RARE: "rare"}
        for row, own in zip(expected, ids, strict=True):
            assert meaning.setdefault(own[place], row[field]) == row[field]
        assert len(set(meaning.values())) == len(meaning)
        assert start <= min(meaning) and max(meaning) < start + size
        start += size


@pytest.mark.parametrize("min_count", [1, 4])
def test_every_number_but_the_rare_one_occurs_in_training(prepared_folder: Path, min_count: int) -> None:
    """At least so often as the threshold says."""
    ids = np.array(rows_of(prepared_folder, "train", min_count=min_count)[0])
    sizes = json.loads(kept(prepared_folder, min_count)[on_disk.META])["sizes"]
    counts, start = np.bincount(ids.ravel(), minlength=sum(sizes.values())), 0
    for size in sizes.values():
        assert (counts[start + 1 : start + size] >= min_count).all()
        start += size


def test_a_value_that_only_the_test_split_has_gets_the_rare_number(tmp_path: Path, lines: list[str]) -> None:
    row = int(np.flatnonzero(split(0, ROWS) == TEST)[3])
    cells = lines[row + 1].split(",")
    cells[text.COLUMNS.index("C14")], cells[text.COLUMNS.index("site_id")] = "-77", "new-site"
    ids, _ = rows_of(put(tmp_path, [*lines[: row + 1], ",".join(cells), *lines[row + 2 :]]), "test")
    sizes = json.loads(kept(tmp_path / "avazu")[on_disk.META])["sizes"]
    for name in ("C14", "site_id"):
        place = text.FIELDS.index(name)
        assert ids[3][place] == sum(list(sizes.values())[:place]) + RARE


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
    "blank line at the end": lambda root, lines: put(root, [*lines, ""]),
    "blank lines at the end": lambda root, lines: put(root, [*lines, "", "", ""], "train.gz"),
    "blank lines with carriage returns": lambda root, lines: put(root, [*lines, "", ""], end="\r\n"),
    "zeros and blanks before numbers": lambda root, lines: put(
        root, [lines[0], *(changed(k, C14=" 0" + cell(k, "C14"), click="0" + cell(k, "click")) for k in lines[1:])]
    ),
}


def _renamed(root: Path) -> Path:
    folder = (root / "moved").rename(root / "avazu")
    (folder / "train.gz").rename(folder / "train.csv")
    return folder


@pytest.mark.parametrize("writing", WRITINGS)
def test_the_same_rows_written_otherwise_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared_folder: Path, lines: list[str], writing: str
) -> None:
    expected = kept(prepared_folder)
    monkeypatch.setattr(text, "BLOCK_BYTES", 1 << 15)
    assert kept(WRITINGS[writing](tmp_path, lines)) == expected


@pytest.mark.parametrize("size", range(1, 12))
def test_blank_lines_at_the_end_are_none_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], size: int
) -> None:
    """However the file is cut into blocks."""
    monkeypatch.setattr(text, "BLOCK_BYTES", size)
    for end in ("\n", "\r\n"):
        blocks = list(text.read_blocks(put(tmp_path, [*lines[:4], "", "", ""], end=end) / "train.csv"))
        assert b"".join(block.text for block in blocks) == "".join(line + end for line in lines[1:4]).encode()
        assert [block.first for block in blocks] == list(itertools.accumulate([0, *(b.rows for b in blocks[:-1])]))
        assert sum(block.rows for block in blocks) == 3


def columns() -> dict[str, pa.Array]:
    """Of few, of many and of nearly only different values; close together and far apart."""
    draw = np.random.default_rng(5)
    wide = draw.integers(-(1 << 62), 1 << 62, 6000)
    return {
        "one value": pa.array([7] * 9, pa.int32()),
        "one row": pa.array([-(1 << 31)], pa.int32()),
        "near": pa.array(draw.integers(-100, 100, 5000), pa.int32()),
        "the whole range": pa.array([(1 << 31) - 1, 0, -(1 << 31), 0], pa.int32()),
        "far apart, few": pa.array(draw.choice([-(1 << 31), -1, 5, (1 << 31) - 1], 5000), pa.int32()),
        "far apart, many": pa.array(draw.integers(-(1 << 31), 1 << 31, 6000), pa.int32()),
        "long, few": pa.array(draw.choice(wide[:300], 5000), pa.int64()),
        "long, many": pa.array(np.concatenate([wide, wide[:500]]), pa.int64()),
        "long, more than two bytes count": pa.array(np.concatenate([np.arange(70_000)[::-1], wide]), pa.int64()),
    }


@pytest.mark.parametrize("kind", columns())
def test_places_lead_back_to_the_values(kind: str) -> None:
    column = columns()[kind]
    places, keys = text.encode(column)
    assert keys[places].tolist() == column.to_pylist()
    assert len(set(keys.tolist())) == len(keys) <= len(column) and keys.dtype == np.int64
    assert places.dtype == np.min_scalar_type(len(keys) - 1)


def test_the_last_line_needs_no_line_end(tmp_path: Path, prepared_folder: Path, lines: list[str]) -> None:
    path = put(tmp_path, lines) / "train.csv"
    path.write_bytes(path.read_bytes()[:-1])
    assert kept(path.parent) == kept(prepared_folder)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [1, 150, 1000, 30_000, 1 << 20])
def test_the_size_of_blocks_and_the_number_of_threads_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared_folder: Path, lines: list[str], size: int, threads: int
) -> None:
    expected = kept(prepared_folder)
    some = lines if size > 2000 else lines[:60]  # a block for each line takes a while
    if some is not lines:
        expected = kept(put(tmp_path / "whole", some))
    monkeypatch.setattr(text, "BLOCK_BYTES", size)
    monkeypatch.setattr(prepare, "WORKERS", threads)
    assert kept(put(tmp_path / "blocks", some)) == expected


def test_the_split_hour_is_the_hour_of_the_day_and_the_weekday(tmp_path: Path) -> None:
    """Against Python's calendar, over a leap day and New Year."""
    times = [datetime(2016, 2, 28) + timedelta(hours=7 * step) for step in range(2000)]
    hours = np.array([int(time.strftime("%y%m%d%H")) for time in times])
    assert hour_of_day(hours).tolist() == [time.hour for time in times]
    assert weekday(hours).tolist() == [time.weekday() for time in times]


def test_a_split_hour_takes_the_place_of_the_hour(prepared_folder: Path, lines: list[str]) -> None:
    assert [field.name for field in fields("split")] == ["hour_of_day", "weekday", *text.FIELDS[1:]]
    ids = np.array(rows_of(prepared_folder, "test", min_count=1, hour="split")[0])
    expected = [
        (int(row["hour"]) % 100, datetime.strptime(row["hour"], "%y%m%d%H").weekday())
        for row in reference(lines, 1)["test"]
        if row["hour"] != "rare"
    ]
    assert len(expected) > 10 and ids.shape[1] == 23
    shown = [
        tuple(own)
        for own, row in zip(ids[:, :2].tolist(), reference(lines, 1)["test"], strict=True)
        if row["hour"] != "rare"
    ]
    assert len(set(zip(shown, expected, strict=True))) == len(set(shown)) == len(set(expected))


@given(
    st.lists(st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 5)), max_size=12), max_size=12), st.integers(1, 12)
)
def test_a_tally_counts_as_a_counter_does(lists: list[list[tuple[int, int]]], min_count: int) -> None:
    """However its lists are merged."""
    counter: Counter[int] = Counter()
    for pending in (1, 5, 1000):
        tally, counter = Tally(pending), Counter()
        for entries in lists:
            tally.add(np.array([k for k, _ in entries], np.int64), np.array([n for _, n in entries], np.int32))
            for key, count in entries:
                counter[key] += count
        assert tally.frequent(min_count).tolist() == sorted(k for k, n in counter.items() if n >= min_count)


written = st.text("0123456789abcdef", min_size=8, max_size=8).map(str.encode)
"""Eight hexadecimal digits."""


def words(texts: list[bytes]) -> np.ndarray:
    """What columns of eight characters are read as."""
    return np.frombuffer(b"".join(texts), np.int64)


@given(st.lists(written | st.binary(min_size=8, max_size=8)))
def test_hexadecimal_digits_are_known_and_lead_back_to_the_text(texts: list[bytes]) -> None:
    """In the same order as the text's words; nothing else, capitals among it, is taken for them."""
    keys = words(texts)
    found, valid = text.hexadecimal(keys)
    assert valid.tolist() == [re.fullmatch(rb"[0-9a-f]{8}", own) is not None for own in texts]
    assert found[valid].tolist() == [int(own[::-1], 16) for own, good in zip(texts, valid, strict=True) if good]
    assert (text.characters(found[valid]) == keys[valid]).all()
    assert (np.sort(found[valid]) == text.hexadecimal(np.sort(keys[valid]))[0]).all()


def test_every_byte_is_told_from_a_hexadecimal_digit() -> None:
    """At the first place and at the last."""
    every = [bytes([byte]) for byte in range(256)]
    for texts in ([byte + b"0f9a0f9" for byte in every], [b"0f9a0f9" + byte for byte in every]):
        _, valid = text.hexadecimal(words(texts))
        assert valid.tolist() == [byte in b"0123456789abcdef" for byte in every]


@given(st.lists(st.lists(st.tuples(written | st.sampled_from([b"0" * 8, b"F" * 8, b"site-abc"]), st.integers(1, 5)))))
def test_a_tally_of_texts_counts_as_a_counter_does(lists: list[list[tuple[bytes, int]]]) -> None:
    """Whether they are hexadecimal digits or not."""
    tally, counter = Tally(20), Counter[int]()
    for entries in lists:
        keys = words([own for own, _ in entries])
        tally.add(keys, np.array([n for _, n in entries], np.int32))
        for key, (_, count) in zip(keys.tolist(), entries, strict=True):
            counter[key] += count
    assert tally.frequent(3).tolist() == sorted(key for key, n in counter.items() if n >= 3)


@given(st.sets(st.integers(-9, 9)), st.lists(st.integers(-12, 12)))
def test_a_values_number_is_its_place_in_the_vocabulary(known: set[int], keys: list[int]) -> None:
    vocabulary = sorted(known)
    expected = [vocabulary.index(key) + 1 if key in known else RARE for key in keys]
    found = numbers(np.array(vocabulary, np.int64), np.array(keys, np.int64))
    assert found.tolist() == expected and found.dtype == np.int32


# --- bad files -----------------------------------------------------------------------------------------------------


def cell(line: str, name: str) -> str:
    """A line's value in a column."""
    return line.split(",")[text.COLUMNS.index(name)]


def changed(line: str, **cells: str) -> str:
    """A line with other values in some columns."""
    own = line.split(",")
    for name, value in cells.items():
        own[text.COLUMNS.index(name)] = value
    return ",".join(own)


BAD_LINES: dict[str, tuple[Callable[[str], str], str]] = {
    "a column too few": (lambda line: line.rpartition(",")[0], "has 23 columns in place of 24"),
    "a column too many": (lambda line: line + ",0", "has 25 columns in place of 24"),
    "blank": (lambda line: "", "has 1 columns in place of 24"),
    "click of 2": (lambda line: changed(line, click="2"), "has the click '2', which must be 0 or 1"),
    "no click": (lambda line: changed(line, click=""), "has the click '', which must be 0 or 1"),
    "click as a fraction": (lambda line: changed(line, click="1.0"), "has the click '1.0', which must be 0 or 1"),
    "short site": (lambda line: changed(line, site_id="abc"), "has the site_id 'abc', which must be 8 characters"),
    "word": (lambda line: changed(line, C14="x1"), "has the C14 'x1', which must be a whole number"),
    "empty": (lambda line: changed(line, C21=""), "has the C21 '', which must be a whole number"),
    "large": (
        lambda line: changed(line, C20="9999999999"),
        "has the C20 '9999999999', which must be a whole number of 32",
    ),
    "hour": (lambda line: changed(line, hour="14102199"), "has the hour '14102199', which must be YYMMDDHH"),
    "carriage return": (lambda line: line[:-1] + "\r" + line[-1:], "has a carriage return within it"),
}


BAD_PLACES = [
    (kind, row)
    for kind in BAD_LINES
    for row in (0, 1, 333, ROWS - 1)
    if (kind, row) != ("blank", ROWS - 1)  # blank lines may end a file
]


@pytest.mark.parametrize(("kind", "row"), BAD_PLACES)
def test_a_bad_line_is_named_by_file_and_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], kind: str, row: int
) -> None:
    """In whichever block it is, and nothing is left of the attempt but what the next one can use."""
    monkeypatch.setattr(text, "BLOCK_BYTES", 20_000)
    spoil, expected = BAD_LINES[kind]
    bad = [*lines[: row + 1], spoil(lines[row + 1]), *lines[row + 2 :]]
    folder = put(tmp_path, bad)
    with pytest.raises(DataError, match=expected) as raised:
        kept(folder)
    message = str(raised.value)
    assert message.startswith(f"{folder / 'train.csv'} in line {row + 2} ")
    assert "put train.gz of https://www.kaggle.com" in message and str(folder) in message
    assert {path.suffix for path in (tmp_path / ".cache").iterdir()} == {".parts", ".lock"}


def test_the_first_of_several_bad_lines_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 1000)
    bad = [line + ",0" if number in (50, 300, 301) else line for number, line in enumerate(lines, start=1)]
    with pytest.raises(DataError, match=r"in line 50 has 25 columns"):
        kept(put(tmp_path, bad))


LINE = ",".join(["7", "0", "14102100", "1", "0", *(f"{k:08x}" for k in range(9)), *"1234567890"])


def accepted(name: str, cell: bytes) -> int | None:
    """What the reader makes of a value, and None if it says that just this one is wrong; the fast way and the one that
    explains must agree."""
    before, _, behind = changed(LINE, **{name: "\0"}).encode().partition(b"\0")
    whole = before + cell + behind
    block = text.Block(Path("train.csv"), text.COLUMNS, 0, 0, 1, memoryview(whole + b"\n"), 0)
    try:
        rows = text.parse(block)
    except DataError as error:
        assert "in line 2 has " in str(error), error
        return None
    assert not text._fault_of(whole, text.COLUMNS)
    return int(rows.clicks[0]) if name == "click" else int(rows.values[name][0].as_py())


SPELLINGS: dict[bytes, int | None] = {
    **{b"5": 5, b"-5": -5, b"05": 5, b"00": 0, b"-0": 0, b" 5": 5, b"5\t ": 5, b"2147483647": (1 << 31) - 1},
    **{b"+5": None, b"1_0": None, b"5.": None, b"1e3": None, b"": None, b" ": None, b"-": None, b"5 5": None},
    **{b"2147483648": None, b"-2147483649": None, b"9" * 30: None, "\u0663".encode(): None, b'"5"': None},
    **{b"5\0": None, b"\xff": None, b"\xa05": None, b"5\r5": None, b"--5": None},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_whole_number_has_one_rule(spelling: bytes) -> None:
    assert accepted("C14", spelling) == SPELLINGS[spelling]


@given(st.binary(max_size=12) | st.text("0123456789+-_ .\t\r\0xX", max_size=12).map(str.encode))
@hypothesis_settings(max_examples=60, deadline=None)
def test_what_is_refused_is_explained_and_nothing_else(value: bytes) -> None:
    """Whatever bytes stand in a value, and in whichever kind of column."""
    if b"\n" in value or b"," in value:
        return
    number = accepted("C20", value)
    if re.fullmatch(rb"[ \t]*-?[0-9]{1,9}[ \t]*", value):
        assert number == int(value)
    elif not re.search(rb"[xX]", value) and len(value) < 10:
        assert number is None
    click, hour = accepted("click", value), accepted("hour", value)
    assert click == (number if number in (0, 1) else None)
    assert hour == (number if number is not None and text.is_hour(number) else None)
    eight = accepted("site_id", value)
    assert (eight is not None) == (len(value) == 8 and b"\r" not in value)


def without(lines: list[str], *names: str) -> list[str]:
    dropped = [text.COLUMNS.index(name) for name in names]
    return [",".join(c for k, c in enumerate(line.split(",")) if k not in dropped) for line in lines]


BAD_FILES: dict[str, tuple[Callable[[list[str]], bytes], str]] = {
    "empty": (lambda lines: b"", "is empty"),
    "header alone": (lambda lines: lines[0].encode(), "holds no rows"),
    "Kaggle's test file": (
        lambda lines: "\n".join(without(lines, "click")).encode(),
        "lacks the columns click in line 1",
    ),
    "two columns missing": (
        lambda lines: "\n".join(without(lines, "C1", "hour")).encode(),
        "lacks the columns hour, C1",
    ),
    "a column twice": (
        lambda lines: "\n".join(f"{line},{k}" for k, line in enumerate(lines)).encode(),
        "has 25 columns",
    ),
    "no header": (lambda lines: "\n".join(lines[1:]).encode(), "lacks the columns id, click"),
    "gzip cut off": (
        lambda lines: gzip.compress("\n".join(lines).encode())[:-3000],
        "is damaged or cut off after line",
    ),
    "gzip without its end": (lambda lines: gzip.compress("\n".join(lines).encode())[:-8], "is damaged or cut off"),
    "gzip altered": (
        lambda lines: _alter(gzip.compress("\n".join(lines).encode())),
        "(is damaged|cannot be read|in line)",
    ),
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
        kept(folder)
    assert str(raised.value).startswith(str(folder / "train.csv"))
    assert str(raised.value).count("put train.gz") == 1


def test_a_missing_file_is_named_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "avazu").mkdir()
    with pytest.raises(DataError, match=r"train\.gz cannot be read \(No such file.*put train\.gz of"):
        kept(tmp_path / "avazu")


@pytest.mark.parametrize("size", [20_000, 1 << 20])
@pytest.mark.parametrize("row", [1, 200, 639])
def test_an_hour_that_goes_back_is_told_once_with_its_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    lines: list[str],
    row: int,
    size: int,
) -> None:
    """The rows are used all the same: no split depends on the time."""
    monkeypatch.setattr(text, "BLOCK_BYTES", size)
    late = [changed(line, hour="14102023") if number > row else line for number, line in enumerate(lines)]
    with caplog.at_level(logging.WARNING):
        kept(put(tmp_path, late))
    (message,) = [record.getMessage() for record in caplog.records if "goes back" in record.getMessage()]
    assert f"goes back in line {row + 2}" in message


def test_an_hour_that_goes_back_between_two_blocks_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lines: list[str]
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 8000)
    folder = put(tmp_path, lines)
    third = [block.first for block in text.read_blocks(folder / "train.csv")][2]
    put(tmp_path, [changed(line, hour="14102100") if number > third else line for number, line in enumerate(lines)])
    with caplog.at_level(logging.WARNING):
        kept(folder)
    assert f"goes back in line {third + 2}," in caplog.text


def test_a_file_in_order_gets_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: list[str]) -> None:
    with caplog.at_level(logging.INFO):
        kept(put(tmp_path, lines))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"has {ROWS} rows (the whole of Avazu: 40,428,967)" in caplog.text


@pytest.mark.parametrize("clicks", ["0", "1"])
def test_rows_of_one_kind_alone_are_refused(tmp_path: Path, lines: list[str], clicks: str) -> None:
    folder = put(tmp_path, [lines[0], *(changed(line, click=clicks) for line in lines[1:])])
    with pytest.raises(DataError, match=r"training split .* only clicks or none among 512 rows"):
        make(folder)


def test_too_few_rows_for_every_split_are_refused(tmp_path: Path, lines: list[str]) -> None:
    """As few as it takes to lack one; before what was prepared from a better file makes way for theirs."""
    folder = put(tmp_path, lines)
    before = kept(folder, fingerprint=contents(folder))
    found = names(tmp_path / ".cache")
    enough = next(rows for rows in range(1, TEN + 1) if set(split(0, rows)) == {TRAIN, VALID, TEST})
    for rows in range(1, enough):
        put(tmp_path, lines[: 1 + rows])
        with pytest.raises(DataError, match=rf"^the \w+ split has no rows, since .*train\.csv has only {rows}: use"):
            kept(folder, fingerprint=contents(folder))
        assert found < names(tmp_path / ".cache")
    put(tmp_path, lines)
    assert kept(folder, fingerprint=contents(folder)) == before
    put(tmp_path, lines[: 1 + enough])
    kept(folder, fingerprint=contents(folder))


# --- what is kept on the disk --------------------------------------------------------------------------------------


def test_rows_are_prepared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    folder = put(tmp_path, lines)
    first = kept(folder)
    monkeypatch.setattr(prepare, "_prepare", lambda *arguments: pytest.fail("prepared again"))
    assert kept(folder) == first


@pytest.mark.parametrize("options", [{"min_count": 1}, {"min_count": 9}, {"hour": "split"}])
def test_other_options_need_no_text_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], options: dict[str, Any]
) -> None:
    """And give what they give alone."""
    monkeypatch.setattr(text, "BLOCK_BYTES", 20_000)
    folder = put(tmp_path, lines)
    kept(folder)
    (folder / "train.csv").unlink()
    assert kept(folder, **options) == kept(put(tmp_path / "fresh", lines), **options)


def names(cache: Path) -> set[str]:
    """What is kept but for the lock, which stays."""
    return {path.name for path in cache.iterdir() if path.suffix != ".lock"}


def test_of_many_options_the_last_used_are_kept(tmp_path: Path, lines: list[str]) -> None:
    folder, counts = put(tmp_path, lines), range(2, 8)
    found = {}
    for count in counts:
        found[count] = prepare.prepared(settings(folder), count, "value").folder.name
        prepare.prepared(settings(folder), 2, "value")  # used again and again
    (parsed,) = (tmp_path / ".cache").glob("*.parts")
    assert names(tmp_path / ".cache") == {parsed.name, found[2], found[6], found[7]} and KEPT == 3


def test_rows_in_use_are_not_deleted(tmp_path: Path, lines: list[str]) -> None:
    """By a task that trains on them, however many others are made; and afterwards they are."""
    folder = put(tmp_path, lines)
    task = make(folder, min_count=2)
    for count in range(3, 9):
        prepare.prepared(settings(folder), count, "value")
    used = task.loaded.rows.folder
    assert on_disk.is_whole(used) and len(names(tmp_path / ".cache")) == 1 + KEPT + 1
    del task
    gc.collect()
    prepare.prepared(settings(folder), 9, "value")
    assert not used.exists() and len(names(tmp_path / ".cache")) == 1 + KEPT


def test_parts_of_contents_that_are_no_more_are_deleted(tmp_path: Path, lines: list[str]) -> None:
    """And what a killed preparation left; nothing of anybody else."""
    cache, others = tmp_path / ".cache", ("avazu-train.csv.json", "avazu-other-1", "voc-rows-1", "voc-rows-1.parts")
    for name in (*others, ".avazu-rows-1.tmp", "avazu-rows-2.parts"):
        (cache / name).mkdir(parents=True)
    (cache / "avazu-rows-2.parts/some.npz").touch()
    kept(put(tmp_path, lines), fingerprint=contents(put(tmp_path, lines)))
    (before,) = cache.glob("avazu-rows-*.parts")
    folder = put(tmp_path, lines[:-1])
    kept(folder, fingerprint=contents(folder))
    (after,) = cache.glob("avazu-rows-*.parts")
    assert after != before and {name for name in others if (cache / name).is_dir()} == set(others)
    assert not (cache / ".avazu-rows-1.tmp").exists()
    assert {path.suffix for path in after.iterdir()} == {".npz", ".json"}


def test_a_file_that_changes_before_it_is_read_is_refused(tmp_path: Path, lines: list[str]) -> None:
    """Its rows would be kept as those of the contents before."""
    folder = put(tmp_path, lines)
    old = contents(folder)
    put(tmp_path, lines[:-1])
    with pytest.raises(DataError, match=r"train\.csv has changed since this run looked at its contents: wait"):
        kept(folder, fingerprint=old)
    assert kept(folder, fingerprint=contents(folder)) == kept(put(tmp_path / "fresh", lines[:-1]))


@pytest.mark.parametrize("real", [True, False])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], real: bool
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 8000)
    folder, parse = put(tmp_path, lines), parts.parse

    def grown(block: text.Block) -> text.Rows:
        with (folder / "train.csv").open("a") as file:
            file.write(lines[1] + "\n")
        return parse(block)

    fingerprint = contents(folder) if real else STAND_IN
    with monkeypatch.context() as patch:
        patch.setattr(parts, "parse", grown)
        with pytest.raises(DataError, match="has changed since"):
            kept(folder, fingerprint=fingerprint)
    put(tmp_path, lines)
    assert kept(folder) == kept(put(tmp_path / "fresh", lines))  # what was parsed of other text is not used


def test_rows_without_a_name_for_their_contents_are_known_by_them(tmp_path: Path, lines: list[str]) -> None:
    folder = put(tmp_path, lines)
    first = kept(folder, fingerprint="")
    put(tmp_path, lines[:-1])
    assert kept(folder, fingerprint="") != first


@pytest.mark.parametrize("name", ["train.ids", "test.clicks"])
@pytest.mark.parametrize("damage", ["altered", "cut off", "missing"])
def test_damaged_rows_are_made_anew_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: list[str], name: str, damage: str
) -> None:
    folder = put(tmp_path, lines)
    first, path = kept(folder), prepare.prepared(settings(folder), 4, "value").folder / name
    whole = path.read_bytes()
    spoilt = {"altered": bytes([whole[0] ^ 1]) + whole[1:], "cut off": whole[:-1]}
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(spoilt[damage])
    with caplog.at_level(logging.WARNING):
        assert kept(folder) == first
    assert caplog.text.count("is damaged and is made anew") == 1


@pytest.mark.parametrize(("module", "stage"), [(parts, "parse"), (prepare, "numbers"), (prepare, "_describe")])
def test_an_interrupted_preparation_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared_folder: Path, lines: list[str], module: Any, stage: str
) -> None:
    """What was parsed is not parsed again, and the result is the same."""
    monkeypatch.setattr(text, "BLOCK_BYTES", 8000)
    folder, parsed, parse = put(tmp_path, lines), [], parts.parse
    with monkeypatch.context() as patch:
        own, calls = getattr(module, stage), itertools.count()

        def killed(*arguments: Any) -> Any:
            if next(calls) == (5 if stage == "parse" else 0):
                raise Killed
            return own(*arguments)

        patch.setattr(module, stage, killed)
        with pytest.raises(Killed):
            kept(folder)
    done = {int(path.name[:5]) for path in (tmp_path / ".cache").glob("*.parts/*.npz")}
    monkeypatch.setattr(parts, "parse", lambda block: parsed.append(block.number) or parse(block))
    assert kept(folder) == kept(prepared_folder)
    assert len(done) >= 5 and done.isdisjoint(parsed)
    assert done | set(parsed) == set(range(len(done) + len(parsed)))


def test_parts_of_other_text_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared_folder: Path, lines: list[str]
) -> None:
    """The file was replaced between two attempts."""
    monkeypatch.setattr(text, "BLOCK_BYTES", 8000)
    folder = put(tmp_path, [*lines[:-1], lines[-1] + ",0"])
    with pytest.raises(DataError, match="25 columns"):
        kept(folder)
    assert list((tmp_path / ".cache").glob("*.parts/*.npz"))
    put(tmp_path, [lines[0], *lines[:0:-1]])
    expected = kept(put(tmp_path / "fresh", [lines[0], *lines[:0:-1]]))
    assert kept(folder) == expected != kept(prepared_folder)


def flipped(part: Path, array: str) -> None:
    """Alter a byte of one array."""
    with zipfile.ZipFile(part) as archive:
        info = archive.getinfo(f"{array}.npy")
    content = bytearray(part.read_bytes())
    extra = int.from_bytes(content[info.header_offset + 28 : info.header_offset + 30], "little")
    content[info.header_offset + 30 + len(info.filename) + extra + info.file_size - 1] ^= 1
    part.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut off": lambda part: part.write_bytes(part.read_bytes()[:-300]) and None,
    "gone": lambda part: part.unlink(),
    "places": lambda part: flipped(part, "places_1"),
    "counts": lambda part: flipped(part, "counts"),
    "list": lambda part: part.with_name(parts.LIST).write_text("{}") and None,
    "list cut off": lambda part: part.with_name(parts.LIST).write_text("{") and None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_part_is_made_anew_for_other_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], damage: str
) -> None:
    """It alone, from the text."""
    monkeypatch.setattr(text, "BLOCK_BYTES", 20_000)
    folder, parsed, parse = put(tmp_path, lines), [], parts.parse
    kept(folder)
    DAMAGES[damage](min((tmp_path / ".cache").glob("*.parts/*.npz")))
    monkeypatch.setattr(parts, "parse", lambda block: parsed.append(block.number) or parse(block))
    assert kept(folder, min_count=2) == kept(put(tmp_path / "fresh", lines), min_count=2)
    own = parsed[: len(parsed) - len(list((tmp_path / "fresh/.cache").glob("*.parts/*.npz")))]
    assert own == ([] if damage.startswith("list") else [0])


def test_a_part_that_an_interrupted_preparation_left_damaged_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lines: list[str]
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 8000)
    folder = put(tmp_path, [*lines[:-1], lines[-1] + ",0"])
    with pytest.raises(DataError, match="25 columns"):
        kept(folder)
    put(tmp_path, lines)
    part = min((tmp_path / ".cache").glob("*.parts/*.npz"))
    part.write_bytes(part.read_bytes()[:-300])
    with caplog.at_level(logging.WARNING):
        assert kept(folder) == kept(put(tmp_path / "fresh", lines))
    assert caplog.text.count(f"{part} is damaged and is made anew") == 1


def test_a_disk_that_keeps_nothing_right_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    monkeypatch.setattr(parts, "_columns", lambda arrays: arrays["no such array"])
    with pytest.raises(DataError, match=r"\.npz is damaged as soon as it is written: check the disk, or choose"):
        kept(put(tmp_path, lines))


def test_a_full_disk_is_told_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    def full(path: Path, arrays: Any) -> None:
        path.write_bytes(b"some of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(parts, "_save", full)
    with pytest.raises(
        DataError,
        match=r"cannot keep the rows of avazu .*\(No space left on device\): free some space or choose another",
    ):
        kept(put(tmp_path, lines))
    assert not list((tmp_path / ".cache").glob("*.parts/*"))


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
    expected = [(tuple(whole.train.ids[k].tolist()), float(whole.train.clicks[k])) for k in rows]
    assert sorted(flat(iter(batches))) == sorted(expected)
    assert {ids.dtype for ids, _ in batches} == {torch.int32} and {c.dtype for _, c in batches} == {torch.float32}


def test_the_loss_is_the_mean_cross_entropy(prepared_folder: Path) -> None:
    task = make(prepared_folder)
    ids, clicks = next(task.batches(0))
    chances = task.model(ids).double().sigmoid()
    expected = -(clicks * chances.log() + (1 - clicks) * (1 - chances).log()).mean()
    assert float(task.loss((ids, clicks)).detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


@pytest.mark.parametrize("evaluate_on", ["test", "valid"])
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
    """Better than guessing, by far; and the loss falls below that of the best constant answer."""
    task = make(stand_in, batch_size=32, model={"embedding": 8, "hidden": [16]})
    optimizers = {"wide_deep": OPTIMIZERS[name](task.model.parameters())}
    share = float(task.train.clicks.double().mean())
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
        ({"evaluate_on": "train"}, r"task\.evaluate_on must be one of test, valid, not 'train'"),
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
    meta = json.loads(kept(tmp_path / "avazu")[on_disk.META])
    rows = sum(meta["rows"].values())
    assert rows == sum(1 for _ in real.open("rb")) - 1
    assert all(
        abs(size - rows * share) <= 2 for size, share in zip(meta["rows"].values(), (0.8, 0.1, 0.1), strict=True)
    )
    loaded = data.load(settings(tmp_path / "avazu"), 4, "value", "test")
    assert 0.1 < float(loaded.train.clicks.double().mean()) < 0.25


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
    assert {text.is_hour(int(hour)) for hour in rows["hour"]} == {True}
    for name in text.HEXADECIMAL:
        assert rows[name].str.fullmatch("[0-9a-f]{8}").all()
    assert 0.15 < (rows["click"] == "1").mean() < 0.3


@pytest.mark.parametrize("chunk", [100, 1000])
def test_rows_of_any_number_can_be_written(tmp_path: Path, chunk: int) -> None:
    avazu.write_csv(tmp_path / "some.csv", 730, avazu.VALUES, chunk)
    rows = pd.read_csv(io.BytesIO((tmp_path / "some.csv").read_bytes()), dtype=str)
    assert len(rows) == 730 and (rows["hour"].iloc[0], rows["hour"].iloc[-1]) == ("14102100", "14103023")
    assert rows["device_ip"].nunique() > 600
