"""The data-set catalog: source, checksum and licence of each data set, and how to verify and prepare it.

``entries/<name>.yaml`` describes a data set; the user's own are in ``data_entries/`` of a folder that the user names.
Its files are in ``ROOT/<name>``; synthetic data with the same file names and formats are in ``ROOT/synthetic/<name>``.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from types import UnionType
from typing import Any, get_origin, get_type_hints

import yaml
from filelock import FileLock

from tmsgd_bench import manifest
from tmsgd_bench.data import fingerprints, synthetic
from tmsgd_bench.data.archives import Archive
from tmsgd_bench.data.downloads import download
from tmsgd_bench.data.sources import DataFile, DataFolder, join
from tmsgd_bench.errors import ConfigError, DataError, StoreError
from tmsgd_bench.files import os_reason

log = logging.getLogger(__name__)
OWN = "data_entries"
"""The folder of a user's own entries, within that of ``--config-dir``."""
OF_NO_ENTRY = ("whole", "entries")
"""What no entry says of itself."""


@dataclass(frozen=True)
class Dataset:
    """One entry of the catalog.

    Args:
        name: its key and its folder's name.
        title, description, homepage, version, published, licence, licence_url, citation: for its card.
        fields: name and description of each column.
        files, folders: its files, and its folders of many files.
        archives: from which files and folders without a URL are unpacked.
        obtain: how to get files that cannot be downloaded, as the end of a sentence.
        synthetic: the module that writes synthetic data, with ``VERSION`` and ``write(folder)``; by default that of the
            data set's name in :mod:`tmsgd_bench.data.synthetic`.
        entries: the folder of a user's own entry; None for one of this package.
        whole: False for the data set that :meth:`without_test` returns.
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
    synthetic: str = ""
    entries: Path | None = None

    def without_test(self) -> Dataset:
        """The data set without the files that only the test split uses, for evaluation on a validation split.

        It is in the same folder. Its fingerprint is the same whether or not the test split's files are there.
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
        """The folder of the real ("real") or the synthetic data ("synthetic") under a data root."""
        return root / self.name if kind == "real" else root / "synthetic" / self.name

    @property
    def pinned(self) -> bool:
        """Whether every file has a published digest, so that the verified fingerprint follows from the entry alone."""
        return not self.folders and all(file.digest for file in self.files)

    @property
    def is_downloadable(self) -> bool:
        """Whether :meth:`prepare` can download it, or you must get it yourself."""
        return bool(self.archives) or any(file.url for file in self.files)

    @property
    def examples(self) -> int:
        """How many examples all splits have together.

        Where folders hold them, their files are counted: lists of their names overlap.
        """
        if not self.folders:
            return sum(file.examples for file in self.files)
        counts = [folder.count for folder in self.folders]
        return max(*counts, sum(folder.count for folder in self.folders if folder.split))

    def lacking(self, root: Path) -> dict[str, str]:
        """By the name of a data set whose real files are not all there: what :meth:`prepare` will do about it.

        Their contents are not checked.
        """
        folder = self.folder(root, "real")
        downloaded = any(file.url and not file.path(folder).exists() for file in self.files)
        unpacked = self._lacks_members(folder)
        if not (downloaded or unpacked):
            return {}
        if unpacked and not self.archives:
            return {self.name: f"it cannot be downloaded: {self.remedy(folder)}"}
        return {self.name: f"it will be downloaded into {folder}"}

    def problems(self, folder: Path) -> list[str]:
        """The problems of the files in a folder, one phrase each."""
        if (self.folders or self.archives) and not folder.exists():
            return [f"{folder} is missing"]
        phrases = [file.problem(file.path(folder)) for file in self.files]
        phrases += [files_folder.problem(folder) for files_folder in self.folders]
        return [phrase for phrase in phrases if phrase] or self._changes(folder)

    def _changes(self, folder: Path) -> list[str]:
        """Changes of files without published digests since the data set was first verified."""
        if not self.folders or not (folder / manifest.NAME).exists():
            return []
        changes = fingerprints.compare(folder, self._names(folder), self._record_name(folder)).problems
        if not changes:
            return []
        more = f" (and {len(changes) - 1:,} more)" if len(changes) > 1 else ""
        return [f"{folder / changes[0]} in {folder / manifest.NAME}{more}"]

    def _record_name(self, folder: Path) -> str:
        """The name of the records that are kept about it beside the data."""
        return folder.name if self.whole else f"{folder.name}-without-test"

    def _paths(self, folder: Path) -> list[Path]:
        """Every file of the data set that exists."""
        single = [path for file in self.files if (path := file.path(folder)).exists()]
        return [*single, *(path for files_folder in self.folders for path in files_folder.paths(folder))]

    def _names(self, folder: Path) -> list[str]:
        """Those files as paths relative to the folder."""
        return fingerprints.names(folder, self._paths(folder))

    def verify(self, folder: Path) -> None:
        """Check every published digest, size and count.

        Raises:
            DataError: a file is missing, incomplete or altered.
        """
        if problems := self.problems(folder):
            unverified = ""
            if folder.exists() and not all("missing" in problem for problem in problems):
                unverified = " To use them as they are, unverified and outside every table: data.verify=false."
            raise DataError(f"{self.name}: {'; '.join(problems)}: {self.remedy(folder)}{unverified}")

    def remedy(self, folder: Path) -> str:
        """How to correct a missing or damaged file, as the end of a sentence."""
        by_hand = [f"{file.url} as {folder / file.name}" for file in self.files if file.url]
        by_hand += [f"what {archive.url} holds into {folder}" for archive in self.archives]
        if not by_hand:
            return f"{self.obtain.format(folder=folder)}."
        command = f"run 'python -m tmsgd_bench data prepare {self.name} --root {shlex.quote(str(folder.parent))}"
        command += "" if self.entries is None else f" --config-dir {shlex.quote(str(self.entries.parent))}"
        command += "'" if self.whole else " --without-test'"
        return f"{command} (delete a damaged file first), or put {' and '.join(by_hand)}."

    def fingerprint(self, folder: Path, kind: str, verify: bool) -> str:
        """A digest of the data set, which is part of a run's identity.

        Verified data with published digests need not be present for it. Otherwise every file is read, and the result is
        recorded until a file changes. Without ``verify``, it is of the files that are there.

        Raises:
            DataError: a file must be read for it and cannot be.
        """
        if kind == "synthetic":
            return f"synthetic-{synthetic.version(self.name, self.synthetic)}"
        if verify and self.pinned:
            return join(file.digest for file in self.files)
        if verify:
            self.verify(folder)
        try:
            if not self.folders:
                return join(fingerprints.digest(file.path(folder), file) for file in self.files)
            return fingerprints.fingerprint(folder, self._paths(folder), self._record_name(folder))
        except OSError as error:
            raise DataError(
                f"{self.name}: cannot read {error.filename} ({error.strerror}): {self.remedy(folder)}"
            ) from error

    def prepare(self, root: Path, kind: str, report: Callable[[str], None] = lambda _: None) -> Path:
        """Make the data set ready: download missing files and verify all, or write synthetic data.

        Two processes that prepare the same data set wait for each other.

        Args:
            root: the folder of all data sets.
            kind: "real" or "synthetic".
            report: called with a line of text for each download.

        Returns:
            The data set's folder.

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
                self._write_synthetic(folder)
            else:
                self._download_missing(folder, report)
        return folder

    def _write_synthetic(self, folder: Path) -> None:
        """Write synthetic data, unless this version of them is there and undamaged."""
        try:
            synthetic.write(self.name, folder, self.synthetic)
        except (OSError, StoreError) as error:
            raise DataError(
                f"cannot write synthetic data in place of {self.name} into {folder} ({os_reason(error)}): free some "
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
        """Record the digests of files without published ones in a manifest, so that later changes are noticed.

        Raises:
            DataError: a file that must be an image cannot be decoded.
        """
        names = self._names(folder)
        if fingerprints.compare(folder, names, self._record_name(folder)).complete:
            return
        if damaged := next(filter(None, (files_folder.undecodable(folder) for files_folder in self.folders)), ""):
            raise DataError(f"{self.name}: {damaged}: {self.remedy(folder)}")
        log.info("recording the SHA-256 of %s files in %s", f"{len(names):,}", folder / manifest.NAME)
        try:
            earlier = [name for name in manifest.read(folder) or {} if (folder / name).exists()]
            manifest.write(folder, [*names, *earlier])
        except (OSError, StoreError) as error:
            log.warning("%s cannot be written (%s)", folder / manifest.NAME, os_reason(error))

    def _lacks_members(self, folder: Path) -> bool:
        """Whether a file that comes in an archive is missing; a damaged one is not."""
        absent = any(not file.path(folder).exists() for file in self.files if not file.url)
        return absent or any(len(files_folder.paths(folder)) < files_folder.count for files_folder in self.folders)

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
    """Several data sets used as one, each in its own folder.

    Args:
        datasets: the data sets.
    """

    datasets: tuple[Dataset, ...]

    @property
    def name(self) -> str:
        """The data sets' names with "+" between them."""
        return "+".join(dataset.name for dataset in self.datasets)

    @property
    def pinned(self) -> bool:
        """See :attr:`Dataset.pinned`."""
        return all(dataset.pinned for dataset in self.datasets)

    def without_test(self) -> Combined:
        """See :meth:`Dataset.without_test`."""
        return Combined(tuple(dataset.without_test() for dataset in self.datasets))

    def folder(self, root: Path, kind: str) -> Path:
        """A path beside the data sets' folders whose last part is ``name``; no such folder exists."""
        return self.datasets[0].folder(root, kind).parent / self.name

    def fingerprint(self, folder: Path, kind: str, verify: bool) -> str:
        """See :meth:`Dataset.fingerprint`."""
        return "+".join(dataset.fingerprint(folder.parent / dataset.name, kind, verify) for dataset in self.datasets)

    def lacking(self, root: Path) -> dict[str, str]:
        """See :meth:`Dataset.lacking`."""
        return {name: phrase for dataset in self.datasets for name, phrase in dataset.lacking(root).items()}

    def prepare(self, root: Path, kind: str, report: Callable[[str], None] = lambda _: None) -> Path:
        """See :meth:`Dataset.prepare`."""
        for dataset in self.datasets:
            dataset.prepare(root, kind, report)
        return self.folder(root, kind)


