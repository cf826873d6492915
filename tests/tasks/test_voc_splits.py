"""What both VOC tasks read: lists, years without twins, subsets, pixels, masks, boxes, and what can be wrong."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from tasks import voc
from tasks.voc import IGNORED, ImageSplit, image_splits
from tmsgd_bench.data.catalog import Combined, Dataset, find, find_all
from tmsgd_bench.data.synthetic import voc2007, voc2012
from tmsgd_bench.data.texts import FOLDER
from tmsgd_bench.engine import compose, environment
from tmsgd_bench.errors import ConfigError, DataError
from tmsgd_bench.seeding import subset
from tmsgd_bench.task import TaskSettings
from tmsgd_bench.voc import colour_map

CONF = Path(__file__).parents[2] / "conf"
SIZES = {"000003": (7, 5), "000001": (4, 9), "000002": (6, 6), "000004": (3, 8)}
"""Height and width of the images of the miniature, in the order of its lists."""
SPLITS = {
    "train": ["000003", "000001"],
    "val": ["000002"],
    "trainval": ["000003", "000001", "000002"],
    "test": ["000004"],
}


@pytest.fixture(scope="module")
def years(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stand-ins of both years, to be read only (but for what is kept beside them)."""
    root = tmp_path_factory.mktemp("years")
    for module, name in ((voc2007, "voc2007"), (voc2012, "voc2012")):
        (root / name).mkdir()
        module.write(root / name)
    return root


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """``VOCdevkit/VOC2007`` of four tiny images, to be damaged."""
    folder = tmp_path / "voc2007/VOCdevkit/VOC2007"
    for part in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Main", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    for seed, (name, size) in enumerate(SIZES.items()):
        rng = np.random.default_rng(seed)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"JPEGImages/{name}.jpg", "PNG")
        save_mask(folder, name, rng.choice([0, 1, 20, 255], size).astype(np.uint8))
        annotate(folder, name, [1, 1, size[1], size[0]], size)
    for split, names in SPLITS.items():
        for lists in ("Main", "Segmentation"):
            (folder / f"ImageSets/{lists}/{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def save_mask(folder: Path, name: str, classes: np.ndarray) -> None:
    """With VOC's colours as its palette."""
    image = Image.fromarray(classes)
    image.putpalette(colour_map().ravel().tolist())
    image.save(folder / f"SegmentationClass/{name}.png")


def annotate(folder: Path, name: str, box: list[int], size: tuple[int, int]) -> None:
    corners = "".join(f"<{c}>{v}</{c}>" for c, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    text = f"<size><width>{size[1]}</width><height>{size[0]}</height></size>"
    thing = f"<object><name>cat</name><bndbox>{corners}</bndbox></object>"
    (folder / f"Annotations/{name}.xml").write_text(f"<annotation>{text}{thing}</annotation>")


def settings(root: Path, data: str = "voc2007", limit: int | None = None, **changes: Any) -> TaskSettings:
    made = TaskSettings(root / data, limit, 4, 0, torch.device("cpu"), {}, fingerprint="as written")
    return replace(made, **changes)


def of(small: Path, splits: str = "train/val") -> tuple[ImageSplit, ImageSplit]:
    """Both sides of the miniature."""
    return image_splits(settings(small.parents[2]), "Segmentation", splits)


# --- lists ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lists", ["Main", "Segmentation"])
@pytest.mark.parametrize("splits", ["train/val", "trainval/test"])
def test_the_images_are_those_of_the_lists_in_their_order(
    years: Path, lists: Literal["Main", "Segmentation"], splits: str
) -> None:
    for part, split in zip(image_splits(settings(years), lists, splits), splits.split("/"), strict=True):
        listed = years / f"voc2007/VOCdevkit/VOC2007/ImageSets/{lists}/{split}.txt"
        assert part.names == listed.read_text().split()
        assert len(part) == len(part.names) == len(part.photos)


@pytest.mark.parametrize("splits", ["train/test", "test/trainval", "val", "", None, "trainval/val"])
def test_other_splits_are_refused(years: Path, splits: Any) -> None:
    with pytest.raises(ConfigError, match=r"task\.splits .*trainval/test, train/val"):
        image_splits(settings(years), "Main", splits)


@pytest.mark.parametrize("data", ["voc2012"])
def test_a_year_without_public_test_annotations_is_refused(years: Path, data: str) -> None:
    with pytest.raises(ConfigError, match=r"VOC2012 .*task\.splits=train/val"):
        image_splits(settings(years, data), "Main", "trainval/test")


def test_voc2012_alone_is_all_of_its_lists(years: Path) -> None:
    """Its twins of the other year belong to it."""
    train, val = image_splits(settings(years, "voc2012"), "Segmentation", "train/val")
    assert [len(train), len(val)] == [12, 8]
    assert sum(name.startswith("2007_") for name in train.names) == 3


@pytest.mark.parametrize("splits", ["train/val", "trainval/test"])
def test_of_both_years_no_image_is_counted_twice_or_trained_and_tested_on(years: Path, splits: str) -> None:
    """Those of the first year are all there, and what is tested on is the first year's list, whole."""
    both = image_splits(settings(years, "voc2007+voc2012"), "Segmentation", splits)
    first, second = (image_splits(settings(years, f"voc{year}"), "Segmentation", "train/val") for year in (2007, 2012))
    alone = image_splits(settings(years), "Segmentation", splits)
    train, test = both
    assert test.names == alone[1].names
    assert train.names[: len(alone[0])] == alone[0].names
    plain = [name.removeprefix("2007_") for name in train.names]
    assert len(plain) == len(set(plain)) and not set(plain) & set(test.names)
    added = set(train.names[len(alone[0]) :])
    listed = set(second[0].names) | (set(second[1].names) if splits == "trainval/test" else set())
    seen = set(alone[0].names) | set(test.names)
    assert added == {name for name in listed if name.removeprefix("2007_") not in seen}
    twins = {name for name in listed if name.startswith("2007_")}
    assert len(twins - added) == {"train/val": 2, "trainval/test": 4}[splits]
    assert set(first[0].names) <= set(train.names)


def test_a_twin_that_is_in_neither_list_of_the_run_stays(years: Path) -> None:
    """Trained on train and tested on val: an image of VOC2007's test list is neither."""
    train, _ = image_splits(settings(years, "voc2007+voc2012"), "Segmentation", "train/val")
    twins = [name.removeprefix("2007_") for name in train.names if name.startswith("2007_")]
    assert len(twins) == 1 and twins[0] in voc2007.masks()["test"]


def test_a_twins_pixels_are_those_of_its_other_name(years: Path) -> None:
    """So the two names do mean one image."""
    _, val = image_splits(settings(years, "voc2012"), "Segmentation", "train/val")
    _, tested = image_splits(settings(years), "Segmentation", "train/val")
    (name,) = (name for name in val.names if name.startswith("2007_"))
    there = val.photos[val.names.index(name)]
    here = tested.photos[tested.names.index(name.removeprefix("2007_"))]
    assert torch.equal(there, here)


def test_for_boxes_both_years_are_all_of_their_lists(years: Path) -> None:
    train, test = image_splits(settings(years, "voc2007+voc2012"), "Main", "trainval/test")
    assert (len(train), len(test)) == (56 + 20, 16)
    assert len(train.objects) == len(train.photos) == 76


# --- subsets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, 40, 1000])
@pytest.mark.parametrize("data", ["voc2007", "voc2007+voc2012"])
def test_a_limit_keeps_a_seeded_subset_in_order_and_the_test_split_whole(years: Path, data: str, limit: int) -> None:
    whole = image_splits(settings(years, data), "Segmentation", "train/val")
    train, test = image_splits(settings(years, data, limit), "Segmentation", "train/val")
    chosen = subset(len(whole[0]), limit).tolist()
    assert train.names == [whole[0].names[number] for number in chosen]
    assert test.names == whole[1].names
    assert image_splits(settings(years, data, limit, seed=9), "Segmentation", "train/val")[0].names == train.names
    for place, number in enumerate(chosen[:: max(1, len(chosen) // 4)]):
        at = place * max(1, len(chosen) // 4)
        assert torch.equal(train.photos[at], whole[0].photos[number])
        assert torch.equal(train.masks[at], whole[0].masks[number])
        assert torch.equal(train.objects[at].boxes, whole[0].objects[number].boxes)


def test_a_limit_has_only_what_is_used_decoded(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each subset has a pack of its own, and none hides that of the whole list."""
    decoded: list[str] = []
    for name in ("_photo", "_mask"):
        own = getattr(voc, name)
        monkeypatch.setattr(voc, name, lambda path, fix, own=own: decoded.append(path.stem) or own(path, fix))
    root, whole = small.parents[2], SPLITS["trainval"]
    for limit in (2, 1, None, 2):
        train, _ = image_splits(settings(root, limit=limit), "Segmentation", "trainval/test")
        for kind, folder in (("photos", "JPEGImages/{}.jpg"), ("masks", "SegmentationClass/{}.png")):
            for number, name in enumerate(train.names):
                assert torch.equal(getattr(train, kind)[number], opened(small / folder.format(name)))
    chosen = [[whole[number] for number in subset(3, limit).tolist()] for limit in (2, 1)]
    assert decoded == [*chosen[0] * 2, *chosen[1] * 2, *whole * 2]


# --- pixels --------------------------------------------------------------------------------------------------------


def opened(path: Path, mode: str | None = None) -> torch.Tensor:
    with Image.open(path) as image:
        pixels = np.array(image if mode is None else image.convert(mode))
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1)


def test_pixels_and_masks_are_the_files(years: Path) -> None:
    """Of images of every size, and of the gray one."""
    for part, folder in zip(image_splits(settings(years), "Segmentation", "train/val"), ("train", "val"), strict=True):
        root = years / "voc2007/VOCdevkit/VOC2007"
        assert folder == part.images[0].split
        for number, name in enumerate(part.names):
            assert torch.equal(part.photos[number], opened(root / f"JPEGImages/{name}.jpg", "RGB"))
            assert torch.equal(part.masks[number], opened(root / f"SegmentationClass/{name}.png"))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_kind_of_colours_is_read_as_rgb(small: Path, mode: str) -> None:
    path = small / "JPEGImages/000003.jpg"
    with Image.open(path) as image:
        other = image.convert(mode)
    other.save(path, "TIFF" if mode == "CMYK" else "PNG")
    photo = of(small)[0].photos[0]
    assert photo.shape == (3, 7, 5) and photo.dtype == torch.uint8
    assert torch.equal(photo, opened(path, "RGB"))
    if mode in ("L", "LA", "1"):
        assert torch.equal(photo[0], photo[1]) and torch.equal(photo[1], photo[2])


def test_a_gray_mask_is_as_good_as_one_with_a_palette(small: Path) -> None:
    before = of(small)[0].masks[0].clone()
    Image.fromarray(before[0].numpy()).save(small / "SegmentationClass/000003.png")
    shutil.rmtree(small.parents[2] / FOLDER)
    assert torch.equal(of(small)[0].masks[0], before)


def test_files_are_decoded_once(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is found again by another run; other contents have their own."""
    first = [(part.photos[0].clone(), part.masks[0].clone()) for part in of(small)]
    with monkeypatch.context() as patch:
        patch.setattr(voc, "decode_photos", lambda images: pytest.fail("decoded again"))
        patch.setattr(voc, "decode_masks", lambda images: pytest.fail("decoded again"))
        again = [(part.photos[0], part.masks[0]) for part in of(small)]
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    Image.new("RGB", (5, 7)).save(small / "JPEGImages/000003.jpg", "PNG")
    changed, _ = image_splits(settings(small.parents[2], fingerprint="other"), "Segmentation", "train/val")
    assert not changed.photos[0].any()


# --- damaged files -------------------------------------------------------------------------------------------------


def fix(folder: Path) -> str:
    """The command that mends a file of the year in a folder."""
    root = shlex.quote(str(folder.parents[2]))
    return f"python -m tmsgd_bench data prepare voc2007 --root {root}"


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"no image"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "folder": folder_instead,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["photos", "masks"])
def test_a_damaged_image_or_mask_is_named_with_the_fix(small: Path, damage: str, kind: str) -> None:
    path = small / ("JPEGImages/000001.jpg" if kind == "photos" else "SegmentationClass/000001.png")
    DAMAGES[damage](path)
    with pytest.raises(DataError) as raised:
        getattr(of(small)[0], kind)
    said = str(raised.value)
    assert str(path) in said and fix(small) in said and "\n" not in said


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "folder"])
def test_a_damaged_annotation_is_named_with_the_fix(small: Path, damage: str) -> None:
    path = small / "Annotations/000001.xml"
    DAMAGES[damage](path)
    with pytest.raises(DataError) as raised:
        _ = of(small)[0].objects
    said = str(raised.value)
    assert str(path) in said and fix(small) in said and "\n" not in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read"),
        ("", "lists no images"),
        ("../a\n", "line 1, is not the name"),
        ("a\na\n", "lists a again"),
    ],
)
def test_a_damaged_list_is_named_with_the_fix(small: Path, text: str | None, words: str) -> None:
    path = small / "ImageSets/Segmentation/val.txt"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=words) as raised:
        of(small)
    assert str(path) in str(raised.value) and fix(small) in str(raised.value)


def test_the_fix_names_the_year_of_the_file(years: Path, tmp_path: Path) -> None:
    shutil.copytree(years / "voc2012", tmp_path / "voc2012")
    path = tmp_path / "voc2012/VOCdevkit/VOC2012/ImageSets/Main/train.txt"
    path.unlink()
    with pytest.raises(DataError, match=r"data prepare voc2012 --root "):
        image_splits(settings(tmp_path, "voc2012"), "Main", "train/val")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda mask: Image.fromarray(colour_map()[mask]),  # the palette's colours in place of classes
        lambda mask: Image.fromarray(colour_map()[mask]).convert("RGBA"),
        lambda mask: Image.fromarray(np.where(mask == 20, 21, mask).astype(np.uint8)),
        lambda mask: Image.fromarray(np.full_like(mask, 254)),
        lambda mask: Image.fromarray(mask.astype(np.uint16)),
    ],
    ids=["colours", "RGBA", "class 21", "class 254", "16 bits"],
)
def test_a_mask_that_holds_no_classes_is_refused_by_name(small: Path, spoil: Callable[[np.ndarray], Any]) -> None:
    path = small / "SegmentationClass/000001.png"
    mask = np.full(SIZES["000001"], 20, np.uint8)
    spoil(mask).save(path)
    with pytest.raises(DataError) as raised:
        _ = of(small)[0].masks
    assert str(path) in str(raised.value) and fix(small) in str(raised.value)


