"""Ways in which a file can be damaged."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

FOREIGN = {
    ".json": ("[]", '"text"', "null", "12", "{}", '{"status": 3}', "{", '{"time": "noon", "host": "elsewhere"}'),
    ".yaml": ("- 1\n", "text\n", "", "task: 3\n", "task: {name: [tc]}\nmodel: 1\n", "a: [\n", "? {a: b}\n: c\n"),
    ".csv": ("a,b\n1,2\n", "problem,rule\n", "\n", "problem,rule,fitted\nx,euler,many\n"),
}
"""Texts that have the right format, and are not what the file should hold."""
BINARY = ("no such file\n", "PAR1PAR1", "PK\x03\x04")
TOLERANT = {"encoding": "utf-8", "errors": "surrogateescape"}
"""How a text that may already be damaged is read and written."""
TEXT = (".json", ".yaml", ".csv", ".txt")


def flip(path: Path, random: Random) -> str:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    bit = random.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return f"bit {bit} flipped"


def truncate(path: Path, random: Random) -> str:
    """Cut the end off."""
    data = path.read_bytes()
    length = random.randrange(1, max(2, len(data)))
    path.write_bytes(data[:length])
    return f"cut to {length} of {len(data)} bytes"


def empty(path: Path, random: Random) -> str:
    """Delete its bytes."""
    path.write_bytes(b"")
    return "emptied"


def delete(path: Path, random: Random) -> str:
    """Delete it."""
    path.unlink()
    return "deleted"


def directory(path: Path, random: Random) -> str:
    """Replace it by a folder, empty or with a file."""
    path.unlink()
    path.mkdir()
    if random.random() < 0.5:
        (path / "more").write_text("more")
    return "replaced by a folder"


def foreign(path: Path, random: Random) -> str:
    """Write another text into it, of its format if that is known."""
    text = random.choice(FOREIGN.get(path.suffix, BINARY))
    path.write_text(text)
    return f"replaced by {text!r}"


def undecodable(path: Path, random: Random) -> str:
    """Insert bytes that are not UTF-8."""
    data = path.read_bytes()
    place = random.randrange(len(data))
    path.write_bytes(data[:place] + b"\xff\xfe\x00" + data[place:])
    return f"bytes that are no text at {place}"


def edit(path: Path, random: Random) -> str:
    """Change one number of a text, as a person would."""
    text = path.read_text(**TOLERANT)
    numbers = list(re.finditer(r"\d+(\.\d+)?", text))
    if not numbers:
        return flip(path, random)
    number = random.choice(numbers)
    others = {"0", "7", "99.5", f"{number[0]}1", "-3", "1e400"} - {number[0]}
    other = random.choice(sorted(others))
    path.write_text(text[: number.start()] + other + text[number.end() :], **TOLERANT)
    return f"{number[0]} at {number.start()} edited to {other}"


def swap(path: Path, random: Random) -> str:
    """Exchange two lines of a text."""
    lines = path.read_text(**TOLERANT).splitlines(keepends=True)
    first, second = random.randrange(len(lines)), random.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    path.write_text("".join(lines), **TOLERANT)
    return f"lines {first + 1} and {second + 1} exchanged"


ANY: tuple[Callable[[Path, Random], str], ...] = (flip, flip, truncate, empty, delete, directory, foreign)
TEXTUAL = (*ANY, undecodable, edit, edit, edit, swap)


def damage(path: Path, random: Random) -> str:
    """Damage a file in one of these ways; returns a description.

    Args:
        path: of a regular file.
        random: chooses the way.
    """
    ways = TEXTUAL if path.suffix in TEXT else ANY
    possible = [way for way in ways if path.stat().st_size or way in (delete, directory, foreign)]
    return random.choice(possible)(path, random)


def regular_files(folder: Path, pattern: str = "**/*") -> list[Path]:
    """The files of a folder that can be damaged, sorted; locks hold nothing."""
    return sorted(path for path in folder.glob(pattern) if path.is_file() and path.suffix != ".lock")


def restore(whole: Path, damaged: Path) -> None:
    """Put a file back."""
    if damaged.is_dir():
        shutil.rmtree(damaged)
    shutil.copyfile(whole, damaged)
