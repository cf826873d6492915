"""Tar and zip files: downloaded, checked, and unpacked so that nothing outside the data set's folder can change.

Not every archive has a published digest, so none is trusted. The members' names are checked, and only their bytes are
written: no links, devices, owners or modes. An archive is first unpacked into a temporary folder, and its files are
moved to their places only if all members are in order.
"""

from __future__ import annotations

import shutil
import stat
import tarfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from tmsgd_bench.data.downloads import download
from tmsgd_bench.data.sealed import CHUNK
from tmsgd_bench.data.sources import DataFile
from tmsgd_bench.errors import DataError
from tmsgd_bench.files import os_reason

UNPACKING = ".unpacking"
"""The temporary folder, in the data set's folder; only one process uses it at a time."""
LONGEST_NAME, LONGEST_PATH = 200, 1000
"""Bytes of a file's name, and of its path in the data set's folder."""
BLOCK = 4096
"""Every file counts at least so many bytes, so that there cannot be millions of empty ones."""


class Unusable(Exception):
    """An archive is damaged or has a forbidden member; the message says so in a clause."""


@dataclass(frozen=True)
class Archive:
    """A tar or zip file to download and unpack.

    Args:
        url: its address.
        members: which members are unpacked where: the start of a path in the archive → its start in the folder.
        sha256, md5: its digest, if known. Otherwise only the unpacked files are checked.
        split: "test" for an archive that holds only files of the test split.
        most_bytes: an archive with more bytes, unpacked, is refused.
    """

    url: str
    members: dict[str, str] = field(default_factory=dict)
    sha256: str | None = None
    md5: str | None = None
    split: str = ""
    most_bytes: int = 4_000_000_000

    def fetch(self, folder: Path, remedy: str) -> None:
        """Download it and unpack the files that are missing; existing files are not touched.

        Raises:
            DataError: the download fails or does not match, or it is no archive, a damaged one, or one with a forbidden
                member; nothing of it is left then, but what came of a download that broke.
            OSError: the folder cannot be written.
        """
        temporary, name = folder / UNPACKING, PurePosixPath(self.url).name
        path, unpacked = folder / f".{name}", temporary / "members"
        shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process
        try:
            temporary.mkdir()
            download(DataFile(name, self.url, sha256=self.sha256, md5=self.md5), path, remedy, self.most_bytes)
            self._unpack(path, unpacked)
            _lay_out(unpacked, folder)
        except Unusable as error:
            raise DataError(f"what {self.url} holds cannot be unpacked ({error}): {remedy}") from error
        finally:
            path.unlink(missing_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)

    def _unpack(self, path: Path, folder: Path) -> None:
        """Write the members that are to be unpacked into a new folder."""
        left = self.most_bytes
        for member in _members(path):
            left -= max(member.size, BLOCK)
            if left < 0:
                raise Unusable(f"it has more than the {self.most_bytes:,} bytes that the data set's entry allows")
            target = self._target(member.name)
            if target is None:
                continue
            if problem := member.problem or name_problem(target):
                raise Unusable(f"its member {member.name[:80]!r} {problem}")
            _write(member, folder / target)

    def _target(self, name: str) -> str | None:
        """A member's path in the folder, not checked yet; None for a member that is not unpacked."""
        for old, new in self.members.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return None


@dataclass(frozen=True)
class Member:
    """A member of an archive that is not a folder.

    Args:
        name: in the archive.
        size: in bytes, as the archive announces it.
        problem: why it cannot be unpacked, as the rest of a sentence; empty for a plain file.
        open: opens it for reading, at most ``size`` bytes.
    """

    name: str
    size: int
    problem: str
    open: Callable[[], IO[bytes] | None]


def name_problem(target: str) -> str:
    """Why a path is not allowed in a data set's folder, as the rest of a sentence; empty if it is.

    A path is refused if it leads out of the folder on any system, or looks like another path.
    """
    parts = target.split("/")
    if not set(parts).isdisjoint(("", ".", "..")) or "\\" in target or ":" in target:
        return "would lie outside the data set's folder"
    if not target.isprintable() or unicodedata.normalize("NFKC", target) != target:
        return "has a name with invisible or ambiguous characters"
    if len(target.encode()) > LONGEST_PATH or any(len(part.encode()) > LONGEST_NAME for part in parts):
        return "has too long a name"
    return ""


def _members(path: Path) -> Iterator[Member]:
    """The members of an archive, without folders. Each must be read before the next one is asked for.

    Raises:
        Unusable: it is no archive, or a damaged one.
    """
    members = _zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path)
    while True:
        try:
            member = next(members, None)
        except Exception as error:  # both libraries and their decompressors raise many kinds for damaged files
            raise _damaged(error) from error
        if member is None:
            return
        yield member


def _damaged(error: Exception) -> Unusable:
    empty = "it ends too early" if isinstance(error, EOFError) else type(error).__name__
    return Unusable((os_reason(error) if str(error) else empty).rstrip(":"))


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where it was not made on Unix
            problem = "" if kind in (0, stat.S_IFREG) else "is not a plain file"
            if info.flag_bits & 1:
                problem = "is encrypted"
            if not info.is_dir():
                yield Member(info.filename, info.file_size, problem, lambda info=info: archive.open(info))  # type: ignore[misc]


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path) as archive:
        for info in archive:
            problem = "" if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else "is not a plain file"
            if not info.isdir():
                yield Member(info.name, info.size, problem, lambda info=info: archive.extractfile(info))  # type: ignore[misc]
        yield from _rest(archive)


def _rest(archive: tarfile.TarFile) -> Iterator[Member]:
    """The bytes after a tar file's last member, which must be zeros; reading them lets gzip check its checksum.

    Raises:
        tarfile.ReadError: there are other bytes; the library takes a damaged member for the end of the file.
    """
    assert archive.fileobj is not None
    ended = False
    while chunk := archive.fileobj.read(CHUNK):
        ended = not any(chunk)
        if not ended:
            raise tarfile.ReadError("it is damaged behind its last readable member")
        yield Member("", len(chunk), "", lambda: None)  # counts for most_bytes, and is not unpacked
    if not ended:
        raise tarfile.ReadError("it ends too early")


def _write(member: Member, target: Path) -> None:
    """Write a member's contents to a new file.

    Raises:
        Unusable: it is damaged, or another member has the same path.
        OSError: it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("xb")
    except (FileExistsError, NotADirectoryError) as error:
        raise Unusable(f"its member {member.name[:80]!r} is there twice") from error
    with file:
        for chunk in _chunks(member):
            file.write(chunk)


def _chunks(member: Member) -> Iterator[bytes]:
    """A member's contents.

    Raises:
        Unusable: it is damaged.
    """
    try:
        source = member.open()
        if source is None:
            raise EOFError
        with source:
            while chunk := source.read(CHUNK):
                yield chunk
    except Exception as error:  # see _members
        raise _damaged(error) from error


def _lay_out(unpacked: Path, folder: Path) -> None:
    """Move the unpacked files to their places, unless a file is there already."""
    for path in sorted(path for path in unpacked.rglob("*") if path.is_file()):
        target = folder / path.relative_to(unpacked)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
