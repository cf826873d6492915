"""The data-set catalog: source, checksum, licence; verify and prepare.

``entries/<name>.yaml`` holds the facts. A data set lives in ``ROOT/<name>``; its synthetic stand-in, with the same file
names and formats, in ``ROOT/synthetic/<name>``.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Any, get_origin, get_type_hints

import yaml
from filelock import FileLock

from tmsgd_bench import manifest
from tmsgd_bench.data import contents, synthetic
from tmsgd_bench.data.archives import Archive
from tmsgd_bench.data.sources import DataFile, DataFolder, download, join
from tmsgd_bench.errors import ConfigError, DataError, StoreError
from tmsgd_bench.files import os_reason

log = logging.getLogger(__name__)

STAND_IN = synthetic.MARK


@dataclass(frozen=True)
class Dataset:
    """One entry of the catalog.

    Args:
        name: its key and its folder's name.
        title, description, homepage, version, published, licence, licence_url, citation: for its card.
        fields: name and description of each column.
        files, folders: what it consists of.
        archives: where those that have no address of their own come from.
        obtain: how to get what cannot be downloaded, as the end of a sentence.
        whole: false for what :meth:`without_test` returns.
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
    fields: tuple[dict[str, str], ...]
    files: tuple[DataFile, ...] = ()
    folders: tuple[DataFolder, ...] = ()
    archives: tuple[Archive, ...] = ()
    obtain: str = ""
    whole: bool = True

    def without_test(self) -> Dataset:
        """The same without what serves testing alone, for those who test on a part of the training data.

        It has the same folder, and the same fingerprint whether or not the rest lies in it too.
        """
        folders = (replace(folder, **folder.without_test, without_test={}) for folder in self.folders)
        return replace(
            self,
            files=tuple(file for file in self.files if file.split != "test"),
            folders=tuple(folder for folder in folders if folder.split != "test"),
            archives=tuple(archive for archive in self.archives if archive.split != "test"),
            whole=False,
        )

    def folder(self, root: Path, kind: str) -> Path:
        """Where the data set, or its stand-in, lives under a data root."""
        return root / self.name if kind == "real" else root / "synthetic" / self.name

    @property
    def pinned(self) -> bool:
        """Whether the published digests cover all of it, so that verified contents are known without reading them."""
        return not self.folders and all(file.digest for file in self.files)

    def problems(self, folder: Path) -> list[str]:
        """What is wrong with the files in a folder: one phrase each, none if all is as published."""
        found = [file.problem(file.path(folder)) for file in self.files]
        found += [part.problem(folder) for part in self.folders]
        return [problem for problem in found if problem] or self._changes(folder)

    def _changes(self, folder: Path) -> list[str]:
        """How files without published digests differ from what they were when the data set was verified first."""
        if not self.folders or not (folder / manifest.NAME).exists():
            return []
        found = contents.compare(folder, self._names(folder), self._label(folder)).problems
        if not found:
            return []
        more = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
        return [f"{folder / found[0]} in {folder / manifest.NAME}{more}"]

    def _label(self, folder: Path) -> str:
        """What findings about it are kept under, beside the data."""
        return folder.name if self.whole else f"{folder.name}-without-test"

    def _paths(self, folder: Path) -> list[Path]:
        """Every file of it that is there."""
        single = [path for file in self.files if (path := file.path(folder)).exists()]
        return [*single, *(path for part in self.folders for path in part.paths(folder))]

    def _names(self, folder: Path) -> list[str]:
        """The same as paths in the folder."""
        return contents.names(folder, self._paths(folder))

    def verify(self, folder: Path) -> None:
        """Check every published digest, size and count.

        Raises:
            DataError: a file is missing, incomplete or altered.
        """
        if problems := self.problems(folder):
            use = ""
            if folder.exists() and not all("missing" in problem for problem in problems):
                use = " To use them as they are, unverified and outside every table: data.verify=false."
            raise DataError(f"{self.name}: {'; '.join(problems)}: {self.remedy(folder)}{use}")

    def remedy(self, folder: Path) -> str:
        """What to do about a missing or damaged file, as the end of a sentence."""
        places = [f"{file.url} as {folder / file.name}" for file in self.files if file.url]
        places += [f"what {archive.url} holds into {folder}" for archive in self.archives]
        if not places:
            return f"{self.obtain.format(folder=folder)}."
        command = f"run 'python -m tmsgd_bench data prepare {self.name} --root {shlex.quote(str(folder.parent))}'"
        again = command if self.whole else "start again"  # the command would fetch all of it
        return f"{again} (delete a damaged file first), or put {' and '.join(places)}."

    def fingerprint(self, folder: Path, kind: str, verify: bool) -> str:
        """What identifies the contents in a run's identity.

        Verified data whose digests are published need not be present for it; of others every file is read (once: the
        result is kept until a file changes). Where the data set is many files without digests, those that are there
        make up the contents of unverified data.

        Raises:
            DataError: a file must be read for it and cannot be.
        """
        if kind == "synthetic":
            return f"synthetic-{synthetic.version(self.name)}"
        if verify and self.pinned:
            return join(file.digest for file in self.files)
        if verify:
            self.verify(folder)
        try:
            if not self.folders:
                return join(contents.digest(file.path(folder), file) for file in self.files)
            return contents.fingerprint(folder, self._paths(folder), self._label(folder))
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
        try:
            synthetic.write(self.name, folder)
        except (OSError, StoreError) as error:
            raise DataError(
                f"cannot write the stand-in of {self.name} into {folder} ({os_reason(error)}): free some "
                "space or choose another data.root."
            ) from error

    def _download_missing(self, folder: Path, report: Callable[[str], None]) -> None:
        for file in self.files:
            path = folder / file.name
            if file.url and not path.exists():
                report(f"downloading {file.url}")
                download(file, path, self.remedy(folder))
        if self._lacks_members(folder):
            for archive in self.archives:
                report(f"downloading {archive.url}")
                self._unpack(archive, folder)
        self.verify(folder)
        if self.folders and os.access(folder, os.W_OK):
            self._record(folder)

    def _record(self, folder: Path) -> None:
        """Note the digests of verified files that have no published ones, so that later changes are noticed.

        Raises:
            DataError: one that must be an image is none.
        """
        names = self._names(folder)
        if contents.compare(folder, names, self._label(folder)).complete:
            return
        if damaged := next(filter(None, (part.undecodable(folder) for part in self.folders)), ""):
            raise DataError(f"{self.name}: {damaged}: {self.remedy(folder)}")
        log.info("recording the SHA-256 of %s files in %s", f"{len(names):,}", folder / manifest.NAME)
        try:
            earlier = [name for name in manifest.read(folder) or {} if (folder / name).exists()]
            manifest.write(folder, [*names, *earlier])
        except (OSError, StoreError) as error:
            log.warning("%s cannot be written (%s)", folder / manifest.NAME, os_reason(error))

    def _lacks_members(self, folder: Path) -> bool:
        """Whether something that comes in an archive is not there at all; what is damaged is left as it is."""
        absent = any(not file.path(folder).exists() for file in self.files if not file.url)
        return absent or any(len(part.paths(folder)) < part.count for part in self.folders)

    def _unpack(self, archive: Archive, folder: Path) -> None:
        try:
            archive.fetch(folder, self.remedy(folder))
        except OSError as error:
            raise DataError(
                f"cannot unpack {archive.url} into {folder} ({os_reason(error)}): free some space or choose another "
                "data.root."
            ) from error


