"""Escapes texts of any origin for terminals, Markdown, LaTeX, CSV and figures.

Labels, notes and names of runs come from stores, which may be other people's. The report's templates escape HTML.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import pandas as pd

LATEX = {"±": r"$\pm$", "−": "$-$", "%": r"\%", "¹": "$^1$", "²": "$^2$", "–": "--", "_": r"\_", "<": "$<$", "&": r"\&"}
LATEX |= {">": "$>$", "“": "``", "”": "''", "×": r"$\times$", "…": r"\dots{}", "#": r"\#", "’": "'", "α": r"$\alpha$"}
LATEX |= {"³": "$^3$", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"\\": r"\textbackslash{}"}
MARKDOWN = re.compile(r"[\\`*|~$\[\]]|(?<![^\W_])_|_(?![^\W_])")
"""Characters that are markup anywhere in a line of GitHub's Markdown; "_" is markup only outside of words."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a cell that begins so for a formula."""
BREAKS = ("\n", "\r", "\t", "\v", "\f", "\x85", "\u2028", "\u2029")


def plain(text: str) -> str:
    """One line of printable characters: line breaks become spaces, other control characters "�"."""
    return "".join(" " if letter in BREAKS else _shown(letter) for letter in text)


def lines(text: str) -> str:
    """A text for a terminal: like :func:`plain`, but line ends and tabs stay."""
    return "".join(letter if letter in "\n\t" else _shown(letter) for letter in text)


def _shown(letter: str) -> str:
    """The character, or "�" for control characters, format characters (which may reverse a line) and surrogates."""
    return letter if letter.isprintable() or unicodedata.category(letter) == "Zs" else "\N{REPLACEMENT CHARACTER}"


def markdown(text: str) -> str:
    """A text for a line or a table cell of GitHub's Markdown, with markup and HTML escaped."""
    safe = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKDOWN.sub(lambda match: "\\" + match[0], safe)


def latex(text: str) -> str:
    """A text for LaTeX's text mode, with commands escaped."""
    return "".join(LATEX.get(letter, letter) for letter in plain(text))


def mathtext(text: str) -> str:
    """A text for a matplotlib figure: dollar signs start no formula, and a leading "_" hides no label."""
    safe = "\n".join(plain(line) for line in text.split("\n")).replace("$", r"\$")
    return f" {safe}" if safe.startswith("_") else safe


def csv_cell(value: Any) -> Any:
    """A cell for a CSV file: a text that a spreadsheet would take for a formula is quoted; other values stay."""
    if not isinstance(value, str):
        return value
    return plain(f"'{value}" if value.startswith(FORMULA) else value)


def csv(frame: pd.DataFrame) -> str:
    """A frame as CSV with a header and without its index; header and cells are escaped."""
    return str(csv_cells(frame).to_csv(index=False))


def csv_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame with its texts and column names escaped for CSV."""
    text_columns = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    escaped = frame.assign(**{name: frame[name].map(csv_cell, na_action="ignore") for name in text_columns})
    return escaped.rename(columns=csv_cell)
