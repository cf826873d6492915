"""The first difference between two texts of one file."""

from __future__ import annotations

import pytest

from tmsgd_bench.results.differences import first_difference

CSV = 'name,mean,marks\nSGD,0.1234567890123,"few, seeds"\nAdam,2,\n'
PAGE = "<p>1 run</p>\n<svg>\n<path d='1.5'/>\n</svg>\n<td>90.6</td>\n"


@pytest.mark.parametrize(
    ("name", "published", "derived"),
    [
        ("a.csv", CSV, CSV),
        ("a.csv", CSV, CSV.replace("0.1234567890123", "0.1234567890124")),
        ("a.csv", CSV, CSV.replace("Adam,2,", "Adam,2.0,")),
        ("a.html", PAGE, PAGE.replace("1.5", "1.6")),
        ("a.md", "| a | b |\n", "| a | b |\n"),
    ],
    ids=["the same", "last digits", "another form of a number", "a drawing", "markdown"],
)
def test_texts_that_say_the_same_do_not_differ(name: str, published: str, derived: str) -> None:
    assert first_difference(name, published, derived) is None


@pytest.mark.parametrize(
    ("name", "published", "derived", "phrase"),
    [
        ("a.csv", CSV, CSV.replace("0.12345", "0.12346"), "row 1, column 2 (mean): published “0.1234567890123”"),
        ("a.csv", CSV, CSV.replace("few, seeds", "few"), "row 1, column 3 (marks): published “few, seeds”"),
        ("a.csv", CSV, CSV.replace("Adam,2,", "Adam,,"), "row 2, column 2 (mean): published “2”, derived “”"),
        ("a.csv", CSV, CSV.replace("mean", "median"), "the heads, column 2: published “mean”, derived “median”"),
        ("a.csv", CSV, CSV + "Apollo,3,\n", "3 lines are published, 4 derived"),
        ("a.csv", CSV, CSV.replace("Adam,2,\n", "Adam,2\n"), "row 2, column 3 (marks): published “”, derived nothing"),
        (
            "a.md",
            "**t**\n\n| a | 1.0 |\n",
            "**t**\n\n| a | 1.00 |\n",
            "line 3, cell 3: published “1.0”, derived “1.00”",
        ),
        ("a.tex", "a & 1 \\\\\n", "a & 2 \\\\\n", "line 1, cell 2: published “1 \\\\”, derived “2 \\\\”"),
        ("a.html", PAGE, PAGE.replace("90.6", "90.7"), "published “<td>90.6</td>”, derived “<td>90.7</td>”"),
        ("a.html", PAGE, PAGE.replace("1 run", "2 runs"), "line 1, cell 1: published “<p>1 run</p>”"),
    ],
)
def test_the_first_cell_that_differs_is_named(name: str, published: str, derived: str, phrase: str) -> None:
    assert phrase in str(first_difference(name, published, derived))


def test_a_long_cell_is_shown_from_where_it_differs() -> None:
    phrase = str(first_difference("a.md", "x" * 500 + "A" + "y" * 500, "x" * 500 + "B" + "y" * 500))
    assert len(phrase) < 150 and "xA" in phrase and "xB" in phrase
