"""The catalog verifies, downloads and prepares, and each of its errors names the file, the fix and the source."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from local_server import serving

from tmsgd_bench import cli
from tmsgd_bench.data import sources, synthetic
from tmsgd_bench.data.catalog import Dataset, catalog, data_root, find, read_entry
from tmsgd_bench.data.sources import DataFile
from tmsgd_bench.data.synthetic import r8
from tmsgd_bench.errors import ConfigError, DataError

CONTENTS = {
    "r8-train-all-terms.txt": b"acq\tone two three\nearn\tfour\n",
    "r8-test-all-terms.txt": b"crude\tfive two\n",
}
NAMES = tuple(CONTENTS)
SPLITS = dict(zip(NAMES, ("train", "test"), strict=True))


def small(url: Callable[[str], str]) -> Dataset:
    """R8's entry with small files that are to be had at ``url(name)``."""
    files = tuple(
        DataFile(name, url(name), hashlib.sha256(data).hexdigest(), len(data), SPLITS[name], data.count(b"\n"), "text")
        for name, data in CONTENTS.items()
    )
    return replace(find("r8"), files=files)


def put(folder: Path) -> Path:
    """Lay the small files out in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in CONTENTS.items():
        (folder / name).write_bytes(data)
    return folder


def nowhere(name: str) -> str:
    """An address that nothing answers at."""
    return f"http://127.0.0.1:9/{name}"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def alter(path: Path) -> None:
    """Change one byte, keeping the size."""
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


DAMAGES: dict[str, Callable[[Path], None]] = {"missing": Path.unlink, "truncated": truncate, "altered": alter}


@pytest.fixture
def source(tmp_path: Path) -> Callable[[str], str]:
    """``file://`` addresses of the small files."""
    return lambda name: (put(tmp_path / "source") / name).as_uri()


class Site:
    """A local web site whose pages are bytes, or functions that answer by hand; it remembers what was asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | Callable[[BaseHTTPRequestHandler], None]] = dict(CONTENTS)
        self.asked: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": self}))

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{name}"


class _Handler(BaseHTTPRequestHandler):
    site: ClassVar[Site]

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        self.site.asked.append(name)
        page = self.site.pages.get(name)
        if page is None:
            self.send_error(404)
        elif callable(page):
            page(self)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site()
    with serving(site.server, monkeypatch):
        yield site


def cut_short(handler: BaseHTTPRequestHandler) -> None:
    """Announce more bytes than are sent, as a connection that breaks does."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"acq\tone")


def cut_short_in_chunks(handler: BaseHTTPRequestHandler) -> None:
    """The same in HTTP's chunked encoding."""
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"100\r\nacq\tone")
    handler.close_connection = True


def babble(handler: BaseHTTPRequestHandler) -> None:
    """Answer in something that is not HTTP."""
    handler.wfile.write(b"what?\r\n\r\n")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- facts ---------------------------------------------------------------------------------------------------------


def test_every_entry_pins_its_files() -> None:
    """A digest, a size and an address of one fixed version: none can change without being noticed."""
    for name, dataset in catalog().items():
        assert dataset.name == name
        for part in (*dataset.files, *dataset.archives):
            assert part.md5 is None or re.fullmatch("[0-9a-f]{32}", part.md5)
            assert part.sha256 is None or re.fullmatch("[0-9a-f]{64}", part.sha256)
            assert part.url is None or part.md5 or dataset.version in part.url
        assert dataset.archives or all(file.url for file in dataset.files) or dataset.obtain


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown data set 'r9'.*r8"):
        find("r9")


def test_real_data_and_stand_in_have_folders_of_their_own(tmp_path: Path) -> None:
    assert find("r8").folder(tmp_path, "real") == tmp_path / "r8"
    assert find("r8").folder(tmp_path, "synthetic") == tmp_path / "synthetic" / "r8"


# --- verify --------------------------------------------------------------------------------------------------------


