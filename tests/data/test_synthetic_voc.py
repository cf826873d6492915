"""The stand-ins for VOC2007 and VOC2012, and their entries: layout, boxes and masks, twins, and a part of the data."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import VOCDetection, VOCSegmentation
from torchvision.datasets.voc import DATASET_YEAR_DICT

from tmsgd_bench import cli
from tmsgd_bench.data.catalog import Dataset, find
from tmsgd_bench.data.sources import DataFile, DataFolder, file_digest
from tmsgd_bench.data.synthetic import _voc, voc2007, voc2012
from tmsgd_bench.errors import DataError
from tmsgd_bench.voc import CLASSES, colour_map

YEARS = (2007, 2012)
MODULES = {2007: voc2007, 2012: voc2012}
SPLITS = {
    (2007, "Main"): {"train": 40, "val": 16, "trainval": 56, "test": 16},
    (2007, "Segmentation"): {"train": 32, "val": 12, "trainval": 44, "test": 8},
    (2012, "Main"): {"train": 12, "val": 8, "trainval": 20},
    (2012, "Segmentation"): {"train": 12, "val": 8, "trainval": 20},
}
GOLDEN = {
    (2007, 1): "2b2bb82fa42ce7005d5a67ce1841cc4ae8f2f49bf0a72bbfb4a9f9d81a72046f",
    (2012, 1): "694c7a5de148bd2dcf5a485b69dd15d1d54fa6ad13a315fe6fbd14e6f1e6eff4",
}
"""SHA-256 of names, pixels and texts of each version."""


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders with the stand-ins by year, to be read only."""
    root = tmp_path_factory.mktemp("voc")
    for year, module in MODULES.items():
        (root / f"voc{year}").mkdir()
        module.write(root / f"voc{year}")
    return {year: root / f"voc{year}" for year in YEARS}


@pytest.fixture(scope="session")
def real_voc2007() -> Path:
    """The folder of the real data set, or of a part of it, where there is one."""
    folder = Path(os.environ.get("TMSGD_DATA", "none")) / "voc2007"
    if not folder.is_dir():
        pytest.skip("needs the real VOC2007: set TMSGD_DATA to the folder of the data sets")
    return folder


def base(folder: Path, year: int) -> Path:
    return folder / "VOCdevkit" / f"VOC{year}"


