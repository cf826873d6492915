"""Data sets that come in archives or are folders of many files, and what is prepared from them."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import Tensor

from tmsgd_bench import manifest
from tmsgd_bench.data import cache, fingerprints, texts
from tmsgd_bench.data.archives import Archive
from tmsgd_bench.data.catalog import Dataset, catalog, find
from tmsgd_bench.data.kept import KEPT
from tmsgd_bench.data.sources import DataFile, DataFolder
from tmsgd_bench.errors import DataError
from tmsgd_bench.task import TaskSettings

CONTENTS = {"points.csv": b"frame,x\na.jpg,1\n", "frames/a.jpg": b"first", "frames/b.jpg": b"second"}
ROOT = "repository-0123/data/"


def in_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def in_zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


PACK = {"pack.tar.gz": in_tar, "pack.zip": in_zip}


@pytest.fixture(params=PACK)
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An archive of a repository: the data set, beside much else."""
    path = tmp_path / request.param
    everything = {ROOT + name: data for name, data in CONTENTS.items()} | {"repository-0123/README": b"read me"}
    PACK[request.param](path, everything)
    return path


def dataset(archive: Path | None, **changes: object) -> Dataset:
    """A data set of one CSV with a known digest and a folder of two frames."""
    csv = CONTENTS["points.csv"]
    archives = () if archive is None else (Archive(archive.as_uri(), {ROOT: ""}),)
    whole = replace(
        find("fkpd"),
        name="small",
        files=(DataFile("points.csv", sha256=hashlib.sha256(csv).hexdigest(), split="train", examples=1),),
        folders=(DataFolder("frames", "*.jpg", 2),),
        archives=archives,
        obtain="ask the publisher for it and put it into {folder}",
    )
    return replace(whole, **changes)


def put(folder: Path) -> Path:
    for name, data in CONTENTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def held(folder: Path) -> dict[str, bytes]:
    """What a folder holds but for our record of it."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != manifest.NAME)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# --- archives ------------------------------------------------------------------------------------------------------


def test_prepare_unpacks_what_belongs_to_the_data_set_and_nothing_else(tmp_path: Path, published: Path) -> None:
    said: list[str] = []
    folder = dataset(published).prepare(tmp_path / "root", "real", said.append)
    assert held(folder) == CONTENTS
    assert said == [f"downloading {published.as_uri()}"]


def test_what_is_there_already_is_left_as_it_is_and_nothing_is_downloaded(tmp_path: Path) -> None:
    folder = put(tmp_path / "small")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    dataset(tmp_path / "nowhere.tar.gz").prepare(tmp_path, "real")
    assert {path: path.stat().st_mtime_ns for path in before} == before and held(folder) == CONTENTS


def test_missing_files_are_filled_in_beside_those_that_are_there(tmp_path: Path, published: Path) -> None:
    folder = put(tmp_path / "small")
    (folder / "frames/a.jpg").unlink()
    (folder / "frames/b.jpg").write_bytes(b"my own")
    dataset(published).prepare(tmp_path, "real")
    assert held(folder) == CONTENTS | {"frames/b.jpg": b"my own"}


def test_an_archive_of_other_bytes_than_published_is_refused(tmp_path: Path, published: Path) -> None:
    spoilt = (Archive(published.as_uri(), {ROOT: ""}, md5="0" * 32),)
    with pytest.raises(DataError, match="MD5"):
        dataset(None, archives=spoilt).prepare(tmp_path / "root", "real")
    assert held(tmp_path / "root/small") == {}


def test_something_that_is_no_archive_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "page.tar.gz").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"cannot be unpacked .*data prepare small") as raised:
        dataset(tmp_path / "page.tar.gz").prepare(tmp_path / "root", "real")
    assert str(tmp_path / "root/small") in str(raised.value)
    assert held(tmp_path / "root/small") == {}


def test_a_truncated_archive_is_refused_and_leaves_no_half_written_file(tmp_path: Path) -> None:
    path = tmp_path / "pack.tar.gz"
    in_tar(path, {ROOT + "frames/a.jpg": os.urandom(100_000)})
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(DataError):
        dataset(path).prepare(tmp_path / "root", "real")
    assert "frames/a.jpg" not in held(tmp_path / "root/small")


# --- checks --------------------------------------------------------------------------------------------------------


def test_a_folder_with_too_few_files_is_told_with_both_numbers(tmp_path: Path) -> None:
    folder = put(tmp_path)
    (folder / "frames/b.jpg").unlink()
    (problem,) = dataset(None).problems(folder)
    assert problem == f"{folder / 'frames'} holds 1 of 2 files named *.jpg"


def test_what_cannot_be_downloaded_is_told_how_to_get(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ask the publisher"):
        dataset(None).prepare(tmp_path, "real")


def test_data_that_differ_are_told_how_to_use_them_all_the_same(tmp_path: Path) -> None:
    folder = put(tmp_path)
    (folder / "points.csv").write_bytes(b"frame,x\na.jpg,2\n")
    with pytest.raises(DataError, match=r"was altered .*data\.verify=false"):
        dataset(None).verify(folder)


# --- files without published digests, as they were when they were verified first -------------------------------------


def flip(path: Path, position: float = 0.5) -> None:
    """Flip a bit of a file, at a share of its length, and leave its times as they were."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[int(position * (len(content) - 1))] ^= 0x40
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_file_that_changes_after_it_was_verified_is_noticed(tmp_path: Path) -> None:
    """Also one of the same size and time; and once it is mended, all is well."""
    folder, whole = put(tmp_path / "small"), dataset(None)
    whole.prepare(tmp_path, "real")
    flip(folder / "frames/b.jpg")
    for _ in range(2):
        with pytest.raises(DataError, match=r"small/frames/b\.jpg .*small/manifest\.json"):
            whole.prepare(tmp_path, "real")
    put(tmp_path / "small")
    whole.prepare(tmp_path, "real")


