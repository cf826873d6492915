"""Annotations and lists: what is read from them, and what is said of damaged ones."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from voc_files import object_text, write_annotation, write_devkit

from tmsgd_bench.errors import DataError
from tmsgd_bench.voc import (
    CLASSES,
    Detections,
    Truth,
    as_truth,
    average_precisions,
    read_objects,
    read_split,
)

FIX = "delete it and run 'python -m tmsgd_bench data prepare voc2007'."


def written(folder: Path, inside: str, size: str = "<size><width>50</width><height>40</height></size>") -> Path:
    """An annotation of 50 × 40 pixels with any text in it."""
    path = folder / "image.xml"
    path.write_text(f"<annotation>{size}{inside}</annotation>")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as raised:
        read_objects(path, FIX)
    text = str(raised.value)
    assert "\n" not in text and str(path) in text and text.endswith(f": {FIX}")
    return text


def test_the_classes_are_in_alphabetical_order() -> None:
    assert len(CLASSES) == 20 and list(CLASSES) == sorted(set(CLASSES))


def test_objects_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    objects = [("dog", (48, 240, 195, 371), False), ("person", (8, 12, 352, 375), True), ("dog", (1, 1, 1, 1), False)]
    found = read_objects(write_annotation(tmp_path / "a.xml", objects))
    assert torch.equal(found.boxes, torch.tensor([[47, 239, 195, 371], [7, 11, 352, 375], [0, 0, 1, 1]]).float())
    assert found.boxes.dtype == torch.float32
    assert torch.equal(found.labels, torch.tensor([11, 14, 11])) and found.labels.dtype == torch.int64
    assert torch.equal(found.difficult, torch.tensor([False, True, False])) and found.difficult.dtype == torch.bool
    assert len(found) == 3


def test_an_image_may_have_no_objects(tmp_path: Path) -> None:
    found = read_objects(write_annotation(tmp_path / "a.xml", []))
    assert found.boxes.shape == (0, 4) and found.labels.shape == found.difficult.shape == (0,)
    assert (found.boxes.dtype, found.labels.dtype, found.difficult.dtype) == (torch.float32, torch.int64, torch.bool)


def test_decimals_are_kept_and_boxes_cut_off_at_the_border(tmp_path: Path) -> None:
    objects = [("cat", (45.7, 2.25, 480.5, 300), False), ("cat", (0, -3, 501, 376.5), False)]
    boxes = read_objects(write_annotation(tmp_path / "a.xml", objects)).boxes
    torch.testing.assert_close(boxes, torch.tensor([[44.7, 1.25, 480.5, 300.0], [0.0, 0.0, 500.0, 375.0]]))


def test_parts_of_objects_are_not_read(tmp_path: Path) -> None:
    """Those of VOC2012's person layout have names and boxes of their own, and may come first."""
    part = "<part><name>head</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    text = object_text(("person", (2, 3, 20, 30), False)).replace("<object>", f"<object>{part}")
    found = read_objects(written(tmp_path, text))
    assert found.boxes.tolist() == [[1.0, 2.0, 20.0, 30.0]] and found.labels.tolist() == [14]


def test_an_object_that_does_not_say_so_is_not_difficult(tmp_path: Path) -> None:
    text = object_text(("person", (2, 3, 20, 30), False)).replace("<difficult>0</difficult>", "")
    assert read_objects(written(tmp_path, text)).difficult.tolist() == [False]


GOOD = object_text(("cat", (2, 3, 20, 30), False))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("<name>cat</name>", "<name>lion</name>"), "the class 'lion'"),
        (("<name>cat</name>", ""), "<object> has no name"),
        (("<name>cat</name>", "<name> </name>"), "<object> has no name"),
        (("<xmin>2</xmin>", ""), "<bndbox> has no xmin"),
        (("<xmin>2</xmin>", "<xmin/>"), "<bndbox> has no xmin"),
        (("<xmin>2</xmin>", "<xmin>two</xmin>"), "'two' as xmin"),
        (("<xmin>2</xmin>", "<xmin>nan</xmin>"), "'nan' as xmin"),
        (("<ymax>30</ymax>", "<ymax>inf</ymax>"), "'inf' as ymax"),
        (
            ("<xmax>20</xmax>", "<xmax>1</xmax>"),
            "its cat has the inverted box 2 3 1 30, with xmax < xmin or ymax < ymin",
        ),
        (("<xmax>20</xmax>", "<xmax>1.5</xmax>"), "the inverted box 2 3 1.5 30"),
        (
            ("<xmin>2</xmin><ymin>3</ymin><xmax>20</xmax>", "<xmin>51</xmin><ymin>3</ymin><xmax>60</xmax>"),
            "box 51 3 60 30, which is empty in its image",
        ),
        (("<ymax>30</ymax>", "<ymax>0</ymax>"), "the inverted box 2 3 20 0"),
        (("<ymax>30</ymax>", "<ymax>3_0</ymax>"), "'3_0' as ymax"),
        (("bndbox", "box"), "<object> has no <bndbox>"),
        (("<difficult>0<", "<difficult>maybe<"), "'maybe' difficult"),
        (("</object>", ""), "mismatched tag"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_object_that_cannot_be_used_is_named_with_the_fix(
    tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    assert read_objects(written(tmp_path, GOOD)).labels.tolist() == [7]
    assert words in refusal(written(tmp_path, GOOD.replace(*change)))


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("", "no <size>"),
        ("<size><width>50</width></size>", "no height"),
        ("<size><width>0</width><height>40</height></size>", "0 × 40"),
    ],
)
def test_an_annotation_without_a_size_is_refused(tmp_path: Path, size: str, words: str) -> None:
    assert words in refusal(written(tmp_path, GOOD, size))


