"""Where two texts of one file differ: a published one, and the one that its evidence gives."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import zip_longest

CLOSE = 1e-9
"""Numbers in CSV files, which have all their digits, are equal within this share: processors round the last ones."""
SHOWN = 40
"""How many characters of a cell a message shows."""
DRAWING = re.compile(r"<svg\b.*?</svg>", re.DOTALL)
DRAWN: ContextVar[bool] = ContextVar("DRAWN", default=True)
"""Whether the report has its drawings."""
MISSING = "nothing"
Rows = list[list[str]]


@contextmanager
def without_drawings() -> Iterator[None]:
    """Reports made in this context lack their drawings, which take most of the time and are not compared."""
    before = DRAWN.set(False)
    try:
        yield
    finally:
        DRAWN.reset(before)


def first_difference(name: str, published: str, derived: str) -> str | None:
    """The first place where two texts differ, as a phrase; None if they do not.

    In a CSV file numbers may differ by :data:`CLOSE`. In an HTML file drawings are left out: their coordinates are
    those of one version of the drawing library. All else must be the same, letter by letter.

    Args:
        name: of the file; its ending tells how the text is divided into cells.
        published, derived: the two texts.
    """
    if published == derived:
        return None
    suffix = name.rpartition(".")[2]
    if suffix == "csv":
        return _in_csv(published, derived)
    rows = _html_rows if suffix == "html" else _rows
    return _in_rows(rows(published), rows(derived), lambda row, column: f"line {row + 1}, cell {column}", str.__eq__)


def _in_csv(published: str, derived: str) -> str | None:
    published_rows, derived_rows = (list(csv.reader(text.splitlines())) for text in (published, derived))
    heads = published_rows[0] if published_rows else []

    def place(row: int, column: int) -> str:
        head = f" ({heads[column - 1]})" if 0 < column <= len(heads) else ""
        return f"row {row}, column {column}{head}" if row else f"the heads, column {column}"

    return _in_rows(published_rows, derived_rows, place, _close)


def _rows(text: str) -> Rows:
    """Lines, divided into cells where a Markdown or LaTeX table divides them."""
    return [re.split(r" *(?<!\\)[|&] *", line) if line[:1] == "|" or " & " in line else [line] for line in _lines(text)]


def _html_rows(text: str) -> Rows:
    return [[line] for line in _lines(DRAWING.sub("", text))]


def _lines(text: str) -> list[str]:
    return text.split("\n")


def _close(left: str, right: str) -> bool:
    """Whether two cells are the same text, or the same number but for its last digits."""
    if left == right:
        return True
    try:
        return math.isclose(float(left), float(right), rel_tol=CLOSE)
    except ValueError:
        return False


def _in_rows(
    published: Rows, derived: Rows, place: Callable[[int, int], str], same: Callable[[str, str], bool]
) -> str | None:
    for row, (published_row, derived_row) in enumerate(zip_longest(published, derived)):
        if published_row is None or derived_row is None:
            return f"{len(published)} lines are published, {len(derived)} derived"
        for column, (left, right) in enumerate(zip_longest(published_row, derived_row), 1):
            if left is None or right is None or not same(left, right):
                return f"{place(row, column)}: {_pair(left, right)}"
    return None


def _pair(published: str | None, derived: str | None) -> str:
    """Both cells, from a little before the first letter that differs."""
    texts = [text for text in (published, derived) if text is not None]
    start = max(0, _common(texts) - SHOWN // 2) if len(texts) > 1 and max(map(len, texts)) > SHOWN else 0
    published_text, derived_text = (MISSING if text is None else _cut(text, start) for text in (published, derived))
    return f"published {published_text}, derived {derived_text}"


def _common(texts: Sequence[str]) -> int:
    """How many letters two texts begin with in common."""
    equal = (left == right for left, right in zip(*texts, strict=False))
    return next((count for count, same in enumerate(equal) if not same), min(map(len, texts)))


def _cut(text: str, start: int) -> str:
    shown = text[start : start + SHOWN]
    return f"“{'…' * (start > 0)}{shown}{'…' * (start + SHOWN < len(text))}”"
