"""Data-set cards as Croissant JSON-LD: linked data that says what a data set is and where it comes from.

Source: the Croissant format 1.0, http://mlcommons.org/croissant/1.0 (a vocabulary on top of schema.org).
"""

from __future__ import annotations

from typing import Any

from tmsgd_bench.data.catalog import DataFile, Dataset

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
SPLITS = {"train": "cr:TrainingSplit", "test": "cr:TestSplit"}


def card(dataset: Dataset) -> dict[str, Any]:
    """A data set's card: source, licence, files with checksums, splits, and columns."""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": dataset.name,
        "alternateName": dataset.title,
        "description": " ".join(dataset.description.split()),
        "url": dataset.homepage,
        "license": dataset.licence_url,
        "usageInfo": " ".join(dataset.licence.split()),
        "citeAs": " ".join(dataset.citation.split()),
        "datePublished": dataset.published,
        "version": "1.0.0",
        "sameAs": f"{dataset.homepage}/tree/{dataset.version}",
        "distribution": [_file_object(file) for file in dataset.files],
        "recordSet": [_record_set(dataset, file) for file in dataset.files],
    }


def _file_object(file: DataFile) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "description": f"The {file.split} split: {file.examples} examples.",
        "contentUrl": file.url,
        "contentSize": f"{file.bytes} B",
        "encodingFormat": file.format,
        "sha256": file.sha256,
    }


def _record_set(dataset: Dataset, file: DataFile) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": file.split,
        "name": file.split,
        "description": f"{file.examples} examples ({SPLITS[file.split]}).",
        "field": [_field(dataset, file, column) for column in range(len(dataset.fields))],
    }


def _field(dataset: Dataset, file: DataFile, column: int) -> dict[str, Any]:
    """One column of a file of tab-separated lines without a header."""
    name = dataset.fields[column]["name"]
    parts = ["[^\\t]*"] * len(dataset.fields)
    parts[column] = "([^\\t]*)"
    return {
        "@type": "cr:Field",
        "@id": f"{file.split}/{name}",
        "name": f"{file.split}/{name}",
        "description": dataset.fields[column]["description"],
        "dataType": "sc:Text",
        "source": {
            "fileObject": {"@id": file.name},
            "extract": {"fileProperty": "lines"},
            "transform": {"regex": "^" + "\\t".join(parts) + "$"},
        },
    }