@pytest.mark.parametrize("contents", [b"", b"no XML", b"<a/>", b"<annotation>", b"\xff\xfe\x00", b"\x00" * 9], ids=repr)
def test_a_file_that_is_no_annotation_is_refused(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "bad.xml"
    path.write_bytes(contents)
    refusal(path)


def test_a_missing_annotation_is_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.xml")
    assert "Is a directory" in refusal(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_type_is_refused(tmp_path: Path, encoding: str) -> None:
    """With one, a file of a kilobyte can grow to gigabytes, or fetch another."""
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    kind = f'<!DOCTYPE annotation [<!ENTITY l0 "ha">{laughs}]>'
    path = tmp_path / "bomb.xml"
    path.write_bytes(f'<?xml version="1.0"?>{kind}<annotation>&l9;</annotation>'.encode(encoding))
    assert "document type" in refusal(path)
    path.write_text('<!DOCTYPE annotation SYSTEM "http://localhost/a.dtd"><annotation/>')
    assert "document type" in refusal(path)


# --- lists ---------------------------------------------------------------------------------------------------------


def test_a_split_is_its_names_in_order(tmp_path: Path) -> None:
    write_devkit(tmp_path, {"2008_000002": [], "000001": [], "b": []}, "val")
    assert read_split(tmp_path, "Main", "val", FIX) == ["2008_000002", "000001", "b"]
    (tmp_path / "ImageSets" / "Segmentation").mkdir()
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_bytes(b"000001\r\n2008_000002 \r\nc")
    assert read_split(tmp_path, "Segmentation", "val", FIX) == ["000001", "2008_000002", "c"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lists no images"),
        ("000001\n../000002\n", "line 2, is not the name"),
        ("/etc/passwd\n", "line 1, is not the name"),
        ("a\\b\n", "line 1, is not the name"),
        ("..\n", "line 1, is not the name"),
        ("000001 -1\n000002  1\n", "line 1, is not the name"),  # the list of one class
        ("000001\n\n000002\n", "line 2, is not the name"),
        ("000001\n000002\n000001\n", "line 3, lists 000001 again after line 1"),
    ],
)
def test_a_list_that_cannot_be_used_is_named_with_the_fix(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "ImageSets" / "Main" / "train.txt"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(words)) as raised:
        read_split(tmp_path, "Main", "train", FIX)
    assert str(path) in str(raised.value) and str(raised.value).endswith(FIX)


def test_a_missing_or_binary_list_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ImageSets" / "Main" / "train.txt"
    with pytest.raises(DataError, match="No such file") as raised:
        read_split(tmp_path, "Main", "train", FIX)
    assert str(path) in str(raised.value)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot read"):
        read_split(tmp_path, "Main", "train", FIX)


# --- truth, and the real data --------------------------------------------------------------------------------------


def test_truth_numbers_the_images(tmp_path: Path) -> None:
    first = write_annotation(tmp_path / "a.xml", [("dog", (1, 1, 9, 9), True), ("cat", (2, 2, 5, 5), False)])
    empty, last = write_annotation(tmp_path / "b.xml", []), write_annotation(tmp_path / "c.xml", [])
    truth = as_truth([read_objects(path) for path in (last, first, empty, first)])
    assert truth.images.tolist() == [1, 1, 3, 3] and truth.labels.tolist() == [11, 7, 11, 7]
    assert truth.difficult.tolist() == [True, False] * 2 and truth.boxes[1].tolist() == [1.0, 1.0, 5.0, 5.0]
    for images in ([], [read_objects(empty)]):
        assert isinstance(as_truth(images), Truth) and len(as_truth(images)) == 0


def test_real_annotations(real_voc2007: Path) -> None:
    """All objects are read, in their images; and found as they are, they are found perfectly."""
    names = read_split(real_voc2007, "Main", "trainval", FIX)[:400]
    paths = [real_voc2007 / "Annotations" / f"{name}.xml" for name in names]
    images = [read_objects(path, FIX) for path in paths]
    assert [len(objects) for objects in images] == [path.read_text().count("<object>") for path in paths]
    truth = as_truth(images)
    assert (truth.boxes[:, 2:] - truth.boxes[:, :2] >= 1.0).all() and (truth.boxes >= 0.0).all()
    assert truth.boxes.max() <= 500.0 and len(np.unique(truth.labels)) == 20
    found = Detections(truth.images, truth.labels, truth.boxes, np.ones(len(truth)))
    assert average_precisions(found, truth, 20, threshold=1.0) == pytest.approx(1.0, abs=1e-15)
    assert average_precisions(found, truth, 20, threshold=1.0, points="all").tolist() == [1.0] * 20
