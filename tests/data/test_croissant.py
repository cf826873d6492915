"""The cards are valid Croissant, agree with the catalog, and can be used to read the data."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tmsgd_bench.data.catalog import Dataset, catalog, find
from tmsgd_bench.data.croissant import LINES, card

NAMES = tuple(catalog())


@pytest.fixture(scope="module")
def open_card() -> Callable[..., Any]:
    """``mlcroissant.Dataset``, which validates a card and reads the records it describes."""
    mlcroissant = pytest.importorskip("mlcroissant", reason="needs mlcroissant (an extra of 'dev') to validate cards")
    # Its logging keeps the stream that pytest captures just now, and closes it when another test configures logging.
    absl_logging = pytest.importorskip("absl.logging")
    absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__
    return mlcroissant.Dataset


def local(dataset: Dataset, folder: Path) -> Dataset:
    """The entry with the checksums of the files in a folder."""
    digests = {file.name: hashlib.sha256((folder / file.name).read_bytes()).hexdigest() for file in dataset.files}
    return replace(dataset, files=tuple(replace(file, sha256=digests[file.name]) for file in dataset.files))


def read(open_card: Callable[..., Any], dataset: Dataset, folder: Path) -> dict[str, list[tuple[str, ...]]]:
    """Every record of a data set, by split, as its card tells mlcroissant to read them from a folder."""
    mapping = {file.name: os.fspath(folder / file.name) for file in dataset.files}
    opened = open_card(jsonld=card(dataset), mapping=mapping)
    fields = [field["name"] for field in dataset.fields]
    return {
        file.split: [
            tuple(record[f"{file.split}/{field}"].decode() for field in fields) for record in opened.records(file.split)
        ]
        for file in dataset.files
    }


def lines(dataset: Dataset, folder: Path) -> dict[str, list[tuple[str, ...]]]:
    """The same read by hand."""
    return {
        file.split: [tuple(line.split("\t")) for line in (folder / file.name).read_text(encoding="utf-8").splitlines()]
        for file in dataset.files
    }


def undated(name: str) -> bool:
    """Whether the date of publication is not known: better left out than made up."""
    return not find(name).published


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_valid_croissant(tmp_path: Path, open_card: Callable[..., Any], name: str) -> None:
    """Read back from a file, offline, with neither errors nor missing recommended properties."""
    path = tmp_path / "card.json"
    path.write_text(json.dumps(card(find(name))), encoding="utf-8")
    metadata = open_card(jsonld=path).metadata
    warnings = [text for text in metadata.ctx.issues.warnings if not (undated(name) and "datePublished" in text)]
    assert (metadata.ctx.issues.errors, warnings) == (set(), [])
    assert metadata.name == name


@pytest.mark.parametrize("name", NAMES)
def test_a_cards_files_are_the_catalogs(open_card: Callable[..., Any], name: str) -> None:
    """Also after mlcroissant has understood it: names, addresses, sizes, checksums."""
    dataset = find(name)
    expected = {file.name: (file.url or file.name, size(file.bytes), file.sha256, file.md5) for file in dataset.files}
    expected |= {Path(one.url).name: (one.url, None, one.sha256, one.md5) for one in dataset.archives}
    objects = [part for part in card(dataset)["distribution"] if part["@type"] == "cr:FileObject"]
    keys = ("contentUrl", "contentSize", "sha256", "md5")
    assert {part["name"]: tuple(part.get(key) for key in keys) for part in objects} == expected
    understood = {
        part.name: (part.content_url, part.content_size, part.sha256, part.md5)
        for part in open_card(jsonld=card(dataset)).metadata.distribution
        if hasattr(part, "content_url")
    }
    assert understood == expected


def size(count: int | None) -> str | None:
    return None if count is None else f"{count} B"


@pytest.mark.parametrize("name", NAMES)
def test_a_cards_folders_are_the_catalogs(name: str) -> None:
    """Found in the archives that they come in."""
    dataset = find(name)
    sets = [part for part in card(dataset)["distribution"] if part["@type"] == "cr:FileSet"]
    assert [part["includes"].rpartition("/")[2] for part in sets] == [folder.pattern for folder in dataset.folders]
    assert all("containedIn" in part for part in sets) or not dataset.archives


@pytest.mark.parametrize("name", NAMES)
def test_a_card_tells_source_licence_and_citation(name: str) -> None:
    dataset, values = find(name), card(find(name))
    assert values["url"] == dataset.homepage
    assert dataset.version in values["sameAs"] or "github" not in dataset.homepage
    assert values["license"] == dataset.licence_url
    assert values["usageInfo"].split() == dataset.licence.split()
    assert values["citeAs"].split() == dataset.citation.split()
    assert values.get("datePublished", "") == dataset.published


@pytest.mark.parametrize("name", NAMES)
def test_a_card_has_a_record_set_for_each_file_of_lines_with_every_column(name: str) -> None:
    dataset = find(name)
    found = {
        record_set["@id"]: [(field["@id"], field["source"]["fileObject"]["@id"]) for field in record_set["field"]]
        for record_set in card(dataset)["recordSet"]
    }
    assert found == {
        file.split: [(f"{file.split}/{field['name']}", file.name) for field in dataset.fields]
        for file in dataset.files
        if file.format == LINES
    }


def test_the_records_of_the_stand_in_can_be_read_through_the_card(
    open_card: Callable[..., Any], synthetic_r8: Path
) -> None:
    """Every line of both files, the first one too: the files have no header."""
    dataset = local(find("r8"), synthetic_r8)
    assert read(open_card, dataset, synthetic_r8) == lines(dataset, synthetic_r8)


def test_the_records_of_the_real_r8_can_be_read_through_the_card(open_card: Callable[..., Any], real_r8: Path) -> None:
    dataset = find("r8")
    assert read(open_card, dataset, real_r8) == lines(dataset, real_r8)


def test_reading_through_the_card_refuses_other_files(open_card: Callable[..., Any], synthetic_r8: Path) -> None:
    """The checksums in the card are checked: the stand-in does not pass for the real data."""
    with pytest.raises(Exception, match=r"Download\(r8-train-all-terms\.txt\)") as raised:
        read(open_card, find("r8"), synthetic_r8)
    assert f"Expected: {find('r8').files[0].sha256}" in str(raised.value.__cause__)