def test_every_class_and_the_border_make_a_good_mask(small: Path) -> None:
    classes = np.array([*range(21), *[IGNORED] * 14], np.uint8).reshape(7, 5)
    save_mask(small, "000003", classes)
    assert torch.equal(of(small)[0].masks[0][0], torch.from_numpy(classes))


@pytest.mark.parametrize("size", [(9, 4), (36, 1), (4, 10)], ids=str)
def test_a_mask_of_another_size_is_refused_by_name(small: Path, size: tuple[int, int]) -> None:
    """Also one of as many pixels."""
    save_mask(small, "000001", np.zeros(size, np.uint8))
    with pytest.raises(DataError) as raised:
        _ = of(small)[0].masks
    said = str(raised.value)
    assert str(small / "SegmentationClass/000001.png") in said and fix(small) in said


@pytest.mark.parametrize("box", [[1, 1, 10, 4], [1, 1, 9, 5], [10, 5, 12, 6]], ids=str)
def test_a_box_outside_its_image_is_refused_by_name(small: Path, box: list[int]) -> None:
    """The annotation says that the image is larger than it is; a box on its border is good."""
    annotate(small, "000001", [1, 1, 9, 4], (20, 20))
    assert of(small)[0].objects[1].boxes.tolist() == [[0, 0, 9, 4]]
    annotate(small, "000001", box, (20, 20))
    with pytest.raises(DataError, match=r"000001\.xml .*9 × 4") as raised:
        _ = of(small)[0].objects
    assert fix(small) in str(raised.value) and "\n" not in str(raised.value)