def test_whole_files_have_no_problems(tmp_path: Path) -> None:
    dataset, folder = small(nowhere), put(tmp_path)
    dataset.verify(folder)
    assert dataset.problems(folder) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_with_the_fix_and_its_source(tmp_path: Path, damage: str, name: str) -> None:
    dataset, folder = small(nowhere), put(tmp_path)
    DAMAGES[damage](folder / name)
    with pytest.raises(DataError) as raised:
        dataset.verify(folder)
    (problem,) = dataset.problems(folder)
    message = str(raised.value)
    assert problem.startswith(str(folder / name))
    assert problem in message and "python -m tmsgd_bench data prepare r8" in message
    assert f"{nowhere(name)} as {folder / name}" in message


def test_each_kind_of_damage_is_told_apart(tmp_path: Path) -> None:
    dataset = small(nowhere)
    told = []
    for damage in DAMAGES.values():
        folder = put(tmp_path)
        damage(folder / NAMES[0])
        (problem,) = dataset.problems(folder)
        told.append(problem.removeprefix(str(folder / NAMES[0])))
    size = len(CONTENTS[NAMES[0]])
    assert told == [" is missing", f" has {size - 3} bytes in place of {size}", " was altered (its SHA-256 differs)"]


def test_every_damaged_file_is_named_at_once(tmp_path: Path) -> None:
    dataset, folder = small(nowhere), put(tmp_path)
    alter(folder / NAMES[0])
    (folder / NAMES[1]).unlink()
    with pytest.raises(DataError, match=f"{NAMES[0]} was altered.*{NAMES[1]} is missing"):
        dataset.verify(folder)


