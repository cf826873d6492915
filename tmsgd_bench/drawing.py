"""Draws tables for a terminal with rich: from the Markdown that commands make, or from cells.

Nothing in the texts is taken for markup of rich, and control characters are escaped.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from tmsgd_bench import escaping

GAP = 2
"""Blank columns of the terminal between two columns of a table."""
BRACKET = re.compile(r" (?=\[[+−]|\(n=)")
"""Where a cell may begin a new line: before an interval, or before a count in brackets."""
UNBROKEN = re.compile(r"[^a-zA-Z]+|\(n=[^()]*\)")
"""A line that is never broken: a number, an interval, or a count."""
NOTHING = ("", "–")
BULLET = "- "


@dataclass(frozen=True)
class Table:
    """A table's cells; every row has as many as ``heads``."""

    heads: tuple[Text, ...]
    rows: tuple[tuple[Text, ...], ...]

    def column(self, index: int) -> list[Text]:
        """Its head and its cells."""
        return [self.heads[index], *(row[index] for row in self.rows)]

    def only(self, columns: Sequence[int]) -> Table:
        """The table with these columns alone."""
        heads, *rows = (tuple(row[index] for index in columns) for row in (self.heads, *self.rows))
        return Table(heads, tuple(rows))


def parse(markdown: str) -> list[Text | Table]:
    """The paragraphs, items of lists and tables of a text in GitHub's Markdown, without HTML."""
    blocks: list[Text | Table] = []
    rows: list[list[Text]] | None = None
    bullet = ""
    for token in MarkdownIt("commonmark", {"html": False}).enable("table").parse(markdown):
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open" and rows is not None:
            rows.append([])
        elif token.type == "table_close" and rows is not None:
            blocks.append(Table(tuple(rows[0]), tuple(map(tuple, rows[1:]))))
            rows = None
        elif token.type == "list_item_open":
            bullet = BULLET
        elif token.content and rows is None:
            blocks.append(Text(bullet).append_text(_text(token)))
            bullet = ""
        elif token.type == "inline" and rows is not None:
            rows[-1].append(_text(token))
    return blocks


def _text(block: Token) -> Text:
    """A paragraph, a cell or a block of code; of its markup only bold type is kept."""
    text, bold = Text(), 0
    for token in block.children or [block]:
        bold += {"strong_open": 1, "strong_close": -1}.get(token.type, 0)
        text.append(" " if token.type == "softbreak" else escaping.plain(token.content), "bold" if bold else "")
    return text


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], styles: Mapping[str, str]) -> Table:
    """A table of texts of any origin.

    Args:
        heads: of the columns.
        rows: each with a cell for each column.
        styles: rich's styles of cells with these texts.
    """
    cells = (tuple(Text(escaping.plain(cell), styles.get(cell, "")) for cell in row) for row in rows)
    return Table(tuple(map(Text, heads)), tuple(cells))


def render(blocks: Sequence[Text | Table], console: Console, least: Sequence[str] = (), hint: str = "") -> str:
    """The blocks as text with the console's control sequences for colours, no wider than the console.

    The last block is dim if it is a paragraph below a table: the rules that the table was made by.

    Args:
        blocks: from :func:`parse` or :func:`table`.
        console: its width and colours are used; nothing is written to its file.
        least: heads of the columns, as shell patterns, that may be left out of a table that is too wide, the least
            needed first. Columns without contents go before them.
        hint: says after their names how to see the columns that were left out.
    """
    with console.capture() as capture:
        for index, block in enumerate(blocks):
            if index and not (_is_item(block) and _is_item(blocks[index - 1])):
                console.print()
            if isinstance(block, Table):
                _draw(block, console, least, hint)
            else:
                is_rules = index == len(blocks) - 1 and any(isinstance(other, Table) for other in blocks)
                _print(block, console, "dim" if is_rules else "")
    return capture.get()


def _is_item(block: Text | Table) -> bool:
    return isinstance(block, Text) and block.plain.startswith(BULLET)


def _print(text: Text, console: Console, style: str = "") -> None:
    """Print a paragraph; the lines of a list's item are indented."""
    if _is_item(text):
        text = Text("\n" + " " * len(BULLET)).join(text.wrap(console, max(1, console.width - len(BULLET))))
    console.print(text, style=style, highlight=False)