# --- several years as one data set ---------------------------------------------------------------------------------


@pytest.fixture
def hydra() -> Iterator[Callable[..., DictConfig]]:
    """A function that composes a configuration of task=seg."""
    with initialize_config_dir(str(CONF)):
        yield lambda *given: hydra_compose("config", overrides=["task=seg", "data=synthetic", *given])


def test_two_years_are_prepared_and_identified_together(tmp_path: Path) -> None:
    both = find_all("voc2007+voc2012")
    assert isinstance(both, Combined) and both.name == "voc2007+voc2012"
    folder = both.prepare(tmp_path, "synthetic")
    assert folder == tmp_path / "synthetic/voc2007+voc2012" == both.folder(tmp_path, "synthetic")
    assert not folder.exists()  # each lies where it lies alone
    assert sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) == ["voc2007", "voc2012"]
    one, other = find("voc2007"), find("voc2012")
    prints = [part.fingerprint(part.folder(tmp_path, "synthetic"), "synthetic", True) for part in (one, other)]
    assert both.fingerprint(folder, "synthetic", True) == "+".join(prints)
    assert not both.pinned
    assert both.folder(tmp_path, "real") == tmp_path / "voc2007+voc2012"
    train, _ = image_splits(settings(folder.parent, folder.name), "Main", "train/val")
    assert len(train) == 40 + 12


