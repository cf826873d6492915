"""A process that ends itself at one chosen operation on a file.

The project's code is not changed for it: in a new process, Python's functions that open, write, rename and delete files
are replaced before run.py is loaded.
"""

from __future__ import annotations

import builtins
import io
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WHEN = ("before", "torn", "after")
OPERATIONS = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir")


@dataclass(frozen=True)
class Wound:
    """Where a process ends itself.

    Args:
        root: operations below this folder are counted, if they are of the main thread, whose order is always the same.
        at: the number of the operation, from 1; 0 for never.
        when: before or after the operation, or "torn": when half of a file is written.
        signal: the signal that the process sends to itself.
    """

    root: Path
    at: int = 0
    when: str = "before"
    signal: int = signal.SIGKILL


class Watch:
    """Counts operations and strikes at the one of a wound.

    Args:
        wound: where to strike.
    """

    def __init__(self, wound: Wound) -> None:
        self.wound, self.seen = wound, 0

    def is_due(self, path: object, folder: int | None = None) -> bool:
        """Count an operation on a path, or on a path relative to an open folder; whether it is the one."""
        if threading.current_thread() is not threading.main_thread() or not self._is_beneath(path, folder):
            return False
        self.seen += 1
        return self.seen == self.wound.at

    def strike(self) -> None:
        """End this process, or interrupt it."""
        os.kill(os.getpid(), self.wound.signal)

    def _is_beneath(self, path: object, folder: int | None) -> bool:
        if not isinstance(path, str | os.PathLike):
            return False
        base = _opened(folder) if folder is not None else Path()
        return (base / path).absolute().is_relative_to(self.wound.root)


class Torn:
    """A file whose first writing breaks off in the middle.

    Args:
        file: the file itself.
        watch: strikes then.
    """

    def __init__(self, file: Any, watch: Watch) -> None:
        self.file, self.watch = file, watch

    def write(self, data: Any) -> int:
        """Write the first half, and strike; all of it if the process outlives that."""
        half = len(data) // 2
        self.file.write(data[:half])
        self.file.flush()
        self.watch.strike()
        return half + int(self.file.write(data[half:]))

    def __enter__(self) -> Torn:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def inflict(wound: Wound) -> Watch:
    """Replace this process's functions on files; there is no way back."""
    watch = Watch(wound)
    for name in OPERATIONS:
        setattr(os, name, _wounded(getattr(os, name), watch))
    io.open = builtins.open = _wounded_open(builtins.open, watch)
    os.fsync = _wounded_fsync(os.fsync, watch)  # type: ignore[assignment]
    return watch


def _wounded(operation: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    def wounded(path: Any, *rest: Any, **options: Any) -> Any:
        folder = options.get("dir_fd") or options.get("src_dir_fd")
        return _around(watch, watch.is_due(path, folder), lambda: operation(path, *rest, **options))

    return wounded


def _around(watch: Watch, due: bool, operation: Callable[[], Any]) -> Any:
    if due and watch.wound.when != "after":
        watch.strike()
    try:
        return operation()
    finally:  # also after one that failed, such as making a folder that is there
        if due and watch.wound.when == "after":
            watch.strike()


def _wounded_open(opened: Callable[..., Any], watch: Watch) -> Callable[..., Any]:
    def wounded(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        writes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
        due = writes and watch.is_due(path)
        if due and watch.wound.when == "torn":
            return Torn(opened(path, mode, *rest, **options), watch)
        return _around(watch, due, lambda: opened(path, mode, *rest, **options))

    return wounded


def _opened(descriptor: int) -> Path:
    """The path of an open file or folder."""
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def _wounded_fsync(fsync: Callable[[Any], None], watch: Watch) -> Callable[[Any], None]:
    def wounded(fd: Any) -> None:
        _around(watch, watch.is_due(_opened(fd)), lambda: fsync(fd))

    return wounded
