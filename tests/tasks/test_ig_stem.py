"""The first layers of FID's network: what they compute, and the files of weights that they accept."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.ig import inception, stem
from tasks.ig.quality import choose_network
from tasks.ig.stem import CUT, LAYERS, Stem
from tmsgd_bench.errors import BenchError, ConfigError, DataError

SOURCE = Path("weights.pth")


def random_weights() -> dict[str, Tensor]:
    """As a file holds them, with a tensor of a later layer."""
    rng = torch.Generator().manual_seed(0)
    weights = {"Mixed_5b.branch1x1.conv.weight": torch.ones(1)}
    for name, (before, after, kernel, _, _) in LAYERS.items():
        inputs = before * kernel**2
        weights[f"{name}.conv.weight"] = torch.randn((after, before, kernel, kernel), generator=rng) / inputs**0.5
        for part in ("weight", "running_var"):
            weights[f"{name}.bn.{part}"] = 0.5 + torch.rand(after, generator=rng)
        for part in ("bias", "running_mean"):
            weights[f"{name}.bn.{part}"] = torch.randn(after, generator=rng)
    return weights


def images_of(count: int, height: int = 64, width: int = 64) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, height, width), generator=rng, dtype=torch.uint8)


@pytest.mark.parametrize("size", [(64, 64), (5, 9), (299, 299), (400, 300)], ids=str)
def test_images_are_enlarged_as_tensorflow_does(size: tuple[int, int]) -> None:
    """Pixel by pixel in double precision; an image of the right size stays as it is."""
    image = images_of(1, *size)[0, 0].double()
    enlarged = stem.enlarge(images_of(1, *size).float())[0, 0]
    assert enlarged.shape == (299, 299)
    for row, column in [(0, 0), (298, 298), (17, 203), (150, 1)]:
        y, x = row * size[0] / 299, column * size[1] / 299
        top, left = int(y), int(x)
        bottom, right = min(top + 1, size[0] - 1), min(left + 1, size[1] - 1)
        upper = image[top, left] * (left + 1 - x) + image[top, right] * (x - left)
        lower = image[bottom, left] * (left + 1 - x) + image[bottom, right] * (x - left)
        expected = upper * (top + 1 - y) + lower * (y - top)
        assert float(enlarged[row, column]) == pytest.approx(float(expected), abs=1e-2)
    if size == (299, 299):
        assert torch.equal(enlarged, image.float())


@torch.no_grad()
def test_features_follow_the_networks_formulas() -> None:
    """In double precision, with the normalisation written out."""
    weights = random_weights()
    x = (stem.enlarge(images_of(2).float()).double() - 128) / 128
    expected = {}
    for number, (name, (_, _, _, stride, padding)) in enumerate(LAYERS.items()):
        x = F.conv2d(x, weights[f"{name}.conv.weight"].double(), stride=stride, padding=padding)
        scale, bias, mean, variance = (
            weights[f"{name}.bn.{part}"].double()[:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        x = ((x - mean) / (variance + 1e-3).sqrt() * scale + bias).clamp(min=0)
        if number in (2, 4):
            x = F.max_pool2d(x, 3, 2)
            expected[f"fid{x.shape[1]}"] = x.mean((2, 3))
    found = Stem(weights, SOURCE).eval()(images_of(2))
    assert found.keys() == expected.keys() == Stem.sizes.keys()
    for name, features in found.items():
        torch.testing.assert_close(features.double(), expected[name], rtol=1e-4, atol=1e-4)


def test_features_are_torch_fidelitys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fidelity = pytest.importorskip("torch_fidelity", reason="needs torch-fidelity: pip install -e '.[ig]'")
    weights = random_weights()
    torch.save({}, tmp_path / "empty.pth")
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
        path = str(tmp_path / "empty.pth")
        theirs = fidelity.FeatureExtractorInceptionV3("any", ["64", "192"], feature_extractor_weights_path=path)
    theirs.load_state_dict({name: weights[name] for name in weights if "Mixed" not in name}, strict=False)
    first, second = theirs(images_of(2))
    ours = Stem(weights, SOURCE).eval()(images_of(2))
    torch.testing.assert_close(ours["fid64"], first)
    torch.testing.assert_close(ours["fid192"], second)


@torch.no_grad()
def test_an_image_has_the_same_features_in_any_company() -> None:
    network = Stem(random_weights(), SOURCE).eval()
    images = images_of(stem.GROUP + 2)
    together, alone = network(images), network(images[-1:])
    for name in network.sizes:
        assert together[name].shape == (len(images), network.sizes[name])
        torch.testing.assert_close(together[name][-1:], alone[name])


def test_other_weights_have_another_key() -> None:
    """So that features kept on disk are not taken for theirs; later layers do not count."""
    weights = random_weights()
    first = Stem(weights, SOURCE)
    assert Stem(weights | {"fc.weight": torch.ones(2)}, SOURCE).key == first.key
    weights["Conv2d_4a_3x3.bn.bias"][0] += 1
    assert Stem(weights, SOURCE).key != first.key


# --- files of weights ----------------------------------------------------------------------------------------------


def cut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the cut file."""
    weights = random_weights()
    torch.save(weights, folder / CUT)
    monkeypatch.setattr(stem, "CUT_DIGEST", Stem(weights, SOURCE).digest)
    return folder / CUT


def whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the whole published file, whose weights are others."""
    path = folder / inception.WEIGHTS.name
    torch.save({name: value + 1 for name, value in random_weights().items()}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "WEIGHTS", replace(inception.WEIGHTS, sha256=sha256, bytes=path.stat().st_size))
    return path


def test_either_file_will_do_and_the_whole_one_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(tmp_path, monkeypatch)
    network = choose_network("fid64", tmp_path)
    assert isinstance(network, Stem) and network.digest == stem.CUT_DIGEST and not network.training
    whole(tmp_path, monkeypatch)
    other = choose_network("fid64", tmp_path)
    (tmp_path / CUT).unlink()
    assert isinstance(other, Stem) and other.digest != network.digest
    assert choose_network("fid64", tmp_path).key == other.key
    assert [metric.name for metric in other.distances] == ["fid64", "fid192"]


def refusal(folder: Path, kind: type[BenchError]) -> str:
    with pytest.raises(kind) as raised:
        choose_network("fid64", folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_without_weights_the_message_says_what_to_get(tmp_path: Path) -> None:
    message = refusal(tmp_path, DataError)
    for words in (str(tmp_path / CUT), inception.WEIGHTS.name, "python -m tasks.ig.inception", "task.features=random"):
        assert words in message


def test_other_weights_under_its_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their distances would look like FID's."""
    path = cut(tmp_path, monkeypatch)
    weights = random_weights()
    weights["Conv2d_1a_3x3.bn.bias"] += 1e-3
    torch.save(weights, path)
    assert f"{path} holds other weights" in refusal(tmp_path, DataError)


def test_a_damaged_file_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cut(tmp_path, monkeypatch)
    path.write_bytes(path.read_bytes()[:1000])
    assert str(path) in refusal(tmp_path, DataError)
    path = whole(tmp_path, monkeypatch)
    path.write_bytes(path.read_bytes()[:-1])
    assert str(path) in refusal(tmp_path, DataError)


def test_weights_of_another_network_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.ones(1)}, tmp_path / CUT)
    message = refusal(tmp_path, ConfigError)
    assert str(tmp_path / CUT) in message and "'Conv2d_1a_3x3.bn.bias'" in message
