"""The files and folders of a data set: how they are checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tmsgd_bench import manifest
from tmsgd_bench.data.texts import measure
from tmsgd_bench.files import file_digest


@dataclass(frozen=True)
class DataFile:
    """One published file.

    Args:
        name: its path in the data set's folder.
        url: where it is downloaded from; None if it comes in an archive or cannot be downloaded.
        sha256, md5: hexadecimal digest of its bytes, or as many of its first digits as the publisher gives; at most one
            of the two.
        bytes: its size, if known.
        split: "train" or "test"; empty for a file of both splits.
        examples: how many examples it holds.
        format: its media type.
        alternatives: other names that the file may have.
        lines: number of lines, for a large text file, plain or gzip, without a known digest.
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
        """Its path in a folder: the first of its names that exists there, by default ``name``."""
        paths = [folder / name for name in (self.name, *self.alternatives)]
        return next((path for path in paths if path.exists()), paths[0])

    @property
    def digest(self) -> str | None:
        """The published digest."""
        return self.sha256 or self.md5

    def digest_of(self, path: Path) -> str:
        """The digest of a file's bytes, by the algorithm of the published one."""
        return file_digest(path, "md5" if self.md5 else "sha256")

    @property
    def algorithm(self) -> str:
        """The name of the digest's algorithm."""
        return "MD5" if self.md5 else "SHA-256"

    def matches(self, path: Path) -> bool:
        """Whether a file's bytes have the published digest; True if there is none."""
        return self.digest is None or self.digest_of(path).startswith(self.digest)

    def problem(self, path: Path) -> str:
        """The problem of the file at a path, as a phrase; empty if there is none."""
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
        pattern: shell pattern of the names of its files.
        count: how many files there are.
        suffixes: the allowed endings of those names; empty to allow all.
        images: whether each file must be an image that can be decoded.
        split: "train" or "test"; empty for a folder of both splits.
        listed: path, in the data set's folder, of a list of its files' names without endings; empty if all files that
            match the pattern belong to it.
        without_test: for a folder of both splits, ``count`` and ``listed`` without the files of the test split.
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
        """Its files in the data set's folder, sorted; without hidden files and the manifest."""
        matches = (folder / self.name).glob(self.pattern)
        names = self._names(folder)
        return sorted(path for path in matches if self._includes(path, names))

    def _includes(self, path: Path, names: set[str] | None) -> bool:
        if path.name.startswith(".") or path.name == manifest.NAME or (names is not None and path.stem not in names):
            return False
        return (not self.suffixes or path.suffix.lower() in self.suffixes) and path.is_file()

    def _names(self, folder: Path) -> set[str] | None:
        """The listed names; None without a list. An unreadable list, reported elsewhere, is empty."""
        if not self.listed:
            return None
        try:
            return set((folder / self.listed).read_text(encoding="utf-8").split())
        except (OSError, UnicodeDecodeError):
            return set()

    def problem(self, folder: Path) -> str:
        """Its problem, as a phrase; empty if there is none."""
        count = len(self.paths(folder))
        if count == self.count:
            return ""
        which = f" and listed in {self.listed}" if self.listed else ""
        which += f" that end in {', '.join(self.suffixes)}" if self.suffixes else ""
        return f"{folder / self.name} holds {count:,} of {self.count:,} files named {self.pattern}{which}"

    def undecodable(self, folder: Path) -> str:
        """A phrase that names the first file that cannot be decoded, if all must be images; empty otherwise."""
        from PIL import Image  # here, because most commands do not need it

        for path in self.paths(folder) if self.images else ():
            try:
                with Image.open(path) as image:
                    image.load()
            except Exception:  # Pillow's decoders raise many kinds for a damaged file
                return f"{path} is no image, or a damaged one"
        return ""


def join(digests: Any) -> str:
    """One short digest (16 hexadecimal digits) of several."""
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]
