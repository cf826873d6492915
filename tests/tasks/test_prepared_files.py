"""Whatever is prepared from data and kept on disk: damaged anywhere, it is made anew and gives the same bits."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks import voc
from tasks.ctr.prepare import prepared
from tasks.fkpd import data as fkpd
from tasks.ig import data as ig
from tasks.ig.features import RandomFeatures
from tasks.ig.quality import Quality
from tasks.od.fast_rcnn import imported, regions
from tasks.od.fast_rcnn.regions import OWN, Source
from tasks.od.fast_rcnn.selective_search import Search
from tmsgd_bench.data.catalog import find
from tmsgd_bench.data.texts import FOLDER
from tmsgd_bench.errors import DataError
from tmsgd_bench.task import TaskSettings

Values = dict[str, Tensor]


def of_fkpd(settings: TaskSettings) -> Values:
    train, test = fkpd.load(settings)
    return {**train.tensors("train"), **test.tensors("test")}


def of_photos(settings: TaskSettings) -> Values:
    return {"photos": ig.load(settings)[0]}


def of_features(settings: TaskSettings) -> Values:
    photos = torch.arange(8 * 3 * 64 * 64).view(8, 3, 64, 64).remainder(251).to(torch.uint8)
    (distance,) = Quality(settings, RandomFeatures(), photos).distances.values()
    return {"sum": distance.real_features_sum, "products": distance.real_features_cov_sum}


def of_masks(settings: TaskSettings) -> Values:
    part, _ = voc.image_splits(settings, "Segmentation", "train/val")
    packs = {"photos": part.photos.packs[0], "masks": part.masks.packs[0]}
    return {name: value for what, pack in packs.items() for name, value in pack.tensors(what).items()}


def of_proposals(settings: TaskSettings) -> Values:
    part, _ = voc.image_splits(settings, "Segmentation", "train/val")
    found = regions.proposals(part, Source(OWN, Search(), 50, 0), jobs=1)
    return {"boxes": found.boxes, "ends": found.ends}


def of_rows(settings: TaskSettings) -> Values:
    return prepared(settings, 2, "value")


KINDS: dict[str, tuple[str, Callable[[TaskSettings], Values]]] = {
    "key points": ("fkpd", of_fkpd),
    "photos": ("sneakers", of_photos),
    "features": ("sneakers", of_features),
    "images and masks": ("voc2007", of_masks),
    "proposals": ("voc2007", of_proposals),
    "rows": ("avazu", of_rows),
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    **{
        f"bit at {share}": lambda content, share=share: flipped(content, share) for share in (0.0, 0.03, 0.5, 0.97, 1.0)
    },
    "cut off": lambda content: content[:-7],
    "half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros behind": lambda content: content + bytes(64),
}


def flipped(content: bytes, share: float) -> bytes:
    place = int(share * (len(content) - 1))
    return content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :]


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kinds one by one, each with its data set, of which what is prepared is made once."""
    return str(request.param)


@pytest.fixture(scope="module")
def whole(kind: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[TaskSettings, Values, Path]:
    """A run's settings, what it reads, and a copy of the files that this was prepared into."""
    name, load = KINDS[kind]
    root = tmp_path_factory.mktemp(name)
    folder = find(name).prepare(root, "synthetic")
    print_ = find(name).fingerprint(folder, "synthetic", verify=True)
    settings = TaskSettings(folder, None, 4, 0, torch.device("cpu"), {}, fingerprint=print_)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Search, "boxes", boxes)
        values = {key: value.clone() for key, value in load(settings).items()}
    shutil.copytree(root / "synthetic" / FOLDER, root / "copy")
    return settings, values, root / "copy"


def boxes(search: Search, photo: Tensor) -> np.ndarray:
    """In place of selective search, which takes seconds."""
    height, width = photo.shape[1:]
    return np.array([[0, 0, width, height], [1, 2, width - 3, height - 4]], np.int16)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_give_the_same_values_and_are_named(
    kind: str,
    whole: tuple[TaskSettings, Values, Path],
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All at once, so that what one is made from is damaged too."""
    settings, expected, copy = whole
    monkeypatch.setattr(Search, "boxes", boxes)
    place = settings.data_folder.parent / FOLDER
    shutil.rmtree(place)
    shutil.copytree(copy, place)
    damaged = [path for path in place.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    for path in damaged:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        found = KINDS[kind][1](settings)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    read = [path for path in damaged if path.suffix in (".pt", ".npy")]
    assert all(f"{path} is damaged" in caplog.text for path in read) and "is damaged" in caplog.text
    caplog.clear()
    KINDS[kind][1](settings)
    assert "damaged" not in caplog.text


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_imported_proposals_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    """What they were made from may be gone. A bit that means nothing, in a time of change say, is no damage."""
    sets = {f"{number:06}": np.arange(4 * number, dtype=np.float32).reshape(-1, 4) for number in range(1, 9)}
    source = tmp_path / "mine.npz"
    with source.open("wb") as file:
        np.savez(file, **imported._arrays(sets))  # type: ignore[arg-type]
    name = imported.keep(tmp_path, [source])
    path = tmp_path / f"{name}.npz"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    try:
        found = imported.load(tmp_path, name)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert all(np.array_equal(found[image], sets[image]) for image in sets) and found.keys() == sets.keys()
