"""The official files of detections: written, read again, and damaged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tmsgd_bench.errors import DataError, StoreError
from tmsgd_bench.voc import CLASSES, Detections, Truth, average_precisions, detection_files

NAMES = ["000007", "000021", "2008_000002"]


def random_detections(seed: int, count: int, kind: type = np.float32) -> Detections:
    """Sorted by class, as they are read."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 400, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0, 100, (count, 2))], axis=1)
    labels = np.sort(rng.integers(0, 20, count))
    return Detections(rng.integers(0, 3, count), labels, boxes.astype(kind), rng.random(count).astype(kind))


def test_a_line_has_vocs_own_coordinates(tmp_path: Path) -> None:
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], [46.5, 238.0, 195.0, 371.25]])
    found = Detections(np.array([2, 0]), np.array([11, 11]), boxes, np.array([0.125, 1e-7]))
    detection_files.write(tmp_path / "new", "test", NAMES, found)
    text = (tmp_path / "new" / "comp4_det_test_dog.txt").read_text()
    assert text == "2008_000002 0.125 1.0 1.0 1.0 1.0\n000007 1e-07 47.5 239.0 195.0 371.25\n"


def test_every_class_has_a_file_and_an_old_one_is_replaced(tmp_path: Path) -> None:
    detection_files.write(tmp_path, "test", NAMES, random_detections(0, 300))
    found = random_detections(1, 2)
    detection_files.write(tmp_path, "test", NAMES, found)
    assert {path.name for path in tmp_path.iterdir()} == {f"comp4_det_test_{name}.txt" for name in CLASSES}
    assert len(detection_files.read(tmp_path, "test", NAMES)) == 2


@pytest.mark.parametrize("seed", range(3))
def test_single_precision_comes_back_to_the_bit(tmp_path: Path, seed: int) -> None:
    found = random_detections(seed, 200)
    detection_files.write(tmp_path, "val", NAMES, found, competition="comp3")
    again = detection_files.read(tmp_path, "val", NAMES)
    assert len(list(tmp_path.glob("comp3_det_val_*.txt"))) == 20
    for name, column in vars(found).items():
        np.testing.assert_array_equal(getattr(again, name), column)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 60))
