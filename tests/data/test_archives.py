"""Nothing in an archive leaves the data set's folder, and of one that is refused nothing is left."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tmsgd_bench.data.archives import Archive, name_problem
from tmsgd_bench.data.catalog import catalog
from tmsgd_bench.errors import DataError

ROOT = "repository-0123/data/"
GOOD = {"points.csv": b"frame,x\n", "frames/a.jpg": b"first"}
REMEDY = "do something about it."
Put = Callable[[tarfile.TarFile], None]


def tar_with(path: Path, *puts: Put) -> Path:
    """A tar file with the good members and others behind them."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in GOOD.items():
            plain(ROOT + name, content)(archive)
        for put in puts:
            put(archive)
    return path


def plain(name: str, content: bytes = b"hostile", **changes: Any) -> Put:
    def put(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for key, value in changes.items():
            setattr(info, key, value)
        archive.addfile(info, io.BytesIO(content))

    return put


def special(name: str, kind: bytes, target: str = "") -> Put:
    def put(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)

    return put


def zip_with(path: Path, *infos: zipfile.ZipInfo) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in GOOD.items():
            archive.writestr(ROOT + name, content)
        for info in infos:
            archive.writestr(info, b"hostile")
    return path


def zipped(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("name")
    info.filename, info.external_attr = name, mode << 16  # a name that the constructor would mend
    return info


OUTSIDE = (
    "/{victim}",
    "//{victim}",
    "./../{name}",
    "../{name}",
    "../../{name}",
    "a/../../{name}",
    "a/../b.jpg",
    "..",
    ".",
    "./a.jpg",
    "a/./b.jpg",
    "a//b.jpg",
    "a/",
    "/",
    "",
    "\\{victim}",
    "..\\{name}",
    "frames\\a.jpg",
    "a/..\\..\\{name}",
    "C:\\{name}",
    "C:{name}",
    "c:/{name}",
    "\\\\server\\share\\{name}",
    "//server/share/{name}",
    "a.jpg:stream",
    "~/../{name}",
    "frames/../../../{name}",
)
DISGUISED = (
    "．．/{name}",
    "‥/{name}",
    "a／b.jpg",
    "a\u2215\u202eb.jpg",
    "a\u200b.jpg",
    "a\u202egpj.exe",
    "a\x00.jpg",
    "a\n.jpg",
    "a\x1b[2J.jpg",
    "e\u0301.jpg",
    "ﬁle.jpg",
)
LONG = ("a" * 300 + ".jpg", "b" * 5000, "/".join(["c" * 100] * 40), "ä" * 150)
NAMES = (*OUTSIDE, *DISGUISED, *LONG)
KINDS = {
    "symbolic link outside": [special(ROOT + "link", tarfile.SYMTYPE, "../../outside")],
    "file through it": [special(ROOT + "link", tarfile.SYMTYPE, "../../outside"), plain(ROOT + "link/victim")],
    "link within": [special(ROOT + "link", tarfile.SYMTYPE, "points.csv")],
    "dangling link": [special(ROOT + "link", tarfile.SYMTYPE, "nowhere")],
    "hard link outside": [special(ROOT + "link", tarfile.LNKTYPE, "../../outside/victim")],
    "hard link to a member": [special(ROOT + "link", tarfile.LNKTYPE, ROOT + "points.csv")],
    "character device": [special(ROOT + "null", tarfile.CHRTYPE)],
    "block device": [special(ROOT + "disk", tarfile.BLKTYPE)],
    "fifo": [special(ROOT + "pipe", tarfile.FIFOTYPE)],
    "contiguous": [special(ROOT + "odd", tarfile.CONTTYPE)],
    "unknown": [special(ROOT + "odd", b"Z")],
    "twice": [plain(ROOT + "points.csv")],
    "file and folder": [plain(ROOT + "points.csv/below")],
    "folder and file": [plain(ROOT + "frames")],
}
ZIP_KINDS = {
    "symbolic link": stat.S_IFLNK | 0o777,
    "device": stat.S_IFCHR | 0o666,
    "fifo": stat.S_IFIFO | 0o666,
    "socket": stat.S_IFSOCK | 0o666,
}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with all that could be hit: a victim beside the data root, and the data set's empty folder in it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/victim").write_bytes(b"precious")
    (tmp_path / "root/small").mkdir(parents=True)
    return tmp_path


def every_file(folder: Path) -> dict[str, bytes | str]:
    """All that lies in a folder but for the archive itself; of links, where they lead."""
    found: dict[str, bytes | str] = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[str(path)] = str(path.readlink())
        elif not path.is_dir() and path.name != "pack":
            found[str(path)] = path.read_bytes() if path.is_file() else "special"
    return found


def fetch(world: Path, **changes: Any) -> None:
    Archive((world / "pack").as_uri(), {ROOT: ""}, **changes).fetch(world / "root/small", REMEDY)


def refused(world: Path, **changes: Any) -> str:
    """What is said about the archive, of which nothing stays."""
    before = every_file(world)
    with pytest.raises(DataError) as raised:
        fetch(world, **changes)
    assert every_file(world) == before and list((world / "root/small").iterdir()) == []
    message = str(raised.value)
    assert (world / "pack").as_uri() in message and REMEDY in message
    assert "\n" not in message and len(message) < 500
    return message


def placed(name: str, world: Path) -> str:
    return name.format(victim=str(world / "outside/victim")[1:], name="outside/victim")


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_a_hostile_name_is_refused(world: Path, name: str) -> None:
    """In a tar file, and in a zip file; NUL ends a name there, and an empty rest is the folder itself."""
    target = placed(name, world)
    assert name_problem(target)
    if "\0" not in name:
        tar_with(world / "pack", plain(ROOT + target))
        refused(world)
    if "\0" not in name and target[-1:] not in ("/", ""):
        zip_with(world / "pack", zipped(ROOT + target))
        refused(world)


def test_a_name_that_is_no_text_is_refused(world: Path) -> None:
    tar_with(world / "pack", plain(ROOT + "a\udcff.jpg"))
    assert "invisible or ambiguous characters" in refused(world)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_plain_file_of_its_own_is_refused(world: Path, kind: str) -> None:
    tar_with(world / "pack", *KINDS[kind])
    assert ("is there twice" if "twice" in kind or " and " in kind else "is not a plain file") in refused(world)


@pytest.mark.parametrize("kind", ZIP_KINDS)
def test_what_is_no_plain_file_in_a_zip_is_refused(world: Path, kind: str) -> None:
    zip_with(world / "pack", zipped(ROOT + "odd", ZIP_KINDS[kind]))
    assert "is not a plain file" in refused(world)


def test_owners_and_modes_are_not_taken_over(world: Path) -> None:
    tar_with(world / "pack", plain(ROOT + "tool", mode=0o6777, uid=0, gid=0))
    fetch(world)
    mode = (world / "root/small/tool").stat().st_mode
    assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR | stat.S_IWOTH)


def test_what_is_not_wanted_is_not_looked_at(world: Path) -> None:
    """Nothing of it is written, so that it may be anything."""
    tar_with(world / "pack", plain("/etc/passwd"), plain("../out"), special("link", tarfile.SYMTYPE, "/"))
    before = every_file(world / "outside")
    fetch(world)
    small = world / "root/small"
    assert {path.relative_to(small).as_posix(): path.read_bytes() for path in small.rglob("*.*")} == GOOD
    assert every_file(world / "outside") == before and not (world / "root/out").exists()


def test_an_encrypted_zip_is_refused(world: Path) -> None:
    path = zip_with(world / "pack", zipped(ROOT + "secret"))
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "is encrypted" in refused(world)


@pytest.mark.parametrize("compressed", [True, False])
def test_an_archive_with_more_than_its_entry_allows_is_refused(world: Path, compressed: bool) -> None:
    """Before it is unpacked, by the sizes that it announces; as a download, if it is not compressed."""
    zeros = plain(ROOT + "zeros", bytes(10_000_000))
    path = tar_with(world / "pack", zeros)
    if compressed:
        assert "more than the 1,000,000 bytes" in refused(world, most_bytes=1_000_000)
        return
    path.write_bytes(gzip.decompress(path.read_bytes()))
    with pytest.raises(DataError, match=r"1,000,000 bytes"):
        fetch(world, most_bytes=1_000_000)
    assert list((world / "root/small").iterdir()) == []


def test_too_many_empty_members_are_refused(world: Path) -> None:
    tar_with(world / "pack", *(plain(f"{ROOT}{number}", b"") for number in range(100)))
    assert "more than the 100,000 bytes" in refused(world, most_bytes=100_000)


@pytest.mark.parametrize("pack", ["tar", "gz", "zip"])
def test_an_archive_that_is_cut_off_anywhere_is_refused(world: Path, pack: str) -> None:
    path = world / "pack"
    if pack == "zip":
        zip_with(path)
    else:
        tar_with(path, plain(ROOT + "noise", os.urandom(3000)))
    whole = path.read_bytes()
    if pack == "tar":  # up to the first of the two empty blocks at its end
        whole = gzip.decompress(whole)[: 512 * 12 + 1]
    for length in (*range(0, len(whole) - 1, 211), *range(512, len(whole) - 1, 512), len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(world)


@pytest.mark.parametrize("pack", ["gz", "zip"])
def test_a_flipped_bit_is_refused_or_harmless(world: Path, pack: str) -> None:
    """One in a time of change, say, makes no difference to what is unpacked."""
    path = tar_with(world / "pack") if pack == "gz" else zip_with(world / "pack")
    whole, small = path.read_bytes(), world / "root/small"
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        try:
            fetch(world)
        except DataError:
            assert list(small.iterdir()) == []
            continue
        for found in (found for found in small.rglob("*") if found.is_file()):
            assert found.read_bytes() in GOOD.values()
            found.unlink()
        for folder in small.iterdir():
            folder.rmdir()


def test_what_a_killed_process_left_is_no_hindrance(world: Path) -> None:
    (world / "root/small/.unpacking/members").mkdir(parents=True)
    (world / "root/small/.unpacking/members/half").write_bytes(b"ha")
    tar_with(world / "pack")
    fetch(world)
    assert {path.name for path in (world / "root/small").iterdir()} == {"points.csv", "frames"}


def test_every_downloaded_data_set_is_checked_by_a_digest_or_file_by_file() -> None:
    for entry in catalog().values():
        for archive in entry.archives:
            pinned = archive.sha256 or archive.md5
            assert pinned or entry.version in archive.url  # else it is of one commit
            assert pinned or all(folder.images and folder.count for folder in entry.folders)