def test_what_joins_verified_files_is_recorded_with_them(tmp_path: Path) -> None:
    folder = put(tmp_path / "small")
    dataset(None).prepare(tmp_path, "real")
    (folder / "frames/c.jpg").write_bytes(b"third")
    more = dataset(None, folders=(DataFolder("frames", "*.jpg", 3),))
    more.prepare(tmp_path, "real")
    assert set(manifest.read(folder) or {}) == {*CONTENTS, "frames/c.jpg"}
    flip(folder / "frames/a.jpg")
    with pytest.raises(DataError, match=r"frames/a\.jpg differs"):
        more.prepare(tmp_path, "real")


def test_a_damaged_record_of_files_is_made_anew_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = put(tmp_path / "small")
    dataset(None).prepare(tmp_path, "real")
    before = (folder / manifest.NAME).read_bytes()
    (folder / manifest.NAME).write_bytes(before[:50])
    with caplog.at_level(logging.WARNING):
        dataset(None).prepare(tmp_path, "real")
    assert (folder / manifest.NAME).read_bytes() == before
    assert f"{folder / manifest.NAME} is damaged and is made anew" in caplog.text


def test_files_that_must_be_images_are_looked_at_before_they_are_used(tmp_path: Path) -> None:
    put(tmp_path / "small")
    images = dataset(None, folders=(DataFolder("frames", "*.*", 2, suffixes=(".jpg",), images=True),))
    with pytest.raises(DataError, match=r"frames/a\.jpg .*ask the publisher"):
        images.prepare(tmp_path, "real")
    (tmp_path / "small/frames/notes.txt").touch()  # no ending that counts
    assert images.problems(tmp_path / "small") == []


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-9]) and None,
    "empty": lambda path: path.write_bytes(b""),
    "no mapping": lambda path: path.write_text("[1, 2]") and None,
    "other kinds": lambda path: path.write_text('{"listing": 1, "fingerprint": {"a": []}, "problems": 3}') and None,
    **{f"bit at {share}": lambda path, share=share: flip(path, share) for share in (0.1, 0.4, 0.6, 0.8)},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_of_what_was_found_is_made_anew_with_a_warning(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be another identity, or hide a changed file."""
    folder, whole = put(tmp_path / "small"), dataset(None)
    whole.prepare(tmp_path, "real")
    before = whole.fingerprint(folder, "real", verify=True)
    records = sorted((tmp_path / texts.FOLDER).glob("*.json"))
    assert [path.name for path in records] == ["small-compared.json", "small-fingerprint.json"]
    written = [path.read_bytes() for path in records]
    for path in records:
        DAMAGES[damage](path)
    assert [path.read_bytes() for path in records] != written
    with caplog.at_level(logging.WARNING):
        assert whole.fingerprint(folder, "real", verify=True) == before
    assert all(f"{path} is damaged" in caplog.text for path in records)
    assert [path.read_bytes() for path in records] == written


def test_every_entrys_md5_is_torchvisions() -> None:
    """Typed in twice, so that a slip in one of them shows."""
    from torchvision.datasets import CIFAR10, CIFAR100

    for name, kind in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        entry = find(name)
        lists = [*kind.train_list, *kind.test_list]
        assert {file.name: file.md5 for file in entry.files} == {f"{kind.base_folder}/{n}": md5 for n, md5 in lists}
        assert [(one.url, one.md5) for one in entry.archives] == [(kind.url, kind.tgz_md5)]


@pytest.mark.parametrize("name", ["fkpd", "sneakers"])
def test_real_folders_are_whole_where_they_are_found(name: str) -> None:
    folder = Path(os.environ.get("TMSGD_DATA", "none")) / name
    if not folder.is_dir():
        pytest.skip(f"needs the real {name}: set TMSGD_DATA to the folder of the data sets")
    assert find(name).problems(folder) == []


# --- fingerprints --------------------------------------------------------------------------------------------------


def test_the_fingerprint_of_unpinned_data_is_that_of_their_bytes_and_names(tmp_path: Path) -> None:
    one, two = put(tmp_path / "one/small"), put(tmp_path / "two/small")
    whole = dataset(None)
    assert not whole.pinned
    before = whole.fingerprint(one, "real", verify=True)
    assert before == whole.fingerprint(two, "real", verify=True) == whole.fingerprint(one, "real", verify=False)
    (two / "frames/a.jpg").write_bytes(b"First")
    assert whole.fingerprint(two, "real", verify=True) != before
    (one / "frames/b.jpg").rename(one / "frames/c.jpg")
    assert whole.fingerprint(one, "real", verify=True) != before


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, whole = put(tmp_path / "small"), dataset(None)
    before = whole.fingerprint(folder, "real", verify=False)
    monkeypatch.setattr(fingerprints, "file_digest", lambda path: pytest.fail(f"{path} was read"))
    assert whole.fingerprint(folder, "real", verify=False) == before


def test_unpinned_data_that_are_missing_have_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing"):
        dataset(None).fingerprint(tmp_path / "small", "real", verify=True)


def test_every_pinned_data_set_is_identified_without_its_files(tmp_path: Path) -> None:
    pinned = [entry for entry in catalog().values() if entry.pinned]
    found = {entry.fingerprint(tmp_path / "not there", "real", verify=True) for entry in pinned}
    assert len(found) == len(pinned) > 0


# --- prepared tensors ----------------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> TaskSettings:
    return TaskSettings(tmp_path / "small", None, 1, 0, torch.device("cpu"), {}, fingerprint="f")


class Maker:
    """Makes tensors, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0
        self.lock = threading.Lock()

    def __call__(self) -> dict[str, Tensor]:
        with self.lock:
            self.calls += 1
        return {"frames": torch.arange(6, dtype=torch.uint8).view(2, 3), "points": torch.tensor([0.5])}


def test_prepared_tensors_are_made_once(settings: TaskSettings) -> None:
    make = Maker()
    first, second = (cache.tensors(settings, "frames", {"side": 8}, make) for _ in range(2))
    assert make.calls == 1
    assert all(torch.equal(first[name], second[name]) and first[name].dtype == second[name].dtype for name in first)


def test_other_data_and_other_options_have_tensors_of_their_own(settings: TaskSettings) -> None:
    make = Maker()
    cache.tensors(settings, "frames", {"side": 8}, make)
    cache.tensors(settings, "frames", {"side": 9}, make)
    cache.tensors(settings, "masks", {"side": 8}, make)
    cache.tensors(replace(settings, fingerprint="g"), "frames", {"side": 8}, make)
    assert make.calls == 4


def test_those_who_need_the_same_at_once_wait_for_each_other(settings: TaskSettings) -> None:
    make = Maker()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: cache.tensors(settings, "frames", {}, make), range(4)))
    assert make.calls == 1


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: b"", lambda data: b"x" * len(data)])
def test_damaged_tensors_are_made_anew_with_a_warning(
    damage: Callable[[bytes], bytes], settings: TaskSettings, caplog: pytest.LogCaptureFixture
) -> None:
    make = Maker()
    cache.tensors(settings, "frames", {}, make)
    (path,) = (settings.data_folder.parent / texts.FOLDER).glob("*.pt")
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(cache.tensors(settings, "frames", {}, make)["frames"], Maker()()["frames"])
    assert make.calls == 2 and "is damaged" in caplog.text
    cache.tensors(settings, "frames", {}, make)
    assert make.calls == 2