@dataclass(frozen=True)
class Combined:
    """Several data sets used as one; where each lies, and what is in it, is its own affair.

    Args:
        parts: the data sets.
    """

    parts: tuple[Dataset, ...]

    @property
    def name(self) -> str:
        """The parts' names with "+" between them."""
        return "+".join(part.name for part in self.parts)

    @property
    def pinned(self) -> bool:
        """See :attr:`Dataset.pinned`."""
        return all(part.pinned for part in self.parts)

    def without_test(self) -> Combined:
        """See :meth:`Dataset.without_test`."""
        return Combined(tuple(part.without_test() for part in self.parts))

    def folder(self, root: Path, kind: str) -> Path:
        """A path beside the parts' folders that ends in its name; there is nothing there."""
        return self.parts[0].folder(root, kind).parent / self.name

    def fingerprint(self, folder: Path, kind: str, verify: bool) -> str:
        """See :meth:`Dataset.fingerprint`."""
        return "+".join(part.fingerprint(folder.parent / part.name, kind, verify) for part in self.parts)

    def prepare(self, root: Path, kind: str, report: Callable[[str], None] = lambda _: None) -> Path:
        """See :meth:`Dataset.prepare`."""
        for part in self.parts:
            part.prepare(root, kind, report)
        return self.folder(root, kind)


def data_root(root: str | None) -> Path:
    """The folder of all data sets: ``root``, or TMSGD_DATA, or ``tmsgd-bench`` in the user's cache folder."""
    chosen = root or os.environ.get("TMSGD_DATA")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tmsgd-bench"


@cache
def catalog() -> dict[str, Dataset]:
    """Every data set by name.

    Raises:
        ConfigError: a file of ``entries`` cannot be read, or is no entry; names it.
    """
    entries = sorted((files("tmsgd_bench.data") / "entries").iterdir(), key=lambda entry: entry.name)
    return {
        name: read_entry(name, Path(str(entry)))
        for entry in entries
        if (name := entry.name.removesuffix(".yaml")) != entry.name
    }


def read_entry(name: str, path: Path) -> Dataset:
    """The data set that a YAML file describes.

    Raises:
        ConfigError: it cannot be read, lacks a key, or has an unknown one or one of a wrong kind.
    """
    try:
        return _dataset(name, yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(os_reason(error).split())
        raise ConfigError(f"{path} describes no data set ({reason}): see README.md beside it.") from error


def find(name: str) -> Dataset:
    """A data set by name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in catalog():
        raise ConfigError(f"unknown data set {name!r}: choose one of {', '.join(catalog())}.")
    return catalog()[name]


def find_all(names: str) -> Dataset | Combined:
    """A data set by name, or several with "+" between their names.

    Raises:
        ConfigError: there is none of a name.
    """
    parts = tuple(find(name) for name in names.split("+"))
    return parts[0] if len(parts) == 1 else Combined(parts)


def _dataset(name: str, entry: dict[str, Any]) -> Dataset:
    parts = {
        key: tuple(_made(kind, part) for part in entry.get(key, ()))
        for key, kind in (("files", DataFile), ("folders", DataFolder), ("archives", Archive))
    }
    whole: Dataset = _made(Dataset, {"name": name, **entry, **parts})
    return whole


def _made(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """An instance of a dataclass from plain values.

    Raises:
        TypeError: a value is missing, unknown, or of another kind than its field.
    """
    made = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    hints = get_type_hints(kind)
    for key, value in made.items():
        hint = hints.get(key, object)
        plain = hint if isinstance(hint, UnionType) else get_origin(hint) or hint
        if not isinstance(value, plain):
            raise TypeError(f"{key} must be {getattr(plain, '__name__', plain)}, not {value!r}")
    return kind(**made)
