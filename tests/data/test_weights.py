"""Published weights: how they are fetched and verified, what is read from a file, and what fits a module."""

from __future__ import annotations

import hashlib
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Large_Weights
from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights

from tmsgd_bench.data import weights
from tmsgd_bench.data.sources import DataFile
from tmsgd_bench.errors import ConfigError, DataError

OTHERWISE = "start from nothing with model.weights=none"


def serve(folder: Path, data: bytes) -> DataFile:
    """A file at an address whose name ends in its digest, as torchvision's do."""
    folder.mkdir(exist_ok=True)
    digest = hashlib.sha256(data).hexdigest()[:8]
    path = folder / f"network_v2-{digest}.pth"
    path.write_bytes(data)
    return weights.published(path.as_uri())


# --- where they come from ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "name", "digest"),
    [
        ("https://example.org/models/vgg16-397923af.pth", "vgg16-397923af.pth", "397923af"),
        ("https://example.org/a-b/two-parts_v1-0123abcd.pth.tar", "two-parts_v1-0123abcd.pth.tar", "0123abcd"),
        (
            LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1.url,
            "lraspp_mobilenet_v3_large-d234d4ea.pth",
            "d234d4ea",
        ),
        (MobileNet_V3_Large_Weights.IMAGENET1K_V1.url, "mobilenet_v3_large-8738ca79.pth", "8738ca79"),
    ],
)
def test_an_address_tells_the_files_name_and_the_beginning_of_its_digest(url: str, name: str, digest: str) -> None:
    file = weights.published(url)
    assert (file.name, file.url, file.sha256, file.md5) == (name, url, digest, None)


def test_weights_are_downloaded_once(tmp_path: Path) -> None:
    file = serve(tmp_path / "server", b"tensors")
    folder = tmp_path / "root" / "weights"
    path = weights.fetch(file, folder, OTHERWISE)
    assert path == folder / file.name and path.read_bytes() == b"tensors"
    assert [found.name for found in folder.iterdir()] == [file.name]
    (tmp_path / "server" / file.name).unlink()
    assert weights.fetch(file, folder, OTHERWISE) == path


def test_weights_that_somebody_put_there_need_no_network(tmp_path: Path) -> None:
    file = serve(tmp_path / "server", b"tensors")
    (tmp_path / "server" / file.name).rename(tmp_path / file.name)
    assert weights.fetch(file, tmp_path, OTHERWISE) == tmp_path / file.name


def test_an_altered_file_is_refused_and_left_for_its_owner(tmp_path: Path) -> None:
    file = serve(tmp_path / "server", b"tensors")
    (tmp_path / file.name).write_bytes(b"Tensors")
    with pytest.raises(DataError) as raised:
        weights.fetch(file, tmp_path, OTHERWISE)
    for words in (f"{tmp_path / file.name} was altered", "delete it", file.url, OTHERWISE):
        assert words in str(raised.value)
    assert (tmp_path / file.name).read_bytes() == b"Tensors"


def test_an_address_that_has_something_else_now_is_refused(tmp_path: Path) -> None:
    file = serve(tmp_path / "server", b"tensors")
    (tmp_path / "server" / file.name).write_bytes(b"<html>moved</html>")
    with pytest.raises(DataError, match=re.escape(file.name)):
        weights.fetch(file, tmp_path / "weights", OTHERWISE)
    assert list((tmp_path / "weights").iterdir()) == []


@pytest.mark.usefixtures("no_network")
def test_without_a_network_one_sentence_names_file_address_and_folder(tmp_path: Path) -> None:
    file = weights.published("https://example.org/vgg16-397923af.pth")
    with pytest.raises(DataError) as raised:
        weights.fetch(file, tmp_path / "weights", OTHERWISE)
    said = str(raised.value)
    assert "https://example.org/vgg16-397923af.pth" in said and OTHERWISE in said
    assert str(tmp_path / "weights/vgg16-397923af.pth") in said and "\n" not in said


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"file/weights .*data\.root"):
        weights.fetch(serve(tmp_path / "server", b"x"), tmp_path / "file" / "weights", OTHERWISE)


# --- what is in them -----------------------------------------------------------------------------------------------


def saved(path: Path, contents: object) -> Path:
    torch.save(contents, path)
    return path


def test_tensors_are_read_by_name(tmp_path: Path) -> None:
    layer = nn.BatchNorm1d(3)
    found = weights.read(saved(tmp_path / "w.pth", layer.state_dict()))
    assert type(found) is dict and list(found) == list(layer.state_dict())
    assert all(torch.equal(found[name], value) for name, value in layer.state_dict().items())


class Code:
    """Runs when it is unpickled by something careless."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_refused_and_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    path = saved(tmp_path / "w.pth", {"weight": torch.ones(1), "extra": Code(trace)})
    with pytest.raises(DataError, match=r"w\.pth .*UnpicklingError"):
        weights.read(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # so the trap works


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    "contents",
    [b"", b"no weights", pickle.dumps({"weight": 3}), pickle.dumps(Code(Path("nowhere")))],
    ids=["empty", "text", "numbers", "pickle"],
)
def test_a_file_that_torch_cannot_read_is_refused_by_name(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(contents)
    with pytest.raises(DataError, match=r"w\.pth ") as raised:
        weights.read(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "contents",
    [torch.ones(2), [torch.ones(2)], {"epoch": 3, "weight": torch.ones(1)}, {"model": {"weight": torch.ones(1)}}],
    ids=["tensor", "list", "checkpoint", "nested"],
)
def test_anything_but_tensors_by_name_is_refused(tmp_path: Path, contents: object) -> None:
    with pytest.raises(DataError, match=r"w\.pth .*state_dict"):
        weights.read(saved(tmp_path / "w.pth", contents))


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"model\.weights .*w\.pth"):
        weights.read(tmp_path / "w.pth")


# --- what fits -----------------------------------------------------------------------------------------------------


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_a_module_gets_every_tensor(tmp_path: Path) -> None:
    source, target = network(), network()
    source[1].running_mean.fill_(0.5)  # type: ignore[index]
    weights.load_into(target, source.state_dict(), tmp_path)
    assert all(torch.equal(target.state_dict()[name], value) for name, value in source.state_dict().items())


def without(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in network().state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (without("0.weight"), "lacks '0.weight'"),
        (without("1.running_var"), "lacks '1.running_var'"),
        ({**network().state_dict(), "2.bias": torch.ones(1)}, "has '2.bias' besides"),
        ({**network().state_dict(), "0.bias": torch.ones(4)}, r"'0.bias' has the shape \(4,\), not \(3,\)"),
        ({**without("0.weight"), "0.bias": torch.ones(4)}, r"'0.bias' has the shape \(4,\), not \(3,\)"),  # the first
        ({}, "lacks '0.bias'"),
    ],
    ids=["one lacking", "an average lacking", "one more", "another shape", "the first of two", "none"],
)
def test_the_first_tensor_that_does_not_fit_is_named_and_nothing_is_loaded(
    found: dict[str, Tensor], message: str
) -> None:
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ConfigError, match=f"other\\.pth:? {message}.*another network"):
        weights.load_into(target, found, Path("other.pth"))
    assert all(torch.equal(target.state_dict()[name], value) for name, value in before.items())
