"""Files with which a user's own part of the benchmark begins, each a Jinja template."""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Mapping
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from tmsgd_bench.errors import ConfigError, StoreError
from tmsgd_bench.files import write_texts

PLACES = {
    "task.yaml": "my/task/{name}.yaml",
    "model.yaml": "my/model/{name}_net.yaml",
    "entry.yaml": "my/data_entries/{name}.yaml",
    "task.py": "{name}_task.py",
    "model.py": "{name}_model.py",
    "data.py": "{name}_data.py",
    "test.py": "test_{name}.py",
}
"""Where each template of a task is written, relative to the user's folder."""
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def check_name(name: str, taken: Mapping[str, Collection[str]]) -> None:
    """Raise ConfigError unless a name can be that of a new task, and of its modules.

    Args:
        taken: the names that are there, by what has them: "task", "model", "optimizer", "data set".
    """
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(f"{name!r} cannot name a task: take at most 40 of a-z, 0-9 and _, beginning with a letter.")
    for kind, names in taken.items():
        if name in names:
            article = "an" if kind[0] in "aeiou" else "a"
            raise ConfigError(f"this project has {article} {kind} {name} already: take another name.")


def task(name: str) -> dict[str, str]:
    """The files of a new task: the text of each by its path.

    Args:
        name: of the task, from :func:`check_name`.
    """
    title = "".join(word.capitalize() for word in name.split("_")) or name
    source = files(__name__) / "task"
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # no HTML
    return {
        place.format(name=name): environment.from_string(
            (source / f"{template}.jinja").read_text(encoding="utf-8")
        ).render(name=name, title=title)
        for template, place in PLACES.items()
    }


def write(folder: Path, texts: dict[str, str]) -> None:
    """Write files into a folder. If one of them is there already, nothing is written.

    Raises:
        StoreError: a file is there, or the folder cannot be written.
    """
    for name in texts:
        if (folder / name).exists():
            raise StoreError(f"{folder / name} is there already, and nothing was written: take another name or folder.")
    places = {Path(name).parent for name in texts}
    for place in sorted(places):
        write_texts(
            folder / place, {Path(name).name: text for name, text in texts.items() if Path(name).parent == place}
        )
