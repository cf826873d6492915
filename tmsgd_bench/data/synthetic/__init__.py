"""Synthetic data: small, learnable, and in the layout of a real data set.

They need no network, and are used by the demo, the smoke runs and the tests. Results on them say nothing about the real
data. Each module has the name of its data set and a function ``write(folder)``, which writes the same bytes every time.
``VERSION`` is part of a synthetic run's identity, and is raised whenever the bytes change. Of a user's own module
the code is part of it, too.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from types import ModuleType

from tmsgd_bench.data import sealed
from tmsgd_bench.errors import ConfigError
from tmsgd_bench.files import file_digest

log = logging.getLogger(__name__)

DIGITS = 8
MARK = "synthetic.json"
"""A file in a folder of synthetic data that records their version and the digests of the other files."""


def version(name: str, module: str = "") -> int | str:
    """The version of the synthetic data for a data set; of a user's own module with the first digits of its SHA-256.

    Args:
        module: that writes them; by default the one of the data set's name here.

    Raises:
        ConfigError: there are none for it.
    """
    writer = _module(name, module)
    if not module or writer.__file__ is None:
        return int(writer.VERSION)
    return f"{writer.VERSION}-{file_digest(Path(writer.__file__))[:DIGITS]}"


def write(name: str, folder: Path, module: str = "") -> None:
    """Write synthetic data for a data set into a folder, unless this version is there and undamaged.

    Args:
        module: that writes them; by default the one of the data set's name here.

    Raises:
        ConfigError: there are none for it.
        OSError, StoreError: the folder cannot be written.
    """
    writer, mark, current = _module(name, module), folder / MARK, version(name, module)
    if _is_current(mark, folder, current):
        return
    mark.unlink(missing_ok=True)
    try:
        writer.write(folder)
    except OSError:
        raise
    except Exception as error:
        if not module:
            raise
        raise ConfigError(
            f"{module}.write() failed for the data set {name} ({error!r}): correct {writer.__file__}."
        ) from error
    sealed.write_record(mark, {"version": current, "sha256": _digests(folder)})


def _module(name: str, module: str) -> ModuleType:
    if module:
        return _own(name, module)
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"there are no synthetic data for {name}: use data=real, or name the module that writes them as "
            "'synthetic' in the data set's own entry."
        ) from error


def _own(name: str, module: str) -> ModuleType:
    """The module that a user's own entry names."""
    try:
        writer = importlib.import_module(module)
    except Exception as error:  # a module may raise anything while it is imported
        raise ConfigError(
            f"'synthetic' in the entry of {name} names the module {module!r}, which cannot be imported ({error}): "
            "correct it, or say where it is, with PYTHONPATH=. for the current folder."
        ) from error
    if not isinstance(getattr(writer, "VERSION", None), int) or not callable(getattr(writer, "write", None)):
        raise ConfigError(
            f"{writer.__file__} needs a whole number VERSION and a function write(folder) to write synthetic data."
        )
    return writer


def _is_current(mark: Path, folder: Path, version: int | str) -> bool:
    """Whether a folder holds this version of its synthetic data, with every file as it was written."""
    written = sealed.read_record(mark)
    if written is None or written["version"] != version:
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
