"""Removes folders, host names, user names and secrets from a command's settings.

The command is recorded with a run's result, and results are published.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath

PATH, HOST, USER, SECRET = "PATH", "HOST", "USER", "SECRET"
FILES = re.compile(
    r"\.(bin|ckpt|csv|gz|h5|json|npy|npz|onnx|pkl|parquet|pt|pth|py|safetensors|tar|txt|xz|yaml|yml|zip)$",
    re.IGNORECASE,
)
"""A file with such an ending keeps its name; any other last part of a path may be a person's name and is removed."""
FOLDER_OPTIONS = ("--config-dir", "--config-path", "-cd", "-cp")
FOLDER_KEY = re.compile(r"(^|[._-])(root|dir|path|paths|folder|cwd)$", re.IGNORECASE)
"""Settings whose values are paths, whatever they look like."""
SECRET_KEY = re.compile(r"(^|[._-])(token|secret|password|passwd|credentials?|(api|access)[_-]?key)$", re.IGNORECASE)
"""Settings whose values are secrets."""
VALUE = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|(?:\\.|[^,\[\]{}()'"\\])+""")
"""In a value of Hydra's grammar: a quoted string, or the text between brackets and commas."""
PLACE = re.compile(r"""^(/|~|\.{1,2}(/|$)|[A-Za-z]:[\\/]|\\\\|[A-Za-z][\w+.-]*:/)""")
"""The start of an absolute path, a path from the home or the current folder, a Windows path, or a URL."""
COMMON = frozenset({"", "root", "user", "localhost", "runner", "ubuntu", "nobody"})
"""Host and user names that identify nobody."""
NO_PLACE = ("none", "null", "auto", "default", "true", "false")


def arguments(words: Sequence[str]) -> list[str]:
    """A command's arguments with ``PATH`` or ``…/file.pth`` in place of paths, and ``HOST`` or ``USER`` of names."""
    previous = ["", *words]
    return [
        _without_names(_place(word)) if before in FOLDER_OPTIONS else argument(word)
        for before, word in zip(previous, words, strict=False)
    ]


def argument(word: str) -> str:
    """One argument, ``key=value`` or not."""
    key, equals, value = word.partition("=")
    if not equals:
        key, value = "", word
        if word.startswith("~") and "/" not in word:  # Hydra's way to delete a setting
            return word
        if word.startswith("-") and "/" in word:  # -cd/some/where
            return PATH
    return key + equals + setting(value, key)


def setting(value: str, key: str = "") -> str:
    """The value of a setting.

    Args:
        value: as text, maybe in Hydra's grammar.
        key: the setting's name; some names tell that the values are paths.
    """
    if SECRET_KEY.search(key):
        return SECRET
    places = FOLDER_KEY.search(key) is not None and value.lower() not in NO_PLACE
    return _without_names(VALUE.sub(lambda match: _item(match[0], places), value))


def _item(text: str, places: bool) -> str:
    """One string, or one item of a list or mapping (``name: value``)."""
    quote = text[0] if text[0] in "'\"" else ""
    inner = text[1:-1] if quote else text
    name, colon, rest = inner.partition(":")
    if colon and not quote and re.fullmatch(r"\s*\w+", name) and len(name.strip()) > 1 and not rest.startswith("/"):
        return f"{name}:{_item(rest, places or bool(FOLDER_KEY.search(name.strip())))}" if rest else text
    stripped = inner.strip()
    if not stripped or not (places or _is_place(stripped)):
        return text
    return f"{quote}{_place(stripped)}{quote}"


def _is_place(text: str) -> bool:
    """Whether a text is a path or a URL, or contains one."""
    if PLACE.match(text) or "\\" in text or re.search(r"[\s:=]~?/", text) or "://" in text:
        return True
    return "/" in text and FILES.search(text) is not None


def _place(text: str) -> str:
    last = PurePosixPath(text.replace("\\", "/")).name
    return f"…/{last}" if FILES.search(last) else PATH


def _without_names(text: str) -> str:
    for name, word in _names(socket.gethostname(), _user()):
        text = re.sub(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", word, text, flags=re.IGNORECASE)
    return text


@lru_cache
def _names(host: str, user: str) -> tuple[tuple[str, str], ...]:
    """The names of a machine and its user, each with the word that replaces it, the longer ones first."""
    words = {host: HOST, host.partition(".")[0]: HOST, user: USER}
    identifying = [(name, word) for name, word in words.items() if name.lower() not in COMMON and len(name) > 1]
    return tuple(sorted(identifying, key=lambda pair: -len(pair[0])))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the system does not know the user
        return ""
