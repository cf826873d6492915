"""What a data set consists of on disk, how each part is checked, and how it is fetched."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tmsgd_bench import manifest
from tmsgd_bench.data.sealed import CHUNK
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
        suffixes: endings that count, of those that fit the pattern; empty if all do.
        images: whether each file must be an image that can be decoded.
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
    suffixes: tuple[str, ...] = ()
    images: bool = False

    def paths(self, folder: Path) -> list[Path]:
        """Its files beneath the data set's folder, sorted; hidden ones and our manifest are not among them."""
        found = (folder / self.name).glob(self.pattern)
        names = self._names(folder)
        return sorted(path for path in found if self._counts(path, names))

    def _counts(self, path: Path, names: set[str] | None) -> bool:
        if path.name.startswith(".") or path.name == manifest.NAME or (names is not None and path.stem not in names):
            return False
        return (not self.suffixes or path.suffix.lower() in self.suffixes) and path.is_file()

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
        which += f" that end in {', '.join(self.suffixes)}" if self.suffixes else ""
        return f"{folder / self.name} holds {found:,} of {self.count:,} files named {self.pattern}{which}"

    def undecodable(self, folder: Path) -> str:
        """The first of its files that is no image although all must be, as a phrase; or an empty string."""
        from PIL import Image  # which a look at runs, or at the help, does not need

        for path in self.paths(folder) if self.images else ():
            try:
                with Image.open(path) as image:
                    image.load()
            except Exception:  # Pillow's decoders raise many kinds for a damaged file
                return f"{path} is no image, or a damaged one"
        return ""


def download(file: DataFile, path: Path, remedy: str, most: int | None = None) -> None:
    """Download under a temporary name, check, rename.

    Args:
        remedy: what to do if it fails, as the end of a sentence.
        most: no more bytes than this are fetched; None for the file's own size, where that is known.

    Raises:
        DataError: it cannot be had, or is not what was published.
    """
    assert file.url
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with urllib.request.urlopen(file.url, timeout=TIMEOUT_SECONDS) as source, temporary.open("wb") as target:
            _copy(source, target, file.bytes if most is None else most)
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


def _copy(source: IO[bytes], target: IO[bytes], most: int | None) -> None:
    copied = 0
    while chunk := source.read(CHUNK):
        copied += len(chunk)
        if most is not None and copied > most:
            raise OSError(f"it has more than {most:,} bytes")
        target.write(chunk)


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def join(digests: Any) -> str:
    """One short digest (16 hexadecimal digits) of several."""
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]