def test_data_sets_that_are_pinned_are_pinned_together() -> None:
    pinned = [name for name in ("r8", "cifar10") if find(name).pinned]
    assert isinstance(find_all("r8"), Dataset) and pinned
    assert find_all("+".join(pinned * 2)).pinned


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown data set 'voc2010'"):
        find_all("voc2007+voc2010")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ([], "voc2007"),
        (["data.years=2007"], "voc2007"),
        (["data.years=2012"], "voc2012"),
        (["data.years=2007+2012"], "voc2007+voc2012"),
        (["data.years='2012'"], "voc2012"),
        (["data.name=voc2007+voc2012"], "voc2007+voc2012"),
        (["data.years=2012", "data.name=voc2012"], "voc2012"),
    ],
    ids=str,
)
def test_years_name_a_data_set(hydra: Callable[..., DictConfig], tmp_path: Path, given: list[str], name: str) -> None:
    """And a run's identity knows it by that name, however it was asked for."""
    spec = compose.run_spec(hydra(f"data.root={tmp_path}", *given))
    assert spec.task["dataset"] == name
    assert spec.data["fingerprint"].count("synthetic-") == name.count("voc")
    plain = compose.run_spec(hydra(f"data.root={tmp_path}", f"data.name={name}"))
    assert spec.identity == plain.identity


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["data.years=2008"], "data.years must be one of 2007, 2012, 2007+2012, not 2008"),
        (["data.years=2012+2007"], "data.years must be one of .*not '2012"),
        (["data.years=[2007,2012]"], r"data.years must be one of .*not \[2007, 2012\]"),
        (["data.years=true"], "data.years must be one of .*not True"),
        (["data.years=''"], "data.years must be one of .*not ''"),
        (["data.years=2012", "data.name=voc2007"], "data.name=voc2007 and data.years=2012 name two data sets"),
        (["task=tc", "data.years=2007"], "data.years must be null, for this task's data set has none, not 2007"),
        (["task=ic", "data.years=2012"], "data.years must be null"),
        (["data.name=voc2010"], "data.name must be one of voc2007, voc2012, voc2007.voc2012 for this task"),
        (["task.datasets.2012=[]"], "task.datasets must be a list .*, or a mapping of at least 1 names"),
        (["+task.without_test.split=x"], "unknown setting 'task.without_test.split': did you mean 'splits'"),
        (["task.without_test.splits=val"], "task.without_test.splits must be one of trainval/test, train/val"),
    ],
    ids=str,
)
def test_years_that_name_none_are_refused(hydra: Callable[..., DictConfig], given: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("+", r"\+")) as raised:
        compose.run_spec(hydra(*given))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (["task=seg"], False),
        (["task=seg", "data.years=2007+2012"], False),
        (["task=seg", "task.splits=trainval/test"], True),
        (["task=seg", "~task.without_test"], True),
        (["task=seg", "~task.without_test.splits"], True),
        (["task=od"], True),
        (["task=od", "task.splits=train/val"], False),
    ],
    ids=str,
)
def test_a_run_asks_for_test_images_only_where_its_splits_need_them(
    hydra: Callable[..., DictConfig], tmp_path: Path, given: list[str], asked: bool
) -> None:
    (tmp_path / "voc2007").mkdir()  # of a folder that is there, each missing file is named
    with pytest.raises(DataError) as raised:
        compose.run_spec(hydra("data=real", f"data.root={tmp_path}", *given))
    message = str(raised.value)
    assert "trainval.txt is missing" in message and "VOCtrainval_06-Nov-2007.tar" in message
    assert ("test.txt is missing" in message) is ("VOCtest_06-Nov-2007.tar" in message) is asked


