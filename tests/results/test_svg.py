"""Small SVG: fewer bytes, and every line, mark and word of the drawing as it was."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from tmsgd_bench.results.report.svg import slim

DRAWN = ("path", "use", "text", "tspan", "rect", "image")


@pytest.fixture(scope="module")
def drawing() -> str:
    """Curves with marks and a band, clipped, with words that need several elements."""
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1.0, 2.0, 4.0], [0.123456, 3.0, 2.0], marker="o", label="one & two")
    axes.plot([1.0, 2.0, 4.0], [3.0, 1.0, 2.0], marker="o", linestyle="--", label="$x^2$  y")
    axes.fill_between([1.0, 4.0], [0.0, 1.0], [1.0, 2.0], alpha=0.2)
    axes.set(xlabel="epoch", ylabel="upright")
    axes.legend()
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "test"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return buffer.getvalue().partition("<svg")[2].join(("<svg", ""))


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _rules(root: Element) -> dict[str, str]:
    text = "".join(element.text or "" for element in root.iter() if _name(element) == "style")
    return dict(re.findall(r"\.(\w+)\{([^}]*)\}", text))


def _look(root: Element) -> Iterator[tuple[str, frozenset[str], str]]:
    """What each drawn element is, how it looks with all that it takes from its class and its original, and its text."""
    rules = _rules(root)
    by_id = {f"#{element.get('id')}": element for element in root.iter()}

    def style(element: Element) -> dict[str, str]:
        words = f"{rules.get(element.get('class', ''), '')};{element.get('style', '')}"
        return dict(part.replace(" ", "").split(":", 1) for part in words.split(";") if ":" in part)

    for element in root.iter():
        if _name(element) in DRAWN:
            target = element.get("href") or element.get("{http://www.w3.org/1999/xlink}href") or ""
            shape = by_id[target].get("d", "") if target else element.get("d", "")
            original = style(by_id[target]) if target else {}
            known = {**style(element), **original, "d": re.sub(r"\.\d+|\s", "", shape)}
            yield _name(element), frozenset(known.items()), (element.text or "").strip()


def test_every_line_mark_and_word_stays_as_it_was(drawing: str) -> None:
    before, after = ElementTree.fromstring(drawing), ElementTree.fromstring(slim(drawing, "one"))
    assert Counter(_look(after)) == Counter(_look(before))
    assert sum(_name(element) == "path" for element in after.iter()) > 10


def test_it_takes_far_fewer_bytes(drawing: str) -> None:
    assert len(slim(drawing, "one")) < 0.6 * len(drawing)


def test_references_lead_to_elements_of_the_same_drawing_alone(drawing: str) -> None:
    one, other = slim(drawing, "one"), slim(drawing, "other")
    for text in (one, other):
        named = set(re.findall(r'\bid="([^"]+)"', text))
        assert named == set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert not set(re.findall(r'\bid="([^"]+)"', one)) & set(re.findall(r'\bid="([^"]+)"', other))


def test_a_class_means_the_same_in_every_drawing(drawing: str) -> None:
    """The rules of one drawing hold for the whole page."""
    other = drawing.replace("#1f77b4", "#ff0000")
    rules = [_rules(ElementTree.fromstring(slim(text, "same"))) for text in (drawing, other)]
    shared = rules[0].keys() & rules[1].keys()
    assert shared and all(rules[0][name] == rules[1][name] for name in shared) and rules[0] != rules[1]


def test_spaces_inside_words_stay() -> None:
    text = '<svg xmlns="http://www.w3.org/2000/svg"><g> <text>a <tspan>b </tspan> <tspan>c</tspan></text> </g></svg>'
    assert slim(text, "one").endswith("<text>a <tspan>b </tspan> <tspan>c</tspan></text></svg>")


def test_groups_that_set_something_stay() -> None:
    clipped = '<clipPath id="b"/><g id="a"><g clip-path="url(#b)"><g><path d="M 1.25 2"/></g></g></g>'
    text = slim(f'<svg xmlns="http://www.w3.org/2000/svg">{clipped}</svg>', "one")
    assert re.search(r'<g clip-path="url\(#\w+-0\)"><path d="M1.2 2"/></g></svg>$', text)


def test_a_scale_keeps_its_digits_and_a_place_does_not() -> None:
    for before, after in (("scale(0.015625)", "scale(0.015625)"), ("translate(1.234 5.67)", "translate(1.2 5.6)")):
        text = f'<svg xmlns="http://www.w3.org/2000/svg"><text transform="{before}">a</text></svg>'
        assert f'transform="{after}"' in slim(text, "one")