def test_where_nothing_can_be_kept_they_are_made_for_each_run_with_a_warning(
    settings: TaskSettings, caplog: pytest.LogCaptureFixture
) -> None:
    (settings.data_folder.parent / texts.FOLDER).write_text("in the way")
    make = Maker()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert set(cache.tensors(settings, "frames", {}, make)) == {"frames", "points"}
    assert make.calls == 2 and "made anew for each run" in caplog.text


def test_what_goes_wrong_in_the_making_is_not_hidden(settings: TaskSettings) -> None:
    def fail() -> dict[str, Tensor]:
        raise DataError("frames/a.jpg is no image")

    with pytest.raises(DataError, match=r"a\.jpg"):
        cache.tensors(settings, "frames", {}, fail)


class Kept:
    """Tensors of many options, and the files that they lie in."""

    def __init__(self, settings: TaskSettings) -> None:
        self.settings = settings
        self.folder = settings.data_folder.parent / texts.FOLDER
        self.folder.mkdir()

    @property
    def names(self) -> set[str]:
        """Of all files but the locks, which stay."""
        return {path.name for path in self.folder.iterdir() if path.suffix != ".lock"}

    def use(self, side: int, name: str = "frames") -> dict[str, Tensor]:
        """The tensors of some options, which are in use as long as the result is."""
        return cache.tensors(self.settings, name, {"side": side}, Maker())

    def file(self, side: int, name: str = "frames") -> str:
        """The file of the same."""
        before = self.names
        self.use(side, name)
        (made,) = self.names - before
        return made


