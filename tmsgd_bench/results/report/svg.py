"""Drawings by matplotlib as small SVG elements that can stand in one page: the same picture in a third of the bytes."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

SVG = "http://www.w3.org/2000/svg"
LINK = "{http://www.w3.org/1999/xlink}href"
FINER = re.compile(r"(?<=\.\d)\d+")
"""What a coordinate has beyond a tenth of a point: a third of a picture's bytes, and nothing to see."""
COORDINATES = ("d", "x", "y")
PLACES = re.compile(r"(?:translate|rotate)\([^)]*\)")
NO_TURN = re.compile(r"rotate\(-?0(?:\.0)? [^)]*\)")
REFERENCE = re.compile(r"url\(#([^)]+)\)")
OFTEN = 2
"""A style that stands so often in a drawing becomes a class."""


def slim(drawing: str, name: str) -> str:
    """The drawing with short ids and classes, without groups and attributes that change nothing.

    Args:
        drawing: an <svg> element.
        name: unique on the page; so are the ids that are made of it. Classes are named by what they set, so two
            drawings may share one.
    """
    root = ElementTree.fromstring(drawing)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        _tidy(element)
    _shorten_ids(root, _digest(name)[:5])
    _drop_repeated(root)
    _unwrap(root)
    _classes(root)
    root.set("xmlns", SVG)
    return ElementTree.tostring(root, encoding="unicode").replace(" />", "/>")


def _tidy(element: Element) -> None:
    """Write attributes in short, and drop white space outside of texts."""
    attributes = {key: _short(key, value) for key, value in element.attrib.items()}
    if LINK in attributes:
        attributes["href"] = attributes.pop(LINK)
    if NO_TURN.fullmatch(attributes.get("transform", "")):
        del attributes["transform"]
    element.attrib = attributes
    if element.tag not in ("text", "tspan") and not (element.text or "").strip():
        element.text = None
    if element.tag != "tspan" and not (element.tail or "").strip():
        element.tail = None


def _short(key: str, value: str) -> str:
    """The value of an attribute in as few letters as show the same."""
    if key in COORDINATES:
        value = FINER.sub("", value)
    if key == "transform":  # a scale needs its digits
        return PLACES.sub(lambda place: FINER.sub("", place[0]), value)
    if key == "d":
        return " ".join(re.sub(r"\s*([A-Za-z])\s*", r"\1", value).split())
    return re.sub(r"([:;]) ", r"\1", value) if key == "style" else value


def _shorten_ids(root: Element, key: str) -> None:
    """Number the ids that something refers to, and drop the others."""
    wanted = {target for element in root.iter() for target in _references(element)}
    numbers = itertools.count()
    short = {old: f"{key}-{next(numbers)}" for element in root.iter() if (old := element.get("id", "")) in wanted}
    for element in root.iter():
        if (old := element.attrib.pop("id", "")) in wanted:
            element.set("id", short[old])
        for attribute, value in element.attrib.items():
            if attribute == "href":
                element.set(attribute, f"#{short.get(value[1:], value[1:])}")
            else:
                element.set(attribute, REFERENCE.sub(lambda match: f"url(#{short.get(match[1], match[1])})", value))


def _references(element: Element) -> Iterator[str]:
    yield from (match[1] for value in element.attrib.values() for match in REFERENCE.finditer(value))
    if "href" in element.attrib:
        yield element.attrib["href"][1:]


def _drop_repeated(root: Element) -> None:
    """A copy has the style of its original: it need not say so."""
    styles = {element.get("id"): element.get("style") for element in root.iter("path")}
    for copy in root.iter("use"):
        if "style" in copy.attrib and styles.get(copy.get("href", "")[1:]) == copy.attrib["style"]:
            del copy.attrib["style"]


def _unwrap(parent: Element) -> None:
    """Put the contents of groups that set nothing in their places."""
    for place, child in reversed(list(enumerate(parent))):
        _unwrap(child)
        if child.tag in ("g", "defs") and not child.attrib and (child.tag == "g" or not len(child)):
            parent[place : place + 1] = list(child)


def _classes(root: Element) -> None:
    """Turn styles that stand in the drawing more than once into classes."""
    counts = Counter(element.attrib["style"] for element in root.iter() if "style" in element.attrib)
    names = {style: f"s{_digest(style)[:6]}" for style, count in counts.items() if count >= OFTEN}
    for element in root.iter():
        if element.get("style") in names:
            element.set("class", names[element.attrib.pop("style")])
    rules = Element("style")
    rules.text = "".join(f".{name}{{{style}}}" for style, name in sorted(names.items()))
    root.insert(0, rules)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
