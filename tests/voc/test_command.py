"""``python -m tmsgd_bench voc-eval``: what it prints and what it refuses."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from voc_files import write_annotation, write_devkit

from tmsgd_bench import cli
from tmsgd_bench.voc import CLASSES, Detections, as_truth, detection_files, read_objects

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    """Two dogs, of which one is found before a box beside them; a cat that is found; a difficult bird; a sofa."""
    images = {
        "000001": [("dog", (1, 1, 10, 10), False), ("bird", (50, 50, 60, 60), True)],
        "000002": [("dog", (1, 1, 10, 10), False), ("cat", (20, 20, 40, 40), False)],
        "000003": [("sofa", (1, 1, 10, 10), False)],
    }
    return write_devkit(tmp_path / "VOC2007", images)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of detections of some classes."""
    found = tmp_path / "found"
    found.mkdir()
    lines = "000001 0.9 1 1 10 10\n000001 0.8 100 100 110 110\n000002 0.7 1 1 10 9\n"
    (found / "comp3_det_test_dog.txt").write_text(lines)
    (found / "comp3_det_test_cat.txt").write_text("000002 0.1 20 20 40 40\n")
    (found / "comp3_det_test_bird.txt").write_text("000001 0.1 50 50 60 60\n")
    return found


def ask(capsys: Capture, *arguments: object) -> str:
    capsys.readouterr()
    assert cli.main(["voc-eval", *map(str, arguments)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refusal(capsys: Capture, *arguments: object) -> str:
    capsys.readouterr()
    assert cli.main(["voc-eval", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"error: [^\n]+\.\n", err)
    return err


def test_text_has_a_line_for_each_class_and_the_mean(capsys: Capture, devkit: Path, folder: Path) -> None:
    lines = ask(capsys, folder, "--devkit", devkit).splitlines()
    cells = {line.split()[0]: line.split()[1:] for line in lines[1:-1]}
    assert list(cells) == [*CLASSES, "mAP"]
    dog = (6 + 5 * 2 / 3) / 11
    assert cells["dog"] == [f"{100 * dog:.2f}", "2", "0", "3"]
    assert cells["cat"] == ["100.00", "1", "0", "1"]
    assert cells["sofa"] == ["0.00", "1", "0", "0"]
    assert cells["bird"] == ["–", "0", "1", "1"]
    assert cells["mAP"] == [f"{100 * (dog + 1) / 3:.2f}", "4", "1", "5"]
    assert lines[-1] == (
        "mAP is the mean over 3 of 20 classes, those with objects; 3 images of test, IoU 0.5, 11 points"
    )
    assert len({len(line) for line in lines[:-1]}) == 1  # aligned


def test_options_choose_the_rule(capsys: Capture, devkit: Path, folder: Path) -> None:
    text = ask(capsys, folder, "--devkit", devkit, "--points", "all")
    assert f"{100 * (1 + 2 / 3) / 2:.2f}" in text and "all points" in text
    text = ask(capsys, folder, "--devkit", devkit, "--iou", "0.95")  # the second dog's is 0.9
    assert f"{100 * 6 / 11:.2f}" in text and "IoU 0.95" in text


def test_csv_has_all_digits(capsys: Capture, devkit: Path, folder: Path) -> None:
    table = pd.read_csv(io.StringIO(ask(capsys, folder, "--devkit", devkit, "--format", "csv"))).set_index("class")
    dog = 100 * (6 + 5 * 2 / 3) / 11
    assert list(table.index) == [*CLASSES, "mAP"]
    assert table.loc["dog", "ap_percent"] == pytest.approx(dog, rel=1e-14)
    assert table.loc["mAP", "ap_percent"] == pytest.approx((dog + 100) / 3, rel=1e-14)
    assert int(table["ap_percent"].isna().sum()) == 17
    assert table.loc["mAP", ["objects", "difficult", "detections"]].tolist() == [4, 1, 5]


def test_markdown_is_a_table(capsys: Capture, devkit: Path, folder: Path) -> None:
    lines = ask(capsys, folder, "--devkit", devkit, "--format", "md").splitlines()
    assert len(lines) == 2 + 20 + 1 + 2
    assert {line.count("|") for line in lines[:23]} == {6}
    assert "| cat | 100.00 | 1 | 0 | 1 |" in lines


def test_without_any_object_the_mean_is_a_dash(capsys: Capture, tmp_path: Path, folder: Path) -> None:
    devkit = write_devkit(tmp_path / "empty", {"000001": [], "000002": []})
    text = ask(capsys, folder, "--devkit", devkit)
    assert re.search(r"^mAP +– +0 +0 +5$", text, re.MULTILINE) and "0 of 20 classes" in text


def test_the_real_objects_found_as_they_are_are_found_perfectly(
    capsys: Capture, tmp_path: Path, real_voc2007: Path
) -> None:
    listed = (real_voc2007 / "ImageSets" / "Main" / "trainval.txt").read_text().split()[:300]
    truth = as_truth([read_objects(real_voc2007 / "Annotations" / f"{name}.xml") for name in listed])
    split = tmp_path / "kit" / "ImageSets" / "Main" / "some.txt"
    split.parent.mkdir(parents=True)
    split.write_text("\n".join(listed))
    (tmp_path / "kit" / "Annotations").symlink_to(real_voc2007 / "Annotations")
    found = Detections(truth.images, truth.labels, truth.boxes, np.full(len(truth), 0.5))
    detection_files.write(tmp_path / "found", "some", listed, found)
    text = ask(capsys, tmp_path / "found", "--devkit", tmp_path / "kit", "--split", "some", "--iou", 1)
    assert text.count("100.00") == 21 and "20 of 20 classes" in text and "300 images of some" in text


def test_what_is_missing_is_named(capsys: Capture, devkit: Path, folder: Path, tmp_path: Path) -> None:
    assert "--devkit" in refusal(capsys, folder, "--devkit", tmp_path / "none")
    text = refusal(capsys, folder, "--devkit", devkit, "--split", "val")
    assert str(devkit / "ImageSets" / "Main" / "val.txt") in text and "--split" in text
    assert str(tmp_path / "none") in refusal(capsys, tmp_path / "none", "--devkit", devkit)
    (devkit / "Annotations" / "000002.xml").unlink()
    assert str(devkit / "Annotations" / "000002.xml") in refusal(capsys, folder, "--devkit", devkit)


def test_damaged_files_are_named(capsys: Capture, devkit: Path, folder: Path) -> None:
    (folder / "comp3_det_test_cat.txt").write_text("000009 0.1 20 20 40 40\n")
    text = refusal(capsys, folder, "--devkit", devkit)
    assert f"{folder / 'comp3_det_test_cat.txt'}, line 1" in text and "000009" in text
    write_annotation(devkit / "Annotations" / "000002.xml", [("lion", (1, 1, 2, 2), False)])
    (folder / "comp3_det_test_cat.txt").unlink()
    assert "'lion'" in refusal(capsys, folder, "--devkit", devkit)


def test_an_inverted_box_is_named(capsys: Capture, devkit: Path, folder: Path) -> None:
    path = folder / "comp3_det_test_cat.txt"
    path.write_text("000002 0.1 20 20 40 40\n000002 0.1 40 40 20 20\n")
    assert f"{path}, line 2, has the inverted box 40 40 20 20" in refusal(capsys, folder, "--devkit", devkit)


@pytest.mark.parametrize("iou", ["0", "1.01", "nan", "-1"])
def test_a_threshold_that_makes_no_sense_is_refused(capsys: Capture, devkit: Path, folder: Path, iou: str) -> None:
    assert "--iou" in refusal(capsys, folder, "--devkit", devkit, f"--iou={iou}")


@pytest.mark.parametrize("split", ["../Main/test", "", ".", "..", "/etc/passwd", "a b", "a/b", "test\n"])
def test_a_split_is_a_plain_name(capsys: Capture, devkit: Path, folder: Path, split: str) -> None:
    """Even where the path that it would make leads to a list."""
    assert f"the split cannot be {split!r}: " in refusal(capsys, folder, "--devkit", devkit, f"--split={split}")
