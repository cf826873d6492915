"""The data-set catalog: source, checksum, licence; verify and prepare.

``catalog.yaml`` holds the facts. A data set lives in ``ROOT/<name>``; its synthetic stand-in, with the same file
names and formats, in ``ROOT/synthetic/<name>``.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shlex
import shutil
import urllib.request
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from tmsgd_bench.data import synthetic
from tmsgd_bench.errors import ConfigError, DataError, StoreError
from tmsgd_bench.files import os_reason, write_json

TIMEOUT_SECONDS = 60
STAND_IN = "stand-in.json"


@dataclass(frozen=True)
class DataFile:
    """One published file.

    Args:
        name: its name in the data set's folder.
        url: where it is downloaded from.
        sha256: hexadecimal digest of its bytes.
        bytes: its size.
        split: "train" or "test".
        examples: how many examples it holds.
        format: its media type.
    """

    name: str
    url: str
    sha256: str
    bytes: int
    split: str
    examples: int
    format: str


@dataclass(frozen=True)
class Dataset:
    """One entry of the catalog.

    Args:
        name: its key and its folder's name.
        title, description, homepage, version, published, licence, licence_url, citation: for its card.
        files: what it consists of.
        fields: name and description of each column.
    """

    name: str
    title: str
    description: str
    homepage: str
    version: str
    published: str
    licence: str
    licence_url: str
    citation: str
    files: tuple[DataFile, ...]
    fields: tuple[dict[str, str], ...]

    def folder(self, root: Path, kind: str) -> Path:
        """Where the data set, or its stand-in, lives under a data root."""
        return root / self.name if kind == "real" else root / "synthetic" / self.name

    def problems(self, folder: Path) -> list[str]:
        """What is wrong with the files in a folder: one phrase each, none if all is as published."""
        return [problem for file in self.files if (problem := _problem(folder / file.name, file))]

    def verify(self, folder: Path) -> None:
        """Check every file's SHA-256.

        Raises:
            DataError: a file is missing, incomplete or altered.
        """
        if problems := self.problems(folder):
            raise DataError(f"{self.name}: {'; '.join(problems)}: {self.remedy(folder)}")

    def remedy(self, folder: Path) -> str:
        """What to do about a missing or damaged file, as the end of a sentence."""
        places = " and ".join(f"{file.url} as {folder / file.name}" for file in self.files)
        command = f"python -m tmsgd_bench data prepare {self.name} --root {shlex.quote(str(folder.parent))}"
        return f"run '{command}' (delete a damaged file first), or put {places}."

    def fingerprint(self, folder: Path, kind: str, verify: bool) -> str:
        """What identifies the contents in a run's identity. Verified data need not be present for it.

        Raises:
            DataError: ``verify`` is off and a file cannot be read.
        """
        if kind == "synthetic":
            return f"synthetic-{synthetic.VERSION}"
        if verify:
            return _join(file.sha256 for file in self.files)
        try:
            return _join(_sha256(folder / file.name) for file in self.files)
        except OSError as error:
            raise DataError(
                f"{self.name}: cannot read {error.filename} ({error.strerror}): {self.remedy(folder)}"
            ) from error

    def prepare(self, root: Path, kind: str, report: Callable[[str], None] = lambda _: None) -> Path:
        """Make the data set ready: verify it, download what is missing, or write its stand-in.

        Two processes that prepare the same data set wait for each other.

        Raises:
            DataError: a download fails or does not match, or the folder cannot be written.
        """
        folder = self.folder(root, kind)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make {folder} ({error.strerror}): choose another data.root.") from error
        lock = folder.parent / f".{folder.name}.lock"
        with FileLock(lock) if os.access(folder.parent, os.W_OK) else nullcontext():
            if kind == "synthetic":
                self._write_stand_in(folder)
            else:
                self._download_missing(folder, report)
        return folder

    def _write_stand_in(self, folder: Path) -> None:
        """Write the stand-in unless this version of it is there, whole."""
        mark = folder / STAND_IN
        names = [file.name for file in self.files]
        if mark.exists() and synthetic.is_current(mark, folder, names):
            return
        mark.unlink(missing_ok=True)
        try:
            synthetic.WRITERS[self.name](folder)
            write_json(mark, {"version": synthetic.VERSION, "sha256": {n: _sha256(folder / n) for n in names}})
        except (OSError, StoreError) as error:
            raise DataError(
                f"cannot write the stand-in of {self.name} into {folder} ({os_reason(error)}): free some "
                "space or choose another data.root."
            ) from error

    def _download_missing(self, folder: Path, report: Callable[[str], None]) -> None:
        for file in self.files:
            path = folder / file.name
            if not path.exists():
                report(f"downloading {file.url}")
                _download(file, path, self.remedy(folder))
        self.verify(folder)


def data_root(root: str | None) -> Path:
    """The folder of all data sets: ``root``, or TMSGD_DATA, or ``tmsgd-bench`` in the user's cache folder."""
    chosen = root or os.environ.get("TMSGD_DATA")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tmsgd-bench"


@cache
def catalog() -> dict[str, Dataset]:
    """Every data set by name."""
    entries: dict[str, dict[str, Any]] = yaml.safe_load(
        (files("tmsgd_bench.data") / "catalog.yaml").read_text(encoding="utf-8")
    )
    return {name: _dataset(name, entry) for name, entry in entries.items()}


def find(name: str) -> Dataset:
    """A data set by name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in catalog():
        raise ConfigError(f"unknown data set {name!r}: choose one of {', '.join(catalog())}.")
    return catalog()[name]


def _dataset(name: str, entry: dict[str, Any]) -> Dataset:
    listed = tuple(DataFile(**file) for file in entry["files"])
    return Dataset(name=name, **{**entry, "files": listed, "fields": tuple(entry["fields"])})


def _problem(path: Path, file: DataFile) -> str:
    """What is wrong with one file, or an empty string."""
    try:
        size = path.stat().st_size
        if size != file.bytes:
            return f"{path} has {size} bytes in place of {file.bytes}"
        return "" if _sha256(path) == file.sha256 else f"{path} was altered (its SHA-256 differs)"
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"


def _download(file: DataFile, path: Path, remedy: str) -> None:
    """Download under a temporary name, check, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with (
            urllib.request.urlopen(file.url, timeout=TIMEOUT_SECONDS) as source,
            temporary.open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
            announced = int(source.headers.get("Content-Length") or target.tell())
            if target.tell() < announced:
                raise OSError(f"the connection broke after {target.tell()} of {announced} bytes")
        if _sha256(temporary) != file.sha256:
            raise DataError(f"{file.url} no longer holds the published file (its SHA-256 differs): {remedy}")
        temporary.replace(path)
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"could not download {file.url} ({reason}): {remedy}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _join(digests: Any) -> str:
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]
