"""What a data set consists of on disk, how each part is checked, and how it is fetched."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tmsgd_bench.data.texts import measure
from tmsgd_bench.errors import DataError

TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class DataFile:
    """One published file.

    Args:
        name: its path in the data set's folder.
        url: where it is downloaded from; None if it comes in an archive or cannot be downloaded.
        sha256, md5: hexadecimal digest of its bytes, or as much of its beginning as the publisher tells; one of them at
            most.
        bytes: its size, where it is known.
        split: "train" or "test"; empty for a file that serves both.
        examples: how many examples it holds.
        format: its media type.
        alternatives: other names under which it serves as well.
        lines: how many lines its text has, for a large text, plain or gzip, whose digest is not known.
    """

    name: str
    url: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    split: str = ""
    examples: int = 0
    format: str = ""
    md5: str | None = None
    alternatives: tuple[str, ...] = ()
    lines: int | None = None

    def path(self, folder: Path) -> Path:
        """Where it is in a folder: under its own name, unless it is there under another one alone."""
        paths = [folder / name for name in (self.name, *self.alternatives)]
        return next((path for path in paths if path.exists()), paths[0])

    @property
    def digest(self) -> str | None:
        """The published digest."""
        return self.sha256 or self.md5

    def digest_of(self, path: Path) -> str:
        """The digest of a file's bytes, of the published one's kind."""
        return file_digest(path, "md5" if self.md5 else "sha256")

    @property
    def algorithm(self) -> str:
        """The digest's kind, in words."""
        return "MD5" if self.md5 else "SHA-256"

    def matches(self, path: Path) -> bool:
        """Whether a file's bytes have the published digest; true where none is known."""
        return self.digest is None or self.digest_of(path).startswith(self.digest)

    def problem(self, path: Path) -> str:
        """What is wrong with the file at a path: a phrase, or an empty string."""
        try:
            size = path.stat().st_size
            if self.bytes is not None and size != self.bytes:
                return f"{path} has {size} bytes in place of {self.bytes}"
            if self.lines is not None and (lines := measure(path).lines) != self.lines:
                return f"{path} has {lines:,} lines in place of {self.lines:,}"
            return "" if self.matches(path) else f"{path} was altered (its {self.algorithm} differs)"
        except FileNotFoundError:
            return f"{path} is missing"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"


@dataclass(frozen=True)
class DataFolder:
    """A folder of many files that have no published digests.

    Args:
        name: its path in the data set's folder; "." for that folder itself.
        pattern: which of its files count, as a shell pattern.
        count: how many there are.
        split: "train" or "test"; empty for a folder that serves both.
        listed: path in the data set's folder of a list of the files that count, by their names without an ending; empty
            if all do.
        without_test: ``count`` and ``listed`` of what is not for testing, in a folder that serves both.
    """

    name: str
    pattern: str
    count: int
    split: str = ""
    listed: str = ""
    without_test: dict[str, Any] = field(default_factory=dict)

    def paths(self, folder: Path) -> list[Path]:
        """Its files beneath the data set's folder, sorted; hidden ones are not among them."""
        found = (folder / self.name).glob(self.pattern)
        names = self._names(folder)
        return sorted(
            path
            for path in found
            if not path.name.startswith(".") and (names is None or path.stem in names) and path.is_file()
        )

    def _names(self, folder: Path) -> set[str] | None:
        """Those listed; None if all files count. A list that cannot be read is a problem of its own."""
        if not self.listed:
            return None
        try:
            return set((folder / self.listed).read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError):
            return set()

    def problem(self, folder: Path) -> str:
        """What is wrong with it: a phrase, or an empty string."""
        found = len(self.paths(folder))
        if found == self.count:
            return ""
        which = f" and listed in {self.listed}" if self.listed else ""
        return f"{folder / self.name} holds {found:,} of {self.count:,} files named {self.pattern}{which}"


@dataclass(frozen=True)
class Archive:
    """A tar or zip file to download and unpack.

    Args:
        url: its address.
        members: what of it goes where: a path's beginning in the archive → its beginning in the folder.
        sha256, md5: its digest, where it is known; otherwise what comes out of it is checked alone.
        split: "test" for one that holds nothing else.
    """

    url: str
    members: dict[str, str] = field(default_factory=dict)
    sha256: str | None = None
    md5: str | None = None
    split: str = ""

    def fetch(self, folder: Path, remedy: str) -> None:
        """Download it and lay out what is not there yet; a file that is there is left as it is.

        Raises:
            DataError: the download fails or does not match, or it is no archive.
            OSError: the folder cannot be written.
        """
        path = folder / f".{PurePosixPath(self.url).name}"
        try:
            download(DataFile(path.name, self.url, sha256=self.sha256, md5=self.md5), path, remedy)
            for name, source in _members(path):
                if (target := self._target(name, folder)) is not None and not target.exists():
                    _write(source, target)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            reason = (str(error).splitlines() or ["it ends too early"])[0].rstrip(":")
            raise DataError(f"what {self.url} holds cannot be unpacked ({reason}): {remedy}") from error
        finally:
            path.unlink(missing_ok=True)

    def _target(self, name: str, folder: Path) -> Path | None:
        """Where a member goes; None for one that is not wanted, or that would leave the folder."""
        for old, new in self.members.items():
            if name.startswith(old) and ".." not in PurePosixPath(name).parts:
                return folder / (new + name.removeprefix(old))
        return None


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and contents of every file in an archive."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    with archive.open(info) as source:
                        yield info.filename, source
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and (contents := archive.extractfile(member)):
                yield member.name, contents


def _write(source: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.part")
    with temporary.open("wb") as file:
        shutil.copyfileobj(source, file)
    temporary.replace(target)


def download(file: DataFile, path: Path, remedy: str) -> None:
    """Download under a temporary name, check, rename.

    Args:
        remedy: what to do if it fails, as the end of a sentence.

    Raises:
        DataError: it cannot be had, or is not what was published.
    """
    assert file.url
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(file.url, timeout=TIMEOUT_SECONDS) as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target)
            announced = int(source.headers.get("Content-Length") or target.tell())
            if target.tell() < announced:
                raise OSError(f"the connection broke after {target.tell()} of {announced} bytes")
        if not file.matches(temporary):
            raise DataError(f"{file.url} no longer holds the published file (its {file.algorithm} differs): {remedy}")
        temporary.replace(path)
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"could not download {file.url} ({reason}): {remedy}") from error
    finally:
        temporary.unlink(missing_ok=True)


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def join(digests: Any) -> str:
    """One short digest (16 hexadecimal digits) of several."""
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]
