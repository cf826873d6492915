"""Settings without what they tell of a machine: no folders, no names of hosts and users, no secrets.

Results are published, so what is recorded of a command must be fit for it.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import PurePosixPath

PATH, HOST, USER, SECRET = "PATH", "HOST", "USER", "SECRET"
FILES = re.compile(
    r"\.(bin|ckpt|csv|gz|h5|json|npy|npz|onnx|pkl|parquet|pt|pth|py|safetensors|tar|txt|xz|yaml|yml|zip)$",
    re.IGNORECASE,
)
"""Ends of names of files, which say what was used; other last names may be a person's."""
FOLDER_OPTIONS = ("--config-dir", "--config-path", "-cd", "-cp")
FOLDER_KEY = re.compile(r"(^|[._-])(root|dir|path|paths|folder|cwd)$", re.IGNORECASE)
"""Settings whose values are places, also where nothing else shows it."""
SECRET_KEY = re.compile(r"(^|[._-])(token|secret|password|passwd|credentials?|(api|access)[_-]?key)$", re.IGNORECASE)
"""Settings whose values are nobody else's business."""
VALUE = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|(?:\\.|[^,\[\]{}()'"\\])+""")
"""In a value of Hydra's grammar: a quoted string, or what stands between brackets and commas."""
PLACE = re.compile(r"""^(/|~|\.{1,2}(/|$)|[A-Za-z]:[\\/]|\\\\|[A-Za-z][\w+.-]*:/)""")
"""An absolute path, one from the home folder or the current one, of Windows, or a URL."""
COMMON = frozenset({"", "root", "user", "localhost", "runner", "ubuntu", "nobody"})
"""Names that tell nothing."""
NO_PLACE = ("none", "null", "auto", "default", "true", "false")


def arguments(words: Sequence[str]) -> list[str]:
    """A command's arguments, each place in them replaced by ``PATH`` or ``…/file.pth``, and host and user by a word."""
    before = ["", *words]
    return [
        _named_away(_place(word)) if last in FOLDER_OPTIONS else argument(word)
        for last, word in zip(before, words, strict=False)
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
        key: the setting's name, which may say that its values are places.
    """
    if SECRET_KEY.search(key):
        return SECRET
    places = FOLDER_KEY.search(key) is not None and value.lower() not in NO_PLACE
    return _named_away(VALUE.sub(lambda found: _part(found[0], places), value))


def _part(text: str, places: bool) -> str:
    """One string, or one member of a list or mapping (``name: value``)."""
    quote = text[0] if text[0] in "'\"" else ""
    inner = text[1:-1] if quote else text
    name, colon, rest = inner.partition(":")
    if colon and not quote and re.fullmatch(r"\s*\w+", name) and len(name.strip()) > 1 and not rest.startswith("/"):
        return f"{name}:{_part(rest, places or bool(FOLDER_KEY.search(name.strip())))}" if rest else text
    stripped = inner.strip()
    if not stripped or not (places or _is_place(stripped)):
        return text
    return f"{quote}{_place(stripped)}{quote}"


def _is_place(text: str) -> bool:
    """Whether a text leads somewhere: from its beginning, or as a file in a folder, or somewhere in its midst."""
    if PLACE.match(text) or "\\" in text or re.search(r"[\s:=]~?/", text) or "://" in text:
        return True
    return "/" in text and FILES.search(text) is not None


def _place(text: str) -> str:
    last = PurePosixPath(text.replace("\\", "/")).name
    return f"…/{last}" if FILES.search(last) else PATH


def _named_away(text: str) -> str:
    for name, word in _names():
        text = re.sub(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", word, text, flags=re.IGNORECASE)
    return text


def _names() -> Iterable[tuple[str, str]]:
    """Names of this machine and its user, the longer ones first."""
    return _known(socket.gethostname(), _user())


@lru_cache
def _known(host: str, user: str) -> tuple[tuple[str, str], ...]:
    names = {host: HOST, host.partition(".")[0]: HOST, user: USER}
    kept = [(name, word) for name, word in names.items() if name.lower() not in COMMON and len(name) > 1]
    return tuple(sorted(kept, key=lambda one: -len(one[0])))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without an entry in the system's list
        return ""