def listed(folder: Path, year: int, part: str, split: str) -> list[str]:
    return (base(folder, year) / "ImageSets" / part / f"{split}.txt").read_text().splitlines()


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def objects(folder: Path, year: int, name: str) -> list[dict[str, Any]]:
    """The objects of an image: name, difficult, truncated and box (xmin, ymin, xmax, ymax), as they are written."""
    root = ElementTree.parse(base(folder, year) / "Annotations" / f"{name}.xml").getroot()
    return [
        {
            "name": one.findtext("name"),
            **{flag: int(one.findtext(flag, "")) for flag in ("difficult", "truncated")},
            "box": tuple(int(one.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")),
        }
        for one in root.iter("object")
    ]


def mask(folder: Path, year: int, name: str) -> np.ndarray:
    return pixels(base(folder, year) / "SegmentationClass" / f"{name}.png")


def every(year: int, part: str) -> list[str]:
    return list(SPLITS[year, part])


def digest(folder: Path) -> str:
    """Of names, texts and pixels, whatever the version of the library that packs them."""
    key = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        key.update(path.relative_to(folder).as_posix().encode())
        key.update(path.read_bytes() if path.suffix in (".txt", ".xml") else pixels(path).tobytes())
    return key.hexdigest()


# --- the files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", YEARS)
def test_the_bytes_are_the_same_every_time(tmp_path: Path, drawn: dict[int, Path], year: int) -> None:
    """Whatever was drawn from the global generators before."""
    np.random.default_rng().random(3)
    torch.rand(3)
    MODULES[year].write(tmp_path)
    files = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {p.relative_to(drawn[year]): p.read_bytes() for p in drawn[year].rglob("*") if p.is_file()}
    assert sum(map(len, files.values())) < 5_000_000


@pytest.mark.parametrize("year", YEARS)
def test_the_contents_are_those_of_the_version(drawn: dict[int, Path], year: int) -> None:
    """A synthetic run is identified by the version alone. If this fails, a change here (or of NumPy's streams) has
    changed the stand-in: raise ``VERSION`` and note the new digest."""
    assert digest(drawn[year]) == GOLDEN[year, MODULES[year].VERSION]


@pytest.mark.parametrize("year", YEARS)
def test_the_lists_agree_with_the_files(drawn: dict[int, Path], year: int) -> None:
    folder, root = drawn[year], base(drawn[year], year)
    for part in ("Main", "Segmentation"):
        names = {split: listed(folder, year, part, split) for split in every(year, part)}
        assert {split: len(set(found)) for split, found in names.items()} == SPLITS[year, part]
        assert all(found == sorted(found) for found in names.values())
        assert names["trainval"] == sorted(names["train"] + names["val"])
        assert not set(names["trainval"]) & set(names.get("test", []))
    main, masked = (
        {name for split in every(year, part) for name in listed(folder, year, part, split)}
        for part in ("Main", "Segmentation")
    )
    assert {path.stem for path in (root / "JPEGImages").iterdir()} == main | masked
    assert {path.stem for path in (root / "Annotations").iterdir()} == main | masked
    assert {path.stem for path in (root / "SegmentationClass").iterdir()} == masked


def test_the_masks_of_voc2007_are_of_images_of_the_same_split(drawn: dict[int, Path]) -> None:
    for split in SPLITS[2007, "Main"]:
        assert set(listed(drawn[2007], 2007, "Segmentation", split)) <= set(listed(drawn[2007], 2007, "Main", split))


@pytest.mark.parametrize("year", YEARS)
def test_the_layout_is_that_of_the_entry(drawn: dict[int, Path], year: int) -> None:
    """Every file and folder that the entry names is there, and there is nothing else."""
    entry, folder = find(f"voc{year}"), drawn[year]
    named = {file.path(folder) for file in entry.files} | {path for one in entry.folders for path in one.paths(folder)}
    assert named == {path for path in folder.rglob("*") if path.is_file()}
    assert all(one.paths(folder) for one in entry.folders)


@pytest.mark.parametrize("year", YEARS)
def test_torchvision_reads_it(drawn: dict[int, Path], year: int) -> None:
    """An independent reader of the development kit's layout."""
    for part, kind in (("Main", VOCDetection), ("Segmentation", VOCSegmentation)):
        for split, count in SPLITS[year, part].items():
            read = kind(drawn[year], year=str(year), image_set=split)
            assert len(read) == count
            for image, target in read:
                if kind is VOCSegmentation:
                    assert target.size == image.size and target.mode == "P"
                else:
                    size = target["annotation"]["size"]
                    assert (int(size["width"]), int(size["height"])) == image.size


# --- what is in them -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", YEARS)
def test_boxes_lie_in_the_image_and_annotations_tell_the_file(drawn: dict[int, Path], year: int) -> None:
    masked = {path.stem for path in (base(drawn[year], year) / "SegmentationClass").iterdir()}
    for path in sorted((base(drawn[year], year) / "Annotations").iterdir()):
        root = ElementTree.parse(path).getroot()
        shape = pixels(base(drawn[year], year) / "JPEGImages" / root.findtext("filename", "")).shape
        assert (root.findtext("folder"), root.findtext("filename")) == (f"VOC{year}", f"{path.stem}.jpg")
        assert tuple(int(root.findtext(f"size/{side}", "")) for side in ("height", "width")) == shape[:2]
        assert root.findtext("segmented") == str(int(path.stem in masked))
        for one in objects(drawn[year], year, path.stem):
            left, top, right, bottom = one["box"]
            assert 1 <= left <= right <= shape[1] and 1 <= top <= bottom <= shape[0]
            touches = left == 1 or top == 1 or right == shape[1] or bottom == shape[0]
            assert touches or not one["truncated"]


@pytest.mark.parametrize("year", YEARS)
def test_masks_agree_with_boxes(drawn: dict[int, Path], year: int) -> None:
    """Each pixel of a class lies in the box of an object of that class, and each object but the speck is seen."""
    for path in sorted((base(drawn[year], year) / "SegmentationClass").iterdir()):
        labels, found = pixels(path), objects(drawn[year], year, path.stem)
        inside = {name: np.zeros(labels.shape, bool) for name in CLASSES}
        for one in found:
            left, top, right, bottom = one["box"]
            inside[one["name"]][top - 1 : bottom, left - 1 : right] = True
            seen = (labels[top - 1 : bottom, left - 1 : right] == CLASSES.index(one["name"]) + 1).any()
            assert seen or left == right
        for label in set(np.unique(labels).tolist()) - {0, 255}:
            assert inside[CLASSES[label - 1]][labels == label].all()
        assert labels.shape == pixels(base(drawn[year], year) / "JPEGImages" / f"{path.stem}.jpg").shape[:2]


@pytest.mark.parametrize("year", YEARS)
def test_a_border_lies_between_any_two_classes(drawn: dict[int, Path], year: int) -> None:
    """And between a class and the ground; it is no wider than two pixels for each edge."""
    for path in sorted((base(drawn[year], year) / "SegmentationClass").iterdir()):
        labels = pixels(path)
        for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            assert ((one == other) | (one == 255) | (other == 255)).all()
        assert 0 < (labels == 255).mean() < 0.3


def test_masks_have_vocs_colours(drawn: dict[int, Path]) -> None:
    published = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    colours = colour_map()
    assert {label: tuple(colours[label].tolist()) for label in published} == published
    assert tuple(colours[255].tolist()) == (224, 224, 192)
    with Image.open(next((base(drawn[2007], 2007) / "SegmentationClass").iterdir())) as image:
        assert image.getpalette() == colours.ravel().tolist()


def test_real_masks_have_these_colours(real_voc2007: Path) -> None:
    with Image.open(next((base(real_voc2007, 2007) / "SegmentationClass").glob("*.png"))) as image:
        palette = image.getpalette()
    assert palette is not None and palette[:63] == colour_map().ravel().tolist()[:63]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_split_has_every_drawn_class_and_difficult_objects(drawn: dict[int, Path], split: str) -> None:
    found = [one for name in listed(drawn[2007], 2007, "Main", split) for one in objects(drawn[2007], 2007, name)]
    counted = Counter(one["name"] for one in found if not one["difficult"])
    assert set(counted) == {kind.name for kind in _voc.KINDS} and min(counted.values()) >= 2
    assert 0 < sum(one["difficult"] for one in found) < len(found) / 4
    assert any(one["truncated"] for one in found)


def test_the_labels_are_the_places_of_the_classes() -> None:
    assert {kind.label: kind.name for kind in _voc.KINDS} == {
        number: name for number, name in enumerate(CLASSES, 1) if name in {kind.name for kind in _voc.KINDS}
    }


def test_the_training_split_has_what_is_awkward(drawn: dict[int, Path]) -> None:
    """One gray image, one without objects, one object of a single pixel; upright and lying images."""
    train = listed(drawn[2007], 2007, "Main", "train")
    images = [pixels(base(drawn[2007], 2007) / "JPEGImages" / f"{name}.jpg") for name in train]
    found = [objects(drawn[2007], 2007, name) for name in train]
    assert sum(image.ndim == 2 for image in images) == 1
    assert sum(not one for one in found) == 1
    specks = [one for several in found for one in several if one["box"][:2] == one["box"][2:]]
    assert [one["difficult"] for one in specks] == [0]
    assert len({image.shape[0] > image.shape[1] for image in images}) == 2
    assert len({image.shape[:2] for image in images}) > 30


def test_some_objects_hide_others_in_part() -> None:
    """Also the least visible one is seen with at least two fifths of its pixels."""
    shares = []
    for seed in range(60):
        picture = _voc.draw((0, seed))
        for number, one in enumerate(picture.objects):
            hidden = np.any([other.shape for other in picture.objects[number + 1 :]] or [0 * one.shape], axis=0)
            shares.append(1 - (hidden & one.shape).sum() / one.shape.sum())
    assert 0.4 <= min(shares) < 0.7 and max(shares) == 1.0


def test_the_masks_can_be_learnt(drawn: dict[int, Path]) -> None:
    """Each pixel of a class gets the class whose mean colour in the training images is nearest, more often right than
    the most frequent class is."""
    train, val = (_coloured(drawn[2007], split) for split in ("train", "val"))
    classes = np.unique(train[1])
    means = np.stack([train[0][train[1] == label].mean(axis=0) for label in classes])
    nearest = classes[((val[0][:, None] - means) ** 2).sum(axis=2).argmin(axis=1)]
    assert (nearest == val[1]).mean() > np.bincount(val[1]).max() / len(val[1]) + 0.25


def _coloured(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Colours (pixels, 3), without their brightness, and labels of all pixels of objects."""
    colours, labels = [], []
    for name in listed(folder, 2007, "Segmentation", split):
        image, label = pixels(base(folder, 2007) / "JPEGImages" / f"{name}.jpg"), mask(folder, 2007, name)
        if image.ndim == 3:
            shown = (label > 0) & (label < 255)
            colours.append(image[shown] / (1.0 + image[shown].sum(axis=1, keepdims=True)))
            labels.append(label[shown])
    return np.concatenate(colours), np.concatenate(labels).astype(np.int64)


# --- twins ---------------------------------------------------------------------------------------------------------


def test_voc2012_holds_images_of_voc2007_under_other_names(drawn: dict[int, Path]) -> None:
    """In the lists of masks only; with the same pixels, objects and mask. Some are of VOC2007's held-out splits."""
    twins = {
        split: [name for name in listed(drawn[2012], 2012, "Segmentation", split) if name.startswith("2007_")]
        for split in ("train", "val")
    }
    sources = {split: set(listed(drawn[2007], 2007, "Segmentation", split)) for split in ("train", "val", "test")}
    origins = {split: [_origin(name[5:], sources) for name in names] for split, names in twins.items()}
    assert set(origins["train"]) == {"train", "val", "test"} and "val" in origins["val"]
    for name in [*twins["train"], *twins["val"]]:
        old = base(drawn[2007], 2007) / "JPEGImages" / f"{name[5:]}.jpg"
        assert (base(drawn[2012], 2012) / "JPEGImages" / f"{name}.jpg").read_bytes() == old.read_bytes()
        assert objects(drawn[2012], 2012, name) == objects(drawn[2007], 2007, name[5:])
        assert np.array_equal(mask(drawn[2012], 2012, name), mask(drawn[2007], 2007, name[5:]))
    assert not any(name.startswith("2007_") for name in listed(drawn[2012], 2012, "Main", "trainval"))


def _origin(name: str, sources: dict[str, set[str]]) -> str:
    (split,) = (split for split, names in sources.items() if name in names)
    return split


def test_the_other_images_of_voc2012_are_its_own(drawn: dict[int, Path]) -> None:
    digests = {
        year: {path.name: file_digest(path) for path in (base(drawn[year], year) / "JPEGImages").iterdir()}
        for year in YEARS
    }
    shared = [name for name, value in digests[2012].items() if value in set(digests[2007].values())]
    assert shared and all(name.startswith("2007_") for name in shared)
    assert all(len(set(values.values())) == len(values) for values in digests.values())


# --- the entries ---------------------------------------------------------------------------------------------------


def test_addresses_and_digests_are_torchvisions() -> None:
    """Typed in twice, so that a slip in one of them shows."""
    keys = {"voc2007": ("2007", "2007-test"), "voc2012": ("2012",)}
    for name, years in keys.items():
        expected = [(DATASET_YEAR_DICT[year]["url"], DATASET_YEAR_DICT[year]["md5"]) for year in years]
        assert [(one.url, one.md5) for one in find(name).archives] == expected


@pytest.mark.parametrize("year", YEARS)
def test_the_published_counts_agree_with_each_other(year: int) -> None:
    entry = find(f"voc{year}")
    counts = {tuple(Path(file.name).with_suffix("").parts[-2:]): file.lines for file in entry.files}
    assert all(file.lines == file.examples for file in entry.files)
    for part in ("Main", "Segmentation"):
        assert counts[part, "train"] + counts[part, "val"] == counts[part, "trainval"]
    images, annotations, masks = (folder.count for folder in entry.folders)
    assert images == annotations
    assert counts["Segmentation", "trainval"] + counts.get(("Segmentation", "test"), 0) == masks
    if year == 2007:
        assert counts["Main", "trainval"] + counts["Main", "test"] == images
        trained = [folder.count for folder in entry.without_test().folders]
        assert trained == [counts["Main", "trainval"]] * 2 + [counts["Segmentation", "trainval"]]


def test_prepare_writes_the_stand_in(tmp_path: Path, drawn: dict[int, Path]) -> None:
    names = [f"voc{year}" for year in YEARS]
    assert cli.main(["data", "prepare", *names, "--synthetic", "--root", str(tmp_path)]) == 0
    for year in YEARS:
        assert digest(base(tmp_path / "synthetic" / f"voc{year}", year)) == digest(base(drawn[year], year))


def published(tmp_path: Path, folder: Path) -> Dataset:
    """VOC2007's entry with the counts of the stand-in, in two archives as the publisher packs it."""
    test = set(listed(folder, 2007, "Main", "test"))
    archives = []
    for old, wanted in zip(find("voc2007").archives, (False, True), strict=True):
        path = tmp_path / Path(old.url).name
        with tarfile.open(path, "w") as archive:
            for file in sorted(one for one in folder.rglob("*") if one.is_file()):
                if (file.stem in test or file.name == "test.txt") == wanted:
                    archive.add(file, file.relative_to(folder).as_posix())
        archives.append(replace(old, url=path.as_uri(), md5=file_digest(path, "md5")))
    return replace(scaled(folder), archives=tuple(archives))


def scaled(folder: Path) -> Dataset:
    """VOC2007's entry with the counts of what is in a folder."""
    entry = find("voc2007")
    files = tuple(replace(file, lines=_lines(file, folder)) for file in entry.files)
    return replace(entry, files=files, folders=tuple(_counted(one, folder) for one in entry.folders))


def _counted(one: DataFolder, folder: Path) -> DataFolder:
    trained = replace(one, **one.without_test).paths(folder)
    return replace(one, count=len(one.paths(folder)), without_test={**one.without_test, "count": len(trained)})


def _lines(file: DataFile, folder: Path) -> int:
    return len(file.path(folder).read_text().splitlines())


def test_prepare_lays_both_archives_out_together(tmp_path: Path, drawn: dict[int, Path]) -> None:
    dataset = published(tmp_path, drawn[2007])
    folder = dataset.prepare(tmp_path / "root", "real")
    assert digest(base(folder, 2007) / "Annotations") == digest(base(drawn[2007], 2007) / "Annotations")
    assert dataset.problems(folder) == []
    assert dataset.fingerprint(folder, "real", verify=True) == dataset.fingerprint(drawn[2007], "real", verify=False)


@pytest.fixture
def part(tmp_path: Path, drawn: dict[int, Path]) -> Path:
    """VOC2007 without its test images and the lists of them, in a folder of its own."""
    voc2007.write(tmp_path / "voc2007")
    root = base(tmp_path / "voc2007", 2007)
    for name in listed(drawn[2007], 2007, "Main", "test"):
        for path in root.glob(f"*/{name}.*"):
            path.unlink()
    for path in root.glob("ImageSets/*/test.txt"):
        path.unlink()
    return tmp_path / "voc2007"


def test_a_part_is_refused_with_what_is_missing_and_the_way_to_use_it(part: Path, drawn: dict[int, Path]) -> None:
    with pytest.raises(DataError) as raised:
        scaled(drawn[2007]).verify(part)
    message = str(raised.value)
    root = base(part, 2007)
    assert f"{root / 'ImageSets/Main/test.txt'} is missing" in message
    assert f"{root / 'JPEGImages'} holds 56 of 72 files named *.jpg" in message
    assert "data prepare voc2007" in message and "data.verify=false" in message


def test_without_its_test_part_the_rest_is_whole_and_the_same(part: Path, drawn: dict[int, Path]) -> None:
    """Whether the test part lies in the folder as well or not."""
    trained = scaled(drawn[2007]).without_test()
    assert trained.problems(part) == trained.problems(drawn[2007]) == []
    prints = {trained.fingerprint(folder, "real", verify=True) for folder in (part, drawn[2007])}
    assert len(prints) == 1 and not prints & {scaled(drawn[2007]).fingerprint(drawn[2007], "real", verify=True)}
    (base(part, 2007) / "JPEGImages/other.jpg").touch()
    assert trained.problems(part) == []  # nobody reads what is in no list


@pytest.mark.parametrize("where", ["JPEGImages", "Annotations"])
def test_of_what_is_trained_on_nothing_may_be_missing(part: Path, drawn: dict[int, Path], where: str) -> None:
    name = listed(part, 2007, "Main", "val")[0]
    (path,) = base(part, 2007).glob(f"{where}/{name}.*")
    path.unlink()
    with pytest.raises(DataError) as raised:
        scaled(drawn[2007]).without_test().verify(part)
    message = str(raised.value)
    assert f"{path.parent} holds 55 of 56 files named *{path.suffix} and listed in " in message
    assert "data prepare voc2007 --root" in message and "--without-test' (delete a damaged file first)" in message
    assert "VOCtest" not in message and "test.txt" not in message


def test_only_what_the_splits_need_is_downloaded(tmp_path: Path, drawn: dict[int, Path]) -> None:
    dataset, asked = published(tmp_path, drawn[2007]), []
    trained, _ = (Path(archive.url).name for archive in dataset.archives)
    folder = dataset.without_test().prepare(tmp_path / "root", "real", asked.append)
    assert [Path(line).name for line in asked] == [trained]
    assert not (base(folder, 2007) / "ImageSets/Main/test.txt").exists()
    dataset.prepare(tmp_path / "root", "real")  # and the rest when it is wanted
    assert dataset.problems(folder) == []


def test_a_list_cut_to_a_part_is_refused(drawn: dict[int, Path], tmp_path: Path) -> None:
    """Also where all images are there: what is there already is never written anew."""
    voc2007.write(tmp_path / "voc2007")
    path = base(tmp_path / "voc2007", 2007) / "ImageSets/Main/train.txt"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]))
    assert scaled(drawn[2007]).problems(tmp_path / "voc2007") == [f"{path} has 7 lines in place of 40"]


def test_a_part_can_be_used_unverified_and_is_told_from_the_whole(part: Path, drawn: dict[int, Path]) -> None:
    entry = find("voc2007")
    before = entry.fingerprint(part, "real", verify=False)
    assert before != entry.fingerprint(drawn[2007], "real", verify=False)
    path = base(part, 2007) / "ImageSets/Main/val.txt"
    path.write_text(path.read_text().replace("\n", "\n\n", 1))
    assert entry.fingerprint(part, "real", verify=False) != before


@pytest.mark.parametrize("make", [Path.mkdir, lambda folder: None], ids=["empty", "missing"])
def test_nothing_at_all_has_no_fingerprint(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    folder = tmp_path / "voc2007"
    make(folder)
    with pytest.raises(DataError) as raised:
        find("voc2007").fingerprint(folder, "real", verify=False)
    assert str(folder) in str(raised.value) and "data prepare voc2007" in str(raised.value)