# --- workers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["auto", 0, 3])
def test_a_number_of_workers_is_no_part_of_a_run(
    hydra: Callable[..., DictConfig], tmp_path: Path, wanted: int | str
) -> None:
    config = hydra(f"data.root={tmp_path}", f"workers={wanted}")
    compose.run_options(config, in_sweep=False)
    assert compose.run_spec(config).identity == compose.run_spec(hydra(f"data.root={tmp_path}")).identity
    told: list[TaskSettings] = []

    def build(target: str, settings: TaskSettings, options: Any) -> Any:
        told.append(settings)

    compose.make_task(config, torch.device("cpu"), build)
    assert told[0].workers == (1 if wanted == "auto" else wanted)


@pytest.mark.parametrize("wanted", ["-1", "true", "x", "1.5", "null", "Auto", "[1]"])
def test_anything_else_is_no_number_of_workers(hydra: Callable[..., DictConfig], wanted: str) -> None:
    with pytest.raises(ConfigError, match=r"workers .*auto"):
        compose.run_options(hydra(f"workers={wanted}"), in_sweep=False)


@pytest.mark.parametrize(("cores", "expected"), [(None, 1), (1, 1), (2, 1), (8, 7), (13, 12), (64, 12)])
def test_beside_a_gpu_nearly_every_core_has_a_worker(
    monkeypatch: pytest.MonkeyPatch, cores: int | None, expected: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert environment.workers("auto", torch.device("cuda")) == expected
    assert environment.workers("auto", torch.device("cpu")) == 1
    assert [environment.workers(3, torch.device(name)) for name in ("cpu", "cuda")] == [3, 3]


def test_a_list_of_test_images_that_is_not_there_can_be_done_without(small: Path) -> None:
    (small / "ImageSets/Main/test.txt").unlink()
    with pytest.raises(DataError, match=r"task\.splits=train/val") as raised:
        image_splits(settings(small.parents[2]), "Main", "trainval/test")
    assert "\n" not in str(raised.value)


def test_a_damaged_stand_in_is_made_anew(years: Path, tmp_path: Path) -> None:
    shutil.copytree(years / "voc2007", tmp_path / "synthetic/voc2007")
    (tmp_path / "synthetic/voc2007/VOCdevkit/VOC2007/ImageSets/Main/train.txt").unlink()
    with pytest.raises(DataError, match=r"delete .*voc2007"):
        image_splits(settings(tmp_path / "synthetic"), "Main", "train/val")


def test_several_years_share_what_is_kept_with_each_alone(years: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, _ = image_splits(settings(years, fingerprint="a"), "Main", "train/val")
    first = alone.photos[0].clone()
    together, _ = image_splits(settings(years, "voc2007+voc2012", fingerprint="a+b"), "Main", "train/val")
    asked: list[str] = []
    own = voc.decode_photos
    monkeypatch.setattr(voc, "decode_photos", lambda images: asked.append(images.year) or own(images))
    assert torch.equal(together.photos[0], first)
    assert asked == ["2012"]
