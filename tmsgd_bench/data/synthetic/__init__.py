"""Small learnable stand-ins, each written in the layout of the data set it stands for.

They need no network and drive the demo, the smoke runs and the tests. Their numbers say nothing about the real data.
Each is a module named as its data set, with ``write(folder)``, which writes the same bytes every time, and ``VERSION``,
which is raised whenever they change: it is part of a synthetic run's identity.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from types import ModuleType

from tmsgd_bench.data import sealed
from tmsgd_bench.data.sources import file_digest
from tmsgd_bench.errors import ConfigError

log = logging.getLogger(__name__)

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
    sealed.write_record(mark, {"version": module.VERSION, "sha256": _digests(folder)})


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(f"{name} has no synthetic stand-in: use data=real.") from error


def _is_current(mark: Path, folder: Path, wanted: int) -> bool:
    """Whether a folder holds this version of a stand-in, with every file as it was written."""
    written = sealed.read_record(mark)
    if written is None or written["version"] != wanted:
        return False
    try:
        digests = _digests(folder)
    except OSError:
        digests = {}
    differing = sorted({name for name, _ in written["sha256"].items() ^ digests.items()})
    if differing:
        log.warning("%s is damaged, and the synthetic data of its folder are written anew", folder / differing[0])
    return not differing


def _digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in paths}