@pytest.fixture
def kept(settings: TaskSettings) -> Kept:
    return Kept(settings)


def test_of_many_options_the_tensors_used_last_are_kept(kept: Kept) -> None:
    first = kept.file(0)
    others = []
    for side in range(1, 6):
        others.append(kept.file(side))
        kept.use(0)  # again and again
    assert kept.names == {first, *others[-2:]} and KEPT == 3


def test_tensors_in_use_are_not_deleted(kept: Kept) -> None:
    """However many others are made; and once they are let go, they are."""
    file, held = kept.file(0), kept.use(0)
    part = held["frames"][1:]
    del held
    for side in range(1, 6):
        kept.use(side)
    assert file in kept.names and len(kept.names) == KEPT + 1
    assert torch.equal(part, Maker()()["frames"][1:])
    del part
    kept.use(6)
    assert file not in kept.names and len(kept.names) == KEPT


def test_tensors_that_another_process_uses_are_not_deleted(kept: Kept) -> None:
    file = kept.file(0)
    hold = (
        "import sys; from pathlib import Path; from tmsgd_bench.data.kept import hold; held = hold(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", f"{hold}; print(flush=True); sys.stdin.read()", str(kept.folder / file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"\n"
        for side in range(1, 6):
            kept.use(side)
        assert file in kept.names and len(kept.names) == KEPT + 1
    kept.use(6)  # it has ended, and its lock with it
    assert file not in kept.names and len(kept.names) == KEPT


def test_tensors_that_somebody_is_about_to_use_are_not_deleted(kept: Kept) -> None:
    file = kept.file(0)
    with FileLock((kept.folder / file).with_suffix(".lock")):
        for side in range(1, 6):
            kept.use(side)
        assert file in kept.names
    kept.use(6)
    assert file not in kept.names


def test_nothing_of_another_name_is_deleted(kept: Kept) -> None:
    """Nor of another data set; a name may be the beginning of another."""
    others = {kept.file(side, name) for side in range(KEPT) for name in ("frames-part", "masks")}
    for name in ("large-frames-0123456789abcdef.pt", "small-frames-0.pt", "small-frames-fingerprint.json"):
        (kept.folder / name).touch()
        others.add(name)
    for side in range(6):
        kept.use(side)
    assert others < kept.names and len(kept.names) == len(others) + KEPT


def test_what_killed_processes_left_is_deleted(kept: Kept) -> None:
    """Also of the very tensors that are made now, but not what is being written."""
    own, other, busy = (kept.file(side) for side in range(3))
    (kept.folder / own).unlink()
    for name in (own, other, busy):
        (kept.folder / f".{name}.123.456.tmp").touch()
    with FileLock((kept.folder / busy).with_suffix(".lock")):
        kept.use(0)
    assert kept.names == {own, other, busy, f".{busy}.123.456.tmp"}
