"""The real VOC2007, where it is found."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
from voc_files import write_devkit

from tmsgd_bench.voc import CLASSES


@pytest.fixture(scope="session")
def real_voc2007(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``VOCdevkit/VOC2007`` of $TMSGD_DATA/voc2007, or made of the real boxes of a subset in ../shared/data.

    The subset's boxes are a JSON file without sizes of images, so its annotations are written anew; no image of VOC is
    larger than 500 × 500 pixels.
    """
    folder = Path(os.environ.get("TMSGD_DATA", "none")) / "voc2007" / "VOCdevkit" / "VOC2007"
    if folder.is_dir():
        return folder
    pack = Path(__file__).parents[3] / "shared/data/packs/voc2007.tar"
    if not pack.is_file():
        pytest.skip("needs the real VOC2007: set TMSGD_DATA to the folder of the data sets")
    with tarfile.open(pack) as archive:
        file = archive.extractfile("boxes.json")
        assert file is not None
        rows = json.load(file)
    images = {name: [(CLASSES[label], box, False) for *box, label in boxes] for name, boxes in rows.items()}
    return write_devkit(tmp_path_factory.mktemp("voc2007"), images, "trainval", size=(500, 500))
