"""Texts of any origin, made harmless for each form of output: terminal, Markdown, LaTeX, CSV, figures.

HTML is escaped by the report's templates. Labels, notes and names of runs come from stores, which may be somebody
else's.
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
"""What GitHub's Markdown takes for markup anywhere in a line; inside of a word, "_" is none."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet calculates a cell that begins so."""
BREAKS = ("\n", "\r", "\t", "\v", "\f", "\x85", "\u2028", "\u2029")


def plain(text: str) -> str:
    """One line without control characters: a line break becomes a space, everything else that does not show "�"."""
    return "".join(" " if letter in BREAKS else _shown(letter) for letter in text)


def lines(text: str) -> str:
    """A text for a terminal: :func:`plain`, but for the ends of its lines and its tabs."""
    return "".join(letter if letter in "\n\t" else _shown(letter) for letter in text)


def _shown(letter: str) -> str:
    """Control and format characters (which may reverse a line), halves of pairs and the like are replaced."""
    return letter if letter.isprintable() or unicodedata.category(letter) == "Zs" else "\N{REPLACEMENT CHARACTER}"


def markdown(text: str) -> str:
    """Words in a line or a cell of GitHub's Markdown, without markup or HTML of their own."""
    safe = plain(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return MARKDOWN.sub(lambda found: "\\" + found[0], safe)


def latex(text: str) -> str:
    """Words in LaTeX's text mode, without commands of their own."""
    return "".join(LATEX.get(letter, letter) for letter in plain(text))


def mathtext(text: str) -> str:
    """Words in a matplotlib figure: a dollar sign begins no formula, and "_" hides no label. Line ends stay."""
    safe = "\n".join(plain(line) for line in text.split("\n")).replace("$", r"\$")
    return f" {safe}" if safe.startswith("_") else safe


def csv_cell(value: Any) -> Any:
    """A cell of a CSV file: a text is no formula; numbers and missing values stay what they are."""
    if not isinstance(value, str):
        return value
    return plain(f"'{value}" if value.startswith(FORMULA) else value)


def csv(frame: pd.DataFrame) -> str:
    """A frame as CSV with a head and without its index, cells and head escaped."""
    return str(csv_cells(frame).to_csv(index=False))


def csv_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose texts and names of columns are escaped for CSV."""
    texts = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    escaped = frame.assign(**{name: frame[name].map(csv_cell, na_action="ignore") for name in texts})
    return escaped.rename(columns=csv_cell)