def data_root(root: str | None) -> Path:
    """The folder of all data sets: ``root``, or TMSGD_DATA, or ``tmsgd-bench`` in the user's cache folder."""
    if folder := root or os.environ.get("TMSGD_DATA"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tmsgd-bench"


@cache
def catalog() -> dict[str, Dataset]:
    """Every data set by name.

    Raises:
        ConfigError: a file of ``entries`` cannot be read, or is no entry; the message names it.
    """
    entries = sorted((resources("tmsgd_bench.data") / "entries").iterdir(), key=lambda entry: entry.name)
    return {
        name: read_entry(name, Path(str(entry)))
        for entry in entries
        if (name := entry.name.removesuffix(".yaml")) != entry.name
    }


def read_entry(name: str, path: Path) -> Dataset:
    """The data set that a YAML file describes.

    Raises:
        ConfigError: it cannot be read, lacks a key, or has an unknown key or a value of a wrong type.
    """
    try:
        return _dataset(name, yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(os_reason(error).split())
        raise ConfigError(
            f"{path} describes no data set ({reason}): see README.md in tmsgd_bench/data/entries."
        ) from error


def own_entries(folders: Sequence[Path]) -> dict[str, Path]:
    """The files of a user's own entries by name; of two with one name, that in the first folder."""
    return {path.stem: path for folder in reversed(folders) for path in sorted(folder.glob("*.yaml"))}


def find(name: str, folders: Sequence[Path] = ()) -> Dataset:
    """A data set by name; this package's comes before a user's own one of the same name.

    Args:
        folders: of the user's own entries.

    Raises:
        ConfigError: there is none of that name, or its entry cannot be used.
    """
    if name in catalog():
        return catalog()[name]
    paths = own_entries(folders)
    if name not in paths:
        raise ConfigError(
            f"unknown data set {name!r}: choose one of {', '.join([*catalog(), *paths])}, or describe it in "
            f"{OWN}/{name}.yaml in the folder of --config-dir."
        )
    return replace(read_entry(name, paths[name]), entries=paths[name].parent)


def find_all(names: str, folders: Sequence[Path] = ()) -> Dataset | Combined:
    """A data set by name, or several with "+" between their names.

    Args:
        folders: of the user's own entries.

    Raises:
        ConfigError: there is none of a name.
    """
    datasets = tuple(find(name, folders) for name in names.split("+"))
    return datasets[0] if len(datasets) == 1 else Combined(datasets)


def _dataset(name: str, entry: Any) -> Dataset:
    if not isinstance(entry, Mapping):
        raise TypeError(f"it must have the keys {', '.join(_required(Dataset))}")
    lists = {
        key: tuple(_instance(kind, values, f"{key}: ") for values in entry.get(key) or ())
        for key, kind in (("files", DataFile), ("folders", DataFolder), ("archives", Archive))
    }
    dataset: Dataset = _instance(Dataset, {"name": name, **entry, **lists})
    for column in dataset.fields:
        if not isinstance(column, Mapping) or {"name", "description"} - set(column):
            raise TypeError(f"fields: each must have a name and a description, not {column!r}")
    if not (dataset.files or dataset.folders):
        raise TypeError("it needs files or folders")
    if not (dataset.obtain or dataset.archives or (dataset.files and all(file.url for file in dataset.files))):
        raise TypeError("the key obtain is missing, which says how to get files without a url")
    return dataset


def _required(kind: type[Any]) -> list[str]:
    """The fields of a dataclass that have no default."""
    return [field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING]


def _instance(kind: type[Any], values: Mapping[str, Any], place: str = "") -> Any:
    """An instance of a dataclass from plain values.

    Args:
        place: where they stand, for messages.

    Raises:
        TypeError: a value is missing, unknown, or of another type than its field.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"{place}each must have the keys {', '.join(_required(kind))}, not {values!r}")
    if missing := [key for key in _required(kind) if key not in values]:
        raise TypeError(f"{place}the key {missing[0]} is missing")
    known = [field.name for field in fields(kind) if field.name not in OF_NO_ENTRY]
    if unknown := [key for key in values if key not in known]:
        raise TypeError(f"{place}the key {unknown[0]} is unknown: there are {', '.join(known)}")
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    hints = get_type_hints(kind)
    for key, value in arguments.items():
        hint = hints.get(key, object)
        plain = hint if isinstance(hint, UnionType) else get_origin(hint) or hint
        if not isinstance(value, plain):
            raise TypeError(f"{place}{key} must be {getattr(plain, '__name__', plain)}, not {value!r}")
    return kind(**arguments)
