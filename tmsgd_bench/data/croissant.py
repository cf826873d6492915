"""Data-set cards as Croissant JSON-LD, a machine-readable description of a data set and its sources.

Source: the Croissant format 1.0, http://mlcommons.org/croissant/1.0 (a vocabulary on top of schema.org).
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from tmsgd_bench.data.archives import Archive
from tmsgd_bench.data.catalog import Dataset
from tmsgd_bench.data.sources import DataFile, DataFolder

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


LINES = "text/plain"
"""The format of files of tab-separated lines without a header; only their columns are in a card."""
ARCHIVES = {".gz": "application/gzip", ".tar": "application/x-tar", ".zip": "application/zip"}
OPAQUE = "application/octet-stream"
IMAGES = {".jpg": "image/jpeg", ".png": "image/png"}


def card(dataset: Dataset) -> dict[str, Any]:
    """A data set's card: source, licence, files with checksums, splits, and the columns of tab-separated files.

    A data set with a download that has no published checksum is marked as live: its bytes may change.
    """
    optional: dict[str, Any] = {"datePublished": dataset.published} if dataset.published else {}
    # Files without a URL come in an archive, if there is one.
    single_files = [file for file in dataset.files if file.url or not dataset.archives]
    downloads: list[Archive | DataFile] = [*dataset.archives, *single_files]
    if not all(map(_digests, downloads)):
        optional["isLiveDataset"] = True
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
        **optional,
        "version": "1.0.0",
        "sameAs": _version_url(dataset),
        "distribution": [
            *(_archive_object(archive) for archive in dataset.archives),
            *(_file_object(dataset, file) for file in dataset.files),
            *(_file_set(dataset, folder) for folder in dataset.folders),
        ],
        "recordSet": [_record_set(dataset, file) for file in dataset.files if file.format == LINES],
    }


def _version_url(dataset: Dataset) -> str:
    """The URL of the data set's version, if the homepage is a repository; otherwise the homepage."""
    return f"{dataset.homepage}/tree/{dataset.version}" if "github.com" in dataset.homepage else dataset.homepage


def _digests(download: DataFile | Archive) -> dict[str, str]:
    return {kind: value for kind in ("sha256", "md5") if (value := getattr(download, kind))}


def _archive_object(archive: Archive) -> dict[str, Any]:
    name = PurePosixPath(archive.url).name
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": "What the files come in.",
        "contentUrl": archive.url,
        "encodingFormat": ARCHIVES.get(PurePosixPath(name).suffix, OPAQUE),
        **_digests(archive),
    }


def _file_object(dataset: Dataset, file: DataFile) -> dict[str, Any]:
    size = {} if file.bytes is None else {"contentSize": f"{file.bytes} B"}
    description = f"The {file.split} split: {file.examples} examples." if file.split else f"{file.examples} examples."
    return {
        "@type": "cr:FileObject",
        "@id": file.name,
        "name": file.name,
        "description": description,
        "contentUrl": file.url or file.name,
        **size,
        **({} if file.url else _container(dataset)),
        "encodingFormat": file.format or OPAQUE,
        **_digests(file),
    }


def _file_set(dataset: Dataset, folder: DataFolder) -> dict[str, Any]:
    identity = "images" if folder.name == "." else folder.name
    return {
        "@type": "cr:FileSet",
        "@id": identity,
        "name": identity,
        "description": f"{folder.count} files{f', the {folder.split} split' if folder.split else ''}.",
        **_container(dataset),
        "encodingFormat": IMAGES.get(PurePosixPath(folder.pattern).suffix, "image/jpeg"),
        "includes": folder.pattern if folder.name == "." else f"{folder.name}/{folder.pattern}",
    }


def _container(dataset: Dataset) -> dict[str, Any]:
    """The archives that files without a URL come in; empty if they are not downloaded."""
    names = [{"@id": PurePosixPath(archive.url).name} for archive in dataset.archives]
    return {"containedIn": names if len(names) > 1 else names[0]} if names else {}


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
    patterns = ["[^\\t]*"] * len(dataset.fields)
    patterns[column] = "([^\\t]*)"
    return {
        "@type": "cr:Field",
        "@id": f"{file.split}/{name}",
        "name": f"{file.split}/{name}",
        "description": dataset.fields[column]["description"],
        "dataType": "sc:Text",
        "source": {
            "fileObject": {"@id": file.name},
            "extract": {"fileProperty": "lines"},
            "transform": {"regex": "^" + "\\t".join(patterns) + "$"},
        },
    }