@pytest.mark.parametrize("chosen_root", [False, True], ids=["default root", "chosen root"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_doing_what_the_message_says_mends_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Callable[[str], str], damage: str, chosen_root: bool
) -> None:
    """Also for a folder chosen with data.root, and for a file that is there but damaged."""
    monkeypatch.delenv("TMSGD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dataset = small(source)
    monkeypatch.setattr("tmsgd_bench.data.catalog.catalog", lambda: {"r8": dataset})
    folder = put(dataset.folder(data_root(str(tmp_path / "mine") if chosen_root else None), "real"))
    DAMAGES[damage](folder / NAMES[0])
    with pytest.raises(DataError) as raised:
        dataset.verify(folder)
    message = str(raised.value)
    if "delete" in message:
        (folder / NAMES[0]).unlink(missing_ok=True)
    command = re.search(r"'python -m tmsgd_bench ([^']+)'", message)
    assert command is not None
    code = cli.main(shlex.split(command[1]))
    assert (code, dataset.problems(folder)) == (0, [])


# --- download ------------------------------------------------------------------------------------------------------


def test_prepare_downloads_what_is_missing_and_says_so(tmp_path: Path, site: Site) -> None:
    said: list[str] = []
    folder = small(site.url).prepare(tmp_path / "new" / "root", "real", said.append)
    assert folder == tmp_path / "new" / "root" / "r8"
    assert contents(folder) == CONTENTS
    assert said == [f"downloading {site.url(name)}" for name in NAMES]


def test_prepare_reads_file_addresses_too(tmp_path: Path, source: Callable[[str], str]) -> None:
    assert contents(small(source).prepare(tmp_path / "root", "real")) == CONTENTS


def test_prepare_asks_only_for_missing_files(tmp_path: Path, site: Site) -> None:
    dataset = small(site.url)
    folder = put(tmp_path / "r8")
    dataset.prepare(tmp_path, "real")
    assert site.asked == []
    (folder / NAMES[1]).unlink()
    dataset.prepare(tmp_path, "real")
    assert site.asked == [NAMES[1]]


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_prepare_never_overwrites_a_file_that_is_there(tmp_path: Path, site: Site, damage: str) -> None:
    """It may be the user's own: it is refused, and left as it is."""
    folder = put(tmp_path / "r8")
    DAMAGES[damage](folder / NAMES[0])
    before = contents(folder)
    with pytest.raises(DataError, match=NAMES[0]):
        small(site.url).prepare(tmp_path, "real")
    assert contents(folder) == before
    assert site.asked == []


def test_a_download_of_other_contents_is_refused_and_leaves_nothing(tmp_path: Path, site: Site) -> None:
    site.pages[NAMES[0]] = CONTENTS[NAMES[0]].upper()
    with pytest.raises(DataError) as raised:
        small(site.url).prepare(tmp_path, "real")
    assert contents(tmp_path / "r8") == {}
    message = str(raised.value)
    assert f"{site.url(NAMES[0])} no longer holds the published file" in message
    assert f"{site.url(NAMES[0])} as {tmp_path / 'r8' / NAMES[0]}" in message


def test_a_refused_download_keeps_the_good_ones(tmp_path: Path, site: Site) -> None:
    site.pages[NAMES[1]] = b"something else"
    with pytest.raises(DataError, match=NAMES[1]):
        small(site.url).prepare(tmp_path, "real")
    assert contents(tmp_path / "r8") == {NAMES[0]: CONTENTS[NAMES[0]]}


@pytest.mark.parametrize("trouble", ["closed port", "404", "cut short", "cut short in chunks", "babble"])
def test_a_failed_download_names_the_address_and_the_place_to_put_it_by_hand(
    tmp_path: Path, site: Site, trouble: str
) -> None:
    answers = {"cut short": cut_short, "cut short in chunks": cut_short_in_chunks, "babble": babble}
    if trouble == "404":
        site.pages.clear()
    elif trouble in answers:
        site.pages[NAMES[0]] = answers[trouble]
    url = nowhere if trouble == "closed port" else site.url
    with pytest.raises(DataError) as raised:
        small(url).prepare(tmp_path, "real")
    message = str(raised.value)
    assert url(NAMES[0]) in message
    assert f"{url(NAMES[0])} as {tmp_path / 'r8' / NAMES[0]}" in message
    kept = {f".{NAMES[0]}.part": b"acq\tone"} if trouble == "cut short" else {}
    assert contents(tmp_path / "r8") == kept


def test_a_connection_that_breaks_is_not_taken_for_a_changed_file(tmp_path: Path, site: Site) -> None:
    """Trying again helps against the one and not against the other."""
    site.pages[NAMES[0]] = cut_short
    with pytest.raises(DataError, match="could not download"):
        small(site.url).prepare(tmp_path, "real")


def test_two_at_once_download_each_file_once(tmp_path: Path, site: Site) -> None:
    dataset = small(site.url)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(lambda _: dataset.prepare(tmp_path, "real"), range(2)))
    assert sorted(site.asked) == sorted(NAMES)
    assert folders == [tmp_path / "r8"] * 2
    assert contents(folders[0]) == CONTENTS


# --- fingerprint ---------------------------------------------------------------------------------------------------


def test_the_fingerprint_of_verified_data_needs_no_files(tmp_path: Path) -> None:
    """And it is what unverified data get that happen to be the published ones."""
    dataset = small(nowhere)
    without = dataset.fingerprint(tmp_path / "not there", "real", verify=True)
    assert without == dataset.fingerprint(put(tmp_path), "real", verify=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_fingerprint_of_unverified_data_depends_on_every_file(tmp_path: Path, name: str) -> None:
    dataset, folder = small(nowhere), put(tmp_path)
    before = dataset.fingerprint(folder, "real", verify=False)
    alter(folder / name)
    assert dataset.fingerprint(folder, "real", verify=False) != before
    assert dataset.fingerprint(folder, "real", verify=True) == before


def test_the_fingerprint_of_a_stand_in_is_its_version_and_differs_from_real_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = find("r8")
    before = dataset.fingerprint(tmp_path, "synthetic", verify=True)
    assert before == dataset.fingerprint(tmp_path, "synthetic", verify=False)
    assert before != dataset.fingerprint(tmp_path, "real", verify=True)
    monkeypatch.setattr(r8, "VERSION", r8.VERSION + 1)
    assert dataset.fingerprint(tmp_path, "synthetic", verify=True) != before


def test_unverified_data_that_are_not_there_have_no_fingerprint(tmp_path: Path) -> None:
    folder = put(tmp_path)
    (folder / NAMES[1]).unlink()
    with pytest.raises(DataError) as raised:
        small(nowhere).fingerprint(folder, "real", verify=False)
    assert str(folder / NAMES[1]) in str(raised.value)
    assert nowhere(NAMES[1]) in str(raised.value)


# --- stand-in ------------------------------------------------------------------------------------------------------


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders into which a stand-in was written, each slowly enough for another writer to get in between."""
    folders: list[Path] = []
    write = r8.write

    def slowly(folder: Path) -> None:
        folders.append(folder)
        time.sleep(0.05)
        write(folder)

    monkeypatch.setattr(r8, "write", slowly)
    return folders


def test_the_stand_in_is_written_once(tmp_path: Path, writes: list[Path]) -> None:
    dataset = find("r8")
    folder = dataset.prepare(tmp_path, "synthetic")
    assert dataset.prepare(tmp_path, "synthetic") == folder == tmp_path / "synthetic" / "r8"
    assert writes == [folder]


def test_two_at_once_write_the_stand_in_once(tmp_path: Path, writes: list[Path], synthetic_r8: Path) -> None:
    dataset = find("r8")
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: dataset.prepare(tmp_path, "synthetic"), range(4)))
    assert folders == [tmp_path / "synthetic" / "r8"] * 4
    assert len(writes) == 1
    assert {name: (folders[0] / name).read_bytes() for name in NAMES} == contents(synthetic_r8)


def older_version(folder: Path) -> None:
    mark = folder / synthetic.MARK
    mark.write_text(mark.read_text().replace(f'"version": {r8.VERSION}', '"version": 0'))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: alter(folder / NAMES[0]),
        lambda folder: truncate(folder / NAMES[1]),
        lambda folder: (folder / NAMES[1]).unlink(),
        lambda folder: (folder / synthetic.MARK).unlink(),
        lambda folder: (folder / synthetic.MARK).write_text("{"),
        older_version,
    ],
    ids=["altered", "truncated", "missing", "unmarked", "mark damaged", "older version"],
)
def test_a_spoilt_stand_in_is_written_again(
    tmp_path: Path, spoil: Callable[[Path], Any], writes: list[Path], synthetic_r8: Path
) -> None:
    dataset = find("r8")
    folder = dataset.prepare(tmp_path, "synthetic")
    whole = contents(folder)
    spoil(folder)
    assert contents(folder) != whole
    dataset.prepare(tmp_path, "synthetic")
    assert contents(folder) == whole
    assert len(writes) == 2


def test_a_stand_in_whose_writing_was_interrupted_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synthetic_r8: Path
) -> None:
    dataset = find("r8")
    folder = dataset.prepare(tmp_path, "synthetic")
    (folder / NAMES[0]).unlink()

    def interrupted(folder: Path) -> None:
        (folder / NAMES[0]).write_bytes(b"acq\thalf")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(r8, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            dataset.prepare(tmp_path, "synthetic")
    dataset.prepare(tmp_path, "synthetic")
    assert {name: (folder / name).read_bytes() for name in NAMES} == contents(synthetic_r8)


# --- entries -------------------------------------------------------------------------------------------------------

ENTRY = (Path(sources.__file__).parent / "entries/fkpd.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("title:", "titel:"),
        ("count: 3462", "count: many"),
        ("count: 3462", "cuont: 3462"),
        ("examples: 770", "examples: [770]"),
        ("members: {", "members: [{"),
        ("split: train", "split: {"),
        ('published: ""', "published: 2021-01-01"),
        ("name: training_frames", "nmae: training_frames"),
        ("folders:", "folders: 7\nother:"),
        ("files:", "files: [7]\nother:"),
        (ENTRY, ""),
        (ENTRY, "[1, 2]"),
        (ENTRY, "\x00"),
    ],
)
def test_an_entry_of_wrong_kinds_is_told_in_one_sentence(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(ENTRY, encoding="utf-8")
    assert read_entry("fkpd", path) == find("fkpd")
    path.write_text(ENTRY.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        read_entry("fkpd", path)
    assert re.fullmatch(rf"{re.escape(str(path))} describes no data set \(.+\): see README\.md .*\.", str(raised.value))


# --- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["real", "synthetic"])
def test_a_root_that_cannot_be_made_is_refused_with_the_fix(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError) as raised:
        find("r8").prepare(tmp_path / "file", kind)
    assert str(tmp_path / "file") in str(raised.value)
    assert "choose another data.root" in str(raised.value)


def test_a_disk_that_is_full_while_the_stand_in_is_written_is_told_as_a_data_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / NAMES[0]))

    monkeypatch.setattr(r8, "write", full)
    with pytest.raises(DataError, match=r"No space left on device.*data\.root"):
        find("r8").prepare(tmp_path, "synthetic")


def test_data_in_a_folder_that_may_only_be_read_are_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared data folder of an institute: nothing, not even a lock, is written beside verified data."""
    put(tmp_path / "r8")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    folder = small(nowhere).prepare(tmp_path, "real")
    assert list(tmp_path.iterdir()) == [folder]
    assert contents(folder) == CONTENTS


def test_the_root_is_the_argument_then_tmsgd_data_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMSGD_DATA", "/by/variable")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_root("/by/argument") == Path("/by/argument")
    assert data_root(None) == Path("/by/variable")
    monkeypatch.setenv("TMSGD_DATA", "")
    assert data_root(None) == Path("/cache/tmsgd-bench")
    monkeypatch.delenv("TMSGD_DATA")
    assert data_root(None) == Path("/cache/tmsgd-bench")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_root(None) == tmp_path / ".cache/tmsgd-bench"


def test_a_tilde_in_the_root_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMSGD_DATA", "~/by variable")
    assert data_root("~/data") == tmp_path / "data"
    assert data_root(None) == tmp_path / "by variable"


# --- the real files ------------------------------------------------------------------------------------------------


def test_the_real_r8_is_the_published_one(real_r8: Path) -> None:
    dataset = find("r8")
    dataset.verify(real_r8)
    assert dataset.fingerprint(real_r8, "real", verify=False) == dataset.fingerprint(Path(), "real", verify=True)
    lines = {file.split: len((real_r8 / file.name).read_bytes().splitlines()) for file in dataset.files}
    assert lines == {"train": 5485, "test": 2189} == {file.split: file.examples for file in dataset.files}


# --- a user's own entries ------------------------------------------------------------------------------------------

PLAIN_KEYS = ("title", "description", "homepage", "version", "published", "licence", "licence_url", "citation")
OWN_ENTRY = """\
title: Days
description: Some days
homepage: ""
version: "1"
published: ""
licence: none
licence_url: ""
citation: ""
obtain: put days.csv into {folder}
synthetic: own_days
files:
  - {name: days.csv, split: train, examples: 1}
fields:
  - {name: day, description: its number}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for --config-dir with an entry, and a module that writes synthetic data."""
    (tmp_path / "my/data_entries").mkdir(parents=True)
    (tmp_path / "my/data_entries/days.yaml").write_text(OWN_ENTRY, encoding="utf-8")
    code = "VERSION = 7\n\ndef write(folder):\n    (folder / 'days.csv').write_text('day 1')\n"
    (tmp_path / "own_days.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "my"
    sys.modules.pop("own_days", None)


def test_an_own_entry_is_found_and_used(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    days, root = find("days", [own / "data_entries"]), own / "data"
    assert days.prepare(root, "synthetic") == root / "synthetic/days"
    assert (root / "synthetic/days/days.csv").read_text() == "day 1"
    assert days.fingerprint(root, "synthetic", verify=True).startswith("synthetic-7-")
    assert cli.main(["data", "list", "--config-dir", str(own), "--root", str(root)]) == 0
    listed = capsys.readouterr().out
    assert f"put days.csv into {root / 'days'}" in listed and "r8: " in listed
    assert cli.main(["data", "list", "days", "--root", str(root)]) == 2
    assert "describe it in data_entries/days.yaml in the folder of --config-dir" in capsys.readouterr().err
    assert cli.main(["data", "list", "--config-dir", str(root)]) == 2
    assert "put your entries there" in capsys.readouterr().err


def test_changed_code_of_an_own_module_writes_its_data_anew(own: Path) -> None:
    """Its identity changes with it, so no run on the old data is taken for one on the new."""
    days, root = find("days", [own / "data_entries"]), own / "data"
    days.prepare(root, "synthetic")
    before, module = days.fingerprint(root, "synthetic", verify=True), own.parent / "own_days.py"
    module.write_text(module.read_text().replace("day 1", "another day"))  # of another size: compiled modules are kept
    sys.modules.pop("own_days")
    assert days.fingerprint(root, "synthetic", verify=True) != before
    days.prepare(root, "synthetic")
    assert (root / "synthetic/days/days.csv").read_text() == "another day"


def test_an_entry_of_the_package_comes_before_an_own_one(own: Path) -> None:
    (own / "data_entries/r8.yaml").write_text(OWN_ENTRY, encoding="utf-8")
    assert find("r8", [own / "data_entries"]) is catalog()["r8"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *((lambda text, key=key: re.sub(rf"^{key}:.*\n", "", text, flags=re.M), f"the key {key} is missing")
          for key in PLAIN_KEYS),
        (lambda text: text[: text.index("fields:")], "the key fields is missing"),
        (lambda text: text.replace("name: days.csv, ", ""), "files: the key name is missing"),
        (lambda text: text.replace("examples: 1", "examples: one"), "files: examples must be int, not 'one'"),
        (lambda text: text.replace("{name: days.csv, split: train, examples: 1}", "days.csv"), "files: each must have"),
        (lambda text: text.replace("examples: 1", "rows: 1"), "files: the key rows is unknown: there are name, url"),
        (lambda text: text.replace("description: its number", "unit: 1"), "fields: each must have a name and a desc"),
        (lambda text: re.sub(r"files:\n.*\n", "", text), "it needs files or folders"),
        (lambda text: text + "whole: false\n", "the key whole is unknown"),
        (lambda text: re.sub(r"obtain:.*\n", "", text), "the key obtain is missing"),
        (lambda text: "", "it must have the keys name, title"),
    ],
)  # fmt: skip
def test_each_key_that_an_own_entry_lacks_is_named(change: Callable[[str], str], reason: str, own: Path) -> None:
    path = own / "data_entries/days.yaml"
    path.write_text(change(OWN_ENTRY), encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        find("days", [path.parent])
    assert str(raised.value).startswith(f"{path} describes no data set ({reason}")


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (None, "names the module 'own_days', which cannot be imported"),
        ("VERSION = 1\n", "needs a whole number VERSION and a function write"),
    ],
)
def test_a_module_that_writes_no_synthetic_data_is_refused(code: str | None, sentence: str, own: Path) -> None:
    (own.parent / "own_days.py").unlink()
    if code is not None:
        (own.parent / "own_days.py").write_text(code, encoding="utf-8")
    with pytest.raises(ConfigError, match=sentence):
        find("days", [own / "data_entries"]).prepare(own / "data", "synthetic")


def test_the_files_of_the_test_split_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The remedy for a run that does not need them names the same option."""
    assert cli.main(["data", "verify", "voc2007", "--without-test", "--root", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert f"voc2007: {tmp_path / 'voc2007'} is missing" in text
    assert f"data prepare voc2007 --root {tmp_path} --without-test'" in text and "VOCtest" not in text
    assert cli.main(["data", "card", "voc2007", "--without-test"]) == 2
