"""Small learnable stand-ins, each written in the layout of the data set it stands for.

They need no network and drive the demo, the smoke runs and the tests. Their numbers say nothing about the real data.
Each is a module named as its data set, with ``write(folder)``, which writes the same bytes every time, and ``VERSION``,
which is raised whenever they change: it is part of a synthetic run's identity.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from tmsgd_bench.data.sources import file_digest
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.files import read_json, write_json

MARK = "stand-in.json"


def version(name: str) -> int:
    """The version of a data set's stand-in.

    Raises:
        ConfigError: it has none.
    """
    return int(_module(name).VERSION)


def write(name: str, folder: Path) -> None:
    """Write a data set's stand-in into a folder, unless this version of it is there, whole.

    Raises:
        ConfigError: it has none.
        OSError, StoreError: the folder cannot be written.
    """
    module, mark = _module(name), folder / MARK
    if _is_current(mark, folder, module.VERSION):
        return
    mark.unlink(missing_ok=True)
    module.write(folder)
    write_json(mark, {"version": module.VERSION, "sha256": _digests(folder)})


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(f"{name} has no synthetic stand-in: use data=real.") from error


def _is_current(mark: Path, folder: Path, wanted: int) -> bool:
    """Whether a folder holds this version of a stand-in, with every file as it was written."""
    written = read_json(mark) or {}
    if written.get("version") != wanted:
        return False
    try:
        return bool(written.get("sha256") == _digests(folder))
    except OSError:
        return False


def _digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in paths}