def test_average_precision_is_the_same_after_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int
) -> None:
    """With scores next to each other in double precision, ties, and detections in no order."""
    folder = tmp_path_factory.mktemp("files")
    found = random_detections(seed, count, np.float64)
    rng = np.random.default_rng(seed)
    scores = 0.7 + rng.integers(0, 9, count) * np.spacing(0.7)
    found = replace(found, scores=scores, labels=rng.permutation(found.labels))
    detection_files.write(folder, "test", NAMES, found)
    again = detection_files.read(folder, "test", NAMES)
    order = np.argsort(found.labels, kind="stable")
    np.testing.assert_allclose(again.boxes, found.boxes[order], rtol=0, atol=1e-12)
    truth = Truth(found.images[::2], found.labels[::2], found.boxes[::2] + 1.0, rng.random((count + 1) // 2) < 0.2)
    expected = average_precisions(found, truth, 20)
    np.testing.assert_array_equal(average_precisions(again, truth, 20), expected)


def test_a_class_without_a_file_has_no_detections(tmp_path: Path) -> None:
    """And other files, those of another split among them, are left alone."""
    (tmp_path / "comp4_1a2b_det_test_dog.txt").write_text("000021 0.5 1 2 3 4\n")
    (tmp_path / "comp4_det_val_dog.txt").write_text("nonsense\n")
    (tmp_path / "notes.txt").write_text("nonsense\n")
    found = detection_files.read(tmp_path, "test", NAMES)
    assert found.images.tolist() == [1] and found.labels.tolist() == [11] and found.scores.tolist() == [0.5]
    assert found.boxes.tolist() == [[0.0, 1.0, 3.0, 4.0]]


def test_empty_files_are_no_detections(tmp_path: Path) -> None:
    (tmp_path / "comp4_det_test_dog.txt").write_text("")
    found = detection_files.read(tmp_path, "test", NAMES)
    assert len(found) == 0 and found.boxes.shape == (0, 4)


@pytest.mark.parametrize("folder", [".", "none"])
def test_a_folder_without_files_of_the_split_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / "comp4_det_val_dog.txt").write_text("")
    with pytest.raises(DataError, match=r"has no file of detections comp4_det_test_CLASS\.txt") as raised:
        detection_files.read(tmp_path / folder, "test", NAMES)
    assert str(raised.value).startswith(str(tmp_path / folder))


def test_files_of_two_competitions_are_refused(tmp_path: Path) -> None:
    for name in ("comp3_det_test_dog.txt", "comp4_det_test_cat.txt"):
        (tmp_path / name).write_text("")
    with pytest.raises(DataError, match="comp3 and comp4: put each into a folder of its own"):
        detection_files.read(tmp_path, "test", NAMES)


def test_a_file_of_an_unknown_class_is_refused(tmp_path: Path) -> None:
    (tmp_path / "comp4_det_test_lion.txt").write_text("")
    with pytest.raises(DataError, match=r"comp4_det_test_lion\.txt is of 'lion', which is no class of VOC"):
        detection_files.read(tmp_path, "test", NAMES)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("000021 0.5 1 2 3", "is not an image's name and five finite numbers"),
        ("000021 0.5 1 2 3 4 5", "is not an image's name and five finite numbers"),
        ("000021 0.5 1 2 3 four", "is not an image's name and five finite numbers"),
        ("000021 0.5 1_0 2 30 4", "is not an image's name and five finite numbers"),
        ("000021 0.5 1 2 3 ٤", "is not an image's name and five finite numbers"),
        ("000021 nan 1 2 3 4", "is not an image's name and five finite numbers"),
        ("000021 0.5 1 2 inf 4", "is not an image's name and five finite numbers"),
        ("000021", "is not an image's name and five finite numbers"),
        ("000021 0.5 30 2 20 4", "has the inverted box 30 2 20 4, with xmax < xmin or ymax < ymin"),
        ("000021 0.5 1 8 3 6.5", "has the inverted box 1 8 3 6.5, with xmax < xmin or ymax < ymin"),
        ("000022 0.5 1 2 3 4", "is of '000022', which is no image of the split 'test'"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "comp4_det_test_dog.txt"
    path.write_text(f"000021 0.5 1 2 3 4\n{line}\n")
    with pytest.raises(DataError) as raised:
        detection_files.read(tmp_path, "test", NAMES)
    assert str(raised.value).startswith(f"{path}, line 2, {words}: ") and str(raised.value).endswith(".")


def test_a_box_of_a_pixel_or_less_is_no_inverted_one(tmp_path: Path) -> None:
    (tmp_path / "comp4_det_test_dog.txt").write_text("000021 0.5 3 4 3 4\n")
    assert detection_files.read(tmp_path, "test", NAMES).boxes.tolist() == [[2.0, 3.0, 3.0, 4.0]]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_whatever_a_detector_may_find_is_read_again(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Boxes of all sizes down to nothing, the smallest ones at places of all magnitudes."""
    rng = np.random.default_rng(seed)
    corners = 10.0 ** rng.uniform(-20, 3, (200, 2))
    extents = rng.choice([0.0, 1e-20, 1e-9, 0.3, 1.0, 50.0], (200, 2))
    boxes = np.concatenate([corners, corners + extents], axis=1).astype(np.float32)
    folder = tmp_path_factory.mktemp("files")
    found = Detections(np.zeros(200, int), np.sort(rng.integers(0, 20, 200)), boxes, rng.random(200))
    detection_files.write(folder, "test", NAMES, found)
    np.testing.assert_allclose(detection_files.read(folder, "test", NAMES).boxes, boxes, rtol=0, atol=1e-15)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "comp4_det_test_dog.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read") as raised:
        detection_files.read(tmp_path, "test", NAMES)
    assert str(path) in str(raised.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError) as raised:
        detection_files.write(tmp_path / "file", "test", NAMES, random_detections(0, 2))
    assert str(tmp_path / "file") in str(raised.value)


@pytest.mark.parametrize("column", ["images", "labels"])
@pytest.mark.parametrize("value", [-1, 20])
def test_images_and_labels_without_a_name_are_refused(tmp_path: Path, column: str, value: int) -> None:
    found = replace(random_detections(0, 2), **{column: np.array([0, value])})
    with pytest.raises(ValueError, match="images and labels must be from 0"):
        detection_files.write(tmp_path, "test", NAMES, found)
    assert not list(tmp_path.iterdir())


def test_blank_lines_at_the_end_are_passed_over_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "comp4_det_test_cat.txt"
    line = "000001 0.5 1 1 10 10\n"
    path.write_text(f"{line}\n\n")
    assert len(detection_files.read(tmp_path, "test", ["000001"])) == 1
    path.write_text(f"{line}\n{line}")
    with pytest.raises(DataError, match="line 2"):
        detection_files.read(tmp_path, "test", ["000001"])