def _draw(whole: Table, console: Console, least: Sequence[str], hint: str) -> None:
    """Print a table, and what is left out of it."""
    drawn, kept = whole, [*_indices(whole)]
    if _room(_natural(whole)) > console.width:
        drawn = _on_lines(whole)
        kept = _fitting(drawn, least, console.width)
        drawn = drawn.only(kept)
    if _room(_narrowest(drawn)) > console.width:
        _draw_records(whole, console)  # which has room for all cells
        return
    console.print(_as_rich(drawn, console), highlight=False)
    if omitted := [head.plain for index, head in enumerate(whole.heads) if index not in kept]:
        names = "; ".join(omitted)
        _print(Text(f"\nLeft out for want of room: {names}.{f' {hint}' if hint else ''}"), console, "italic")


def _on_lines(whole: Table) -> Table:
    """The table with intervals and counts on lines of their own, which makes it narrower."""
    rows = (tuple(Text("\n").join(_split(cell)) for cell in row) for row in whole.rows)
    return Table(whole.heads, tuple(rows))


def _split(cell: Text) -> Iterator[Text]:
    start = 0
    for match in BRACKET.finditer(cell.plain):
        yield cell[start : match.start()]
        start = match.end()
    yield cell[start:]


def _fitting(whole: Table, least: Sequence[str], width: int) -> list[int]:
    """The indices of the columns that stay: as few go as must, so that the words of the others have room."""
    kept = [*_indices(whole)]
    for index in _expendable(whole, least):
        if _room(_narrowest(whole.only(kept))) <= width:
            break
        kept.remove(index)
    return kept


def _expendable(whole: Table, least: Sequence[str]) -> list[int]:
    """The columns that may go, in that order; the first one of the table never does."""
    columns = range(1, len(whole.heads))
    without = [index for index in columns if all(cell.plain in NOTHING for cell in whole.column(index)[1:])]
    named = [index for name in least for index in columns if fnmatchcase(whole.heads[index].plain, name)]
    return list(dict.fromkeys([*without, *named]))


def _room(widths: Sequence[int]) -> int:
    """How wide a table with columns of these widths is."""
    return sum(widths) + GAP * (len(widths) - 1)


def _natural(whole: Table) -> list[int]:
    """The widths of the columns with nothing wrapped."""
    lines = ([line for cell in whole.column(index) for line in cell.plain.split("\n")] for index in _indices(whole))
    return [max(map(cell_len, of_column)) for of_column in lines]


def _narrowest(whole: Table) -> list[int]:
    """The least widths of the columns, with room for the longest word or number."""
    words = ([word for cell in whole.column(index) for word in _words(cell)] for index in _indices(whole))
    return [max(map(cell_len, of_column), default=1) or 1 for of_column in words]


def _indices(whole: Table) -> range:
    return range(len(whole.heads))


def _words(cell: Text) -> Iterator[str]:
    """What is not broken at the end of a line."""
    for line in cell.plain.split("\n"):
        yield from [line] if UNBROKEN.fullmatch(line) else line.split()


def _widths(whole: Table, width: int) -> list[int]:
    """The widths of the columns: the least ones, and what is left goes to the cells, then to the heads."""
    widths, natural = _narrowest(whole), _natural(whole)
    bodies = _natural(replace(whole, heads=tuple(Text() for _ in whole.heads)))
    for wanted in (list(map(max, widths, bodies)), natural):
        while _room(widths) < width and any(map(operator.lt, widths, wanted)):
            lines = list(map(operator.truediv, wanted, widths))
            widths[lines.index(max(lines))] += 1
    return widths


def _as_rich(drawn: Table, console: Console) -> RichTable:
    """The table for rich; blank lines part its rows if some have many lines."""
    widths = _widths(drawn, console.width)
    lines = (len(cell.wrap(console, width)) for row in drawn.rows for cell, width in zip(row, widths, strict=True))
    made = RichTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        leading=int(max(lines, default=1) > 2),
    )
    for head, of_column in zip(drawn.heads, widths, strict=True):
        made.add_column(head, width=of_column, overflow="fold")
    for row in drawn.rows:
        made.add_row(*row)
    return made


def _draw_records(drawn: Table, console: Console) -> None:
    """Print a table that is too wide row by row, each cell after its head."""
    for number, row in enumerate(drawn.rows):
        if number:
            console.print()
        for head, cell in zip(drawn.heads, row, strict=True):
            if cell:
                value = Text(" ").join(cell.split("\n"))
                _print(Text.assemble((f"{head.plain}: ", "bold"), value), console)
