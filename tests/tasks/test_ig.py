"""Image generation: photos as tensors, the DCGAN, distances, and the task around them."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import whole_runs
from PIL import Image
from tiny import EPOCHS, TASKS
from torch import Tensor, nn

import tasks
from tasks.ig import ImageGeneration, data, inception, model, quality, score
from tasks.ig.features import RandomFeatures
from tasks.ig.figure import SAMPLES, Samples
from tasks.ig.inception import InceptionFeatures
from tasks.ig.quality import Quality, choose_network, diversity
from tmsgd_bench import files
from tmsgd_bench.data.sources import DataFile
from tmsgd_bench.data.synthetic import sneakers
from tmsgd_bench.engine import finished as finished_run
from tmsgd_bench.errors import ConfigError, DataError
from tmsgd_bench.results import store
from tmsgd_bench.results.evidence import MEASURED
from tmsgd_bench.seeding import epoch_order, generator, subset
from tmsgd_bench.task import TaskSettings

TARGET = "tasks.ig.model.build"
TINY = {"noise": 5, "filters": 2}
OPTIONS: dict[str, Any] = {
    "features": "random",
    "evaluation_images": None,
    "evaluate_every": 1,
    "sample_epochs": [1, 3],
    "label_smoothing": 0.0,
}


@pytest.fixture(scope="module")
def shoes(synthetic_data: Callable[[str], Path]) -> Path:
    """A folder with the stand-in, to be read only."""
    return synthetic_data("sneakers")


@pytest.fixture(scope="module")
def few(tiny_data: Callable[[str], Path]) -> Path:
    """Twelve shoes of the stand-in, for runs of milliseconds."""
    return tiny_data("sneakers")


def settings(folder: Path, **changes: Any) -> TaskSettings:
    """Those of a small run; ``changes`` replaces some."""
    small = TaskSettings(
        data_folder=folder,
        data_limit=None,
        batch_size=5,
        seed=0,
        device=torch.device("cpu"),
        model=TINY,
        weights_folder=folder.parent / "weights",
    )
    made = replace(small, **changes)
    return replace(made, model={"_target_": TARGET, **made.model})


def make(folder: Path, options: dict[str, Any] | None = None, **changes: Any) -> ImageGeneration:
    torch.manual_seed(0)
    return ImageGeneration(settings(folder, **changes), **(OPTIONS | (options or {})))


def optimizers(task: ImageGeneration, lr: float = 0.02) -> dict[str, torch.optim.Optimizer]:
    return {name: torch.optim.SGD(module.parameters(), lr=lr) for name, module in task.modules.items()}


# --- photos as tensors ---------------------------------------------------------------------------------------------


def test_the_stand_in_is_small_deterministic_and_whole(shoes: Path, tmp_path: Path) -> None:
    sneakers.write(tmp_path)
    for path in shoes.glob("*.png"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert len(list(tmp_path.iterdir())) == sneakers.COUNT == 96
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 5e6
    photos = data.decode(tmp_path)
    assert photos.shape == (96, 3, 64, 64) and photos.dtype == torch.uint8
    assert len(photos.unique(dim=0)) == 96
    assert (photos[:, :, 0] == 255).all()  # on white


def test_photos_are_their_pixels_in_the_order_of_names(tmp_path: Path) -> None:
    """Whatever they are called, and whichever lossless format they have."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    for name, image in zip(["a.png", "b c.PNG", "ü.bmp", "é.webp"], pixels, strict=True):
        Image.fromarray(image).save(tmp_path / name, lossless=True)
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    order = sorted(range(4), key=["a.png", "b c.PNG", "ü.bmp", "é.webp"].__getitem__)
    assert torch.equal(data.decode(tmp_path), torch.from_numpy(pixels[order]).permute(0, 3, 1, 2))


@pytest.mark.parametrize("size", [(64, 64), (64, 100), (101, 64), (640, 480), (333, 1000), (20, 31), (64, 65)], ids=str)
def test_a_photo_of_any_size_becomes_its_middle_square(tmp_path: Path, size: tuple[int, int]) -> None:
    """A disc in the middle of the photo, and as wide as a third of its shorter side, stays so."""
    width, height = size
    x, y = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
    disc = np.where(np.hypot(x, y) < min(size) / 6, 0, 255).astype(np.uint8)
    Image.fromarray(disc).save(tmp_path / "disc.png")
    found = data.read_photo(tmp_path / "disc.png")
    assert found.shape == (64, 64, 3) and found.dtype == np.uint8
    dark = (255.0 - found[..., 0]) / 255.0
    assert dark.sum() == pytest.approx(math.pi * (64 / 6) ** 2, rel=0.06)
    centre = [float((dark * np.arange(64).reshape(shape)).sum() / dark.sum()) for shape in ((-1, 1), (1, -1))]
    assert centre == pytest.approx([31.5, 31.5], abs=0.51)


def test_a_photo_made_smaller_is_averaged(tmp_path: Path) -> None:
    """A fine chequerboard becomes gray, not a pattern of its own."""
    board = (np.indices((640, 640)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    assert np.abs(data.read_photo(tmp_path / "board.png").astype(int) - 127).max() <= 3


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_every_kind_of_colours_becomes_rgb(tmp_path: Path, mode: str) -> None:
    ending = "jpg" if mode == "CMYK" else "png"
    Image.new("RGB", (64, 64), (0, 0, 0)).convert(mode).save(tmp_path / f"black.{ending}")
    assert (data.read_photo(tmp_path / f"black.{ending}") <= 2).all()


@pytest.mark.parametrize("limit", [2, 50, 95, 96, 1000])
def test_a_limit_keeps_a_fixed_subset(shoes: Path, limit: int) -> None:
    (whole, _), (part, _) = data.load(settings(shoes)), data.load(settings(shoes, data_limit=limit, seed=3))
    assert torch.equal(part, whole[subset(96, limit)])


@pytest.mark.parametrize("contents", [b"", b"no image", None], ids=["empty", "text", "cut"])
def test_a_damaged_photo_is_named_with_the_fix(few: Path, tmp_path: Path, contents: bytes | None) -> None:
    for path in few.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    bad = tmp_path / "farfetch_shoe11.png"
    bad.write_bytes(bad.read_bytes()[:200] if contents is None else contents)
    with pytest.raises(DataError) as raised:
        data.load(settings(tmp_path))
    assert str(bad) in str(raised.value)
    assert "delete it if it is there and run 'python -m tmsgd_bench data prepare sneakers'" in str(raised.value)


def test_a_folder_without_photos_is_named_with_the_fix(tmp_path: Path) -> None:
    for folder, words in ((tmp_path, "holds no image"), (tmp_path / "absent", "cannot read")):
        with pytest.raises(DataError, match=words) as raised:
            data.load(settings(folder))
        assert str(folder) in str(raised.value) and "data prepare sneakers" in str(raised.value)
    with pytest.raises(DataError, match=r"no\.png"):
        data.read_photo(tmp_path / "no.png")


# --- networks ------------------------------------------------------------------------------------------------------


def test_parameter_counts_are_the_papers() -> None:
    counts = [sum(p.numel() for p in network.parameters()) for network in model.build(100, 64)]
    assert counts == [3_576_704, 2_765_568]


@pytest.mark.parametrize(("noise", "filters"), [(5, 2), (100, 64), (1, 1), (7, 3)])
def test_parameter_counts_follow_the_formula(noise: int, filters: int) -> None:
    """Kernels of 4 × 4 without biases between 8, 4, 2 and 1 times the filters; two numbers a normalised channel."""
    f = filters
    inner = 16 * (8 * f * 4 * f + 4 * f * 2 * f + 2 * f * f)
    built = model.build(noise, filters)
    counts = [sum(p.numel() for p in network.parameters()) for network in built]
    assert counts[0] == 16 * (noise * 8 * f + f * 3) + inner + 2 * (8 + 4 + 2 + 1) * f
    assert counts[1] == 16 * (3 * f + 8 * f) + inner + 2 * (2 + 4 + 8) * f


def test_initial_weights_have_the_papers_spread() -> None:
    torch.manual_seed(0)
    for network in model.build(100, 64):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                error = 4.0 * 0.02 / math.sqrt(module.weight.numel())  # four standard errors of the mean
                assert abs(float(module.weight.detach().mean())) < error
                assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
                assert module.bias is None
            elif isinstance(module, nn.BatchNorm2d):
                assert abs(float(module.weight.detach().mean()) - 1.0) < 4.0 * 0.02 / math.sqrt(module.num_features)
                assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.5)
                assert not module.bias.detach().any()


@pytest.mark.parametrize("count", [1, 2, 9])
def test_shapes_and_ranges(count: int) -> None:
    torch.manual_seed(0)
    maker, judge = model.build(**TINY)
    images = maker(torch.randn(count, 5))
    assert images.shape == (count, 3, 64, 64)
    assert float(images.detach().abs().max()) <= 1.0
    assert judge(images).shape == (count,)


@pytest.mark.parametrize("network", ["generator", "discriminator"])
def test_a_pixel_depends_on_every_layer(network: str) -> None:
    """Every weight has a gradient."""
    torch.manual_seed(0)
    maker, judge = model.build(**TINY)
    noise = torch.randn(4, 5)
    (maker(noise).square().sum() if network == "generator" else judge(torch.randn(4, 3, 64, 64)).sum()).backward()
    for name, weight in {"generator": maker, "discriminator": judge}[network].named_parameters():
        assert weight.grad is not None and bool(weight.grad.any()), name


@pytest.mark.parametrize(
    "options", [{"noise": 5}, {"noise": 0, "filters": 2}, {"noise": 5, "filters": 2.5}, {**TINY, "depth": 3}], ids=str
)
def test_a_model_that_cannot_be_built_is_refused(few: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="model"):
        make(few, model=options)


# --- distances -----------------------------------------------------------------------------------------------------


class Averages(nn.Module):
    """A stand-in for Inception: averages of 2 × 2, 4 × 4 blocks, and a linear layer on the latter."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.register_buffer("weight", torch.randn((10, 48), generator=torch.Generator().manual_seed(3)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert images.dtype == torch.uint8
        self.calls += 1
        first, last = (nn.functional.adaptive_avg_pool2d(images / 64.0, side).flatten(1) for side in (2, 4))
        return first, last, last @ self.weight.T


SIZES = (12, 48, 10)


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """|m₁ − m₂|² + tr(S₁ + S₂ − 2 (S₁ S₂)^½) in double precision, with scipy's matrix root."""
    covariances = [np.cov(features, rowvar=False) for features in (one, other)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    shift = one.mean(0) - other.mean(0)
    return float(shift @ shift + np.trace(covariances[0] + covariances[1]) - 2.0 * np.trace(root).real)


def images_of(seed: int, count: int, contrast: float = 1.0) -> Tensor:
    """Random coloured blocks."""
    blocks = torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    scaled = 0.5 + contrast * (blocks - 0.5)
    return (255.0 * scaled).to(torch.uint8).repeat_interleave(8, 2).repeat_interleave(8, 3)


@pytest.mark.parametrize("counts", [(120, 130), (200, 80)], ids=str)
def test_each_distance_is_the_frechet_distance_of_its_features(tmp_path: Path, counts: tuple[int, int]) -> None:
    """All three from one pass, against a reference in double precision."""
    photos, generated = images_of(0, counts[0]), images_of(1, counts[1], contrast=0.7)
    network = InceptionFeatures(Averages(), SIZES)
    found = Quality(settings(tmp_path / "d"), network, photos).measure(generated)
    kinds = [network(images) for images in (photos, generated)]
    for name in ("fid", "fid64", "fid_softmax"):
        expected = frechet(*(features[name].double().numpy() for features in kinds))
        assert found[name] == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert found["diversity"] == diversity(generated)


def test_softmax_features_are_probabilities() -> None:
    features = InceptionFeatures(Averages(), SIZES)(images_of(0, 7))
    assert {name: value.shape[1] for name, value in features.items()} == {"fid": 48, "fid64": 12, "fid_softmax": 10}
    torch.testing.assert_close(features["fid_softmax"].sum(1), torch.ones(7))


def test_the_photos_features_are_computed_once_and_kept(tmp_path: Path) -> None:
    photos = images_of(0, 130)
    networks = [Averages(), Averages()]
    measured = []
    for network in networks:
        measured.append(Quality(settings(tmp_path / "d"), InceptionFeatures(network, SIZES), photos))
    assert [network.calls for network in networks] == [math.ceil(130 / quality.BATCH), 0]
    first = measured[0].measure(images_of(1, 65))
    assert measured[1].measure(images_of(1, 65)) == first
    assert [network.calls for network in networks] == [3 + 2, 2]
    measured[0].measure(images_of(2, 65))
    assert measured[0].measure(images_of(1, 65)) == first  # nothing is left of what came between


@pytest.mark.parametrize(
    ("kept", "photos"),
    [
        (images_of(1, 60), images_of(0, 60)),
        (images_of(0, 60), images_of(0, 60)[:20]),
        (images_of(0, 20), images_of(0, 60)),
    ],
    ids=["others", "fewer", "more"],
)
def test_features_of_other_photos_are_not_taken_for_these(tmp_path: Path, kept: Tensor, photos: Tensor) -> None:
    """Whichever settings chose the photos: they are told apart by what they show."""
    network, own = InceptionFeatures(Averages(), SIZES), settings(tmp_path / "d")
    Quality(own, network, kept)
    assert Quality(own, network, photos).measure(photos)["fid"] == pytest.approx(0.0, abs=1e-6)


def test_a_limit_of_the_photos_to_validate_on_changes_what_is_compared_with(shoes: Path) -> None:
    for limit in (None, 5, None):
        task = make(shoes, validation_share=0.2, evaluation_limit=limit)
        found = task.quality.measure(task.reference)
        assert found["random_features_distance"] == pytest.approx(0.0, abs=1e-4)


def test_the_random_network_is_always_the_same_and_draws_nothing() -> None:
    before = torch.get_rng_state()
    one, other = RandomFeatures(), RandomFeatures()
    assert torch.equal(torch.get_rng_state(), before)
    images = images_of(0, 5)
    (name,) = one.sizes
    assert name == "random_features_distance" == one.distances[0].name
    assert torch.equal(one(images)[name], other(images)[name])
    assert one(images)[name].shape == (5, one.sizes[name]) == (5, 256)


def test_the_random_network_follows_its_formula() -> None:
    """Three convolutions of stride 2 with ReLU, then averages of quarters, in double precision by hand."""
    network = RandomFeatures()
    x = images_of(0, 2).double() / 127.5 - 1.0
    for weight in network.buffers():
        patches = nn.functional.unfold(x, 4, padding=1, stride=2)
        side = x.shape[-1] // 2
        x = (weight.double().flatten(1) @ patches).clamp(min=0.0).view(2, -1, side, side)
    expected = x.view(2, 64, 2, 4, 2, 4).mean((3, 5)).flatten(1)
    found = network(images_of(0, 2))["random_features_distance"].double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_distance_tells_better_images_from_worse(shoes: Path) -> None:
    """Other shoes are nearer to the shoes than blurred ones, those nearer than noise; the same are at 0."""
    photos, _ = data.load(settings(shoes))
    half, others = photos[:48], photos[48:]
    measured = Quality(settings(shoes, data_limit=48), RandomFeatures(), half)
    blurred = nn.functional.avg_pool2d(others.float(), 9, 1, 4).to(torch.uint8)
    noise = torch.randint(0, 256, others.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    collapsed = others[:1].expand(48, -1, -1, -1)
    found = [measured.measure(images)["random_features_distance"] for images in (half, others, blurred, noise)]
    assert found[0] == pytest.approx(0.0, abs=1e-4)
    assert found == sorted(found) and found[1] < 0.5 * found[2]
    assert found[1] < 0.5 * measured.measure(collapsed)["random_features_distance"]


def test_diversity_is_the_mean_distance_of_two_images() -> None:
    images = torch.stack([torch.full((3, 64, 64), value, dtype=torch.uint8) for value in (0, 51, 255)])
    assert diversity(images) == pytest.approx((0.2 + 1.0 + 0.8) / 3, rel=1e-6)
    assert diversity(images[:1].expand(9, -1, -1, -1)) == 0.0
    random = images_of(0, 6)
    flat = random.flatten(1).double() / 255.0
    pairs = [float((a - b).square().mean().sqrt()) for n, a in enumerate(flat) for b in flat[:n]]
    assert diversity(random) == pytest.approx(sum(pairs) / len(pairs), rel=1e-6)


def test_diversity_looks_at_the_first_500() -> None:
    many = torch.cat([images_of(0, quality.COMPARED), torch.zeros((50, 3, 64, 64), dtype=torch.uint8)])
    assert diversity(many) == diversity(many[:500])


# --- Inception weights ---------------------------------------------------------------------------------------------


def publish(monkeypatch: pytest.MonkeyPatch, contents: bytes) -> DataFile:
    """Let these bytes be the published weights."""
    published = replace(
        inception.WEIGHTS, sha256=hashlib.sha256(contents).hexdigest(), bytes=len(contents), url="https://nowhere/w"
    )
    monkeypatch.setattr(inception, "WEIGHTS", published)
    return published


def test_without_weights_there_is_one_warning_and_another_name(
    few: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.WARNING):
        task = make(few, {"features": "inception"}, weights_folder=tmp_path)
    (record,) = caplog.records
    for words in ("FID is not measured", str(tmp_path / inception.WEIGHTS.name), "python -m tasks.ig.inception"):
        assert words in record.getMessage()
    assert [metric.name for metric in task.metrics] == ["random_features_distance", "diversity"]


def test_asked_for_random_features_nothing_is_said(few: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        make(few)
    assert not caplog.records


def test_without_its_package_fid_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / inception.WEIGHTS.name).touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(choose_network("inception", tmp_path), RandomFeatures)
    assert "pip install -e '.[ig]'" in caplog.text


def test_damaged_weights_are_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle could run code."""
    path = tmp_path / inception.WEIGHTS.name
    path.write_bytes(b"something else")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file was opened"))
    with pytest.raises(DataError) as raised:
        choose_network("inception", tmp_path)
    assert str(path) in str(raised.value) and "delete it" in str(raised.value)


def test_weights_can_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "published"
    source.write_bytes(b"weights")
    published = publish(monkeypatch, b"weights")
    monkeypatch.setattr(inception, "WEIGHTS", replace(published, url=source.as_uri()))
    assert inception.main(["--root", str(tmp_path / "root")]) == 0
    path = tmp_path / "root" / "weights" / inception.WEIGHTS.name
    assert path.read_bytes() == b"weights" and str(path) in capsys.readouterr().out
    source.unlink()
    assert inception.main(["--root", str(tmp_path / "root")]) == 0  # they are there already
    path.write_bytes(b"altered")
    assert inception.main(["--root", str(tmp_path / "root")]) == 2
    assert "delete it" in capsys.readouterr().err
    path.unlink()
    assert inception.main(["--root", str(tmp_path / "root")]) == 2
    assert f"there yourself as {path}, or train without FID" in capsys.readouterr().err


def test_torch_fidelitys_network_is_wired_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights in the published file's place; its features are those that torchmetrics itself takes."""
    fidelity = pytest.importorskip("torch_fidelity", reason="needs torch-fidelity: pip install -e '.[ig]'")
    from torchmetrics.image.fid import NoTrainInceptionV3

    path = tmp_path / inception.WEIGHTS.name
    _save_random_inception(fidelity, path, monkeypatch)
    network = choose_network("inception", tmp_path)
    assert isinstance(network, InceptionFeatures) and not network.network.training
    images = images_of(0, 2)
    found = network(images)
    assert {name: value.shape for name, value in found.items()} == {n: (2, size) for n, size in network.sizes.items()}
    theirs = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path), antialias=False)
    torch.testing.assert_close(theirs(images), found["fid"])


def _save_random_inception(fidelity: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "load_state_dict", lambda self, state: None)
        torch.save({}, path)
        network = fidelity.FeatureExtractorInceptionV3("any", ["2048"], feature_extractor_weights_path=str(path))
    torch.save(network.state_dict(), path)
    publish(monkeypatch, path.read_bytes())


# --- task ----------------------------------------------------------------------------------------------------------


def test_the_task_declares_what_it_measures(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under FID's name only what comes from Inception."""
    monkeypatch.setattr(inception, "lacking", lambda folder: "")
    monkeypatch.setattr(inception, "load", lambda folder: InceptionFeatures(Averages(), SIZES))
    for features, names in (
        ("inception", ["fid", "fid64", "fid_softmax", "diversity"]),
        ("random", ["random_features_distance", "diversity"]),
    ):
        task = make(few, {"features": features})
        assert [metric.name for metric in task.metrics] == names
        assert [metric.direction for metric in task.metrics] == ["min"] * (len(names) - 1) + ["max"]
        assert set(evaluated(task)) == set(names)


def test_initial_weights_do_not_depend_on_how_quality_is_measured(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "lacking", lambda folder: "")
    monkeypatch.setattr(inception, "load", lambda folder: InceptionFeatures(Averages(), SIZES))
    one, other = (make(few, {"features": features}) for features in ("inception", "random"))
    for name in one.modules:
        ours, theirs = one.modules[name].state_dict(), other.modules[name].state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@torch.no_grad()
def evaluated(task: ImageGeneration) -> dict[str, float]:
    for module in task.modules.values():
        module.eval()
    return task.evaluate()


@pytest.mark.parametrize("size", [1, 5, 12, 64])
def test_an_epoch_covers_every_photo_once(few: Path, size: int) -> None:
    task = make(few, batch_size=size)
    batches = list(task.batches(0))
    assert len(batches) == task.steps_per_epoch == math.ceil(12 / size)
    photos = torch.cat([photos for photos, _ in batches])
    assert photos.min() >= -1.0 and photos.max() <= 1.0 and photos.dtype == torch.float32
    order = epoch_order(12, 0, 0)
    torch.testing.assert_close((photos + 1.0) * 127.5, task.photos[order].float())
    assert torch.cat([noise for _, noise in batches]).shape == (12, 5)


def test_noise_is_that_of_its_purpose_and_standard_normal(few: Path) -> None:
    noise = make(few)._noise(4000, "evaluation")
    assert torch.equal(noise, torch.randn((4000, 5), generator=generator(0, "evaluation")))
    assert abs(float(noise.mean())) < 4.0 / math.sqrt(noise.numel())
    assert float(noise.std()) == pytest.approx(1.0, abs=0.03)


def reference_step(task: ImageGeneration, photos: Tensor, noise: Tensor, lr: float) -> tuple[float, float]:
    """A step of both networks by plain SGD in their own precision, with the cross-entropies written out."""
    images = task.generator(noise)
    real, fake = task.discriminator(photos).sigmoid(), task.discriminator(images.detach()).sigmoid()
    loss_d = -(real.log().mean() + (1.0 - fake).log().mean())
    _descend(loss_d, task.discriminator, lr)
    loss_g = -task.discriminator(images).sigmoid().log().mean()
    _descend(loss_g, task.generator, lr)
    return float(loss_d.detach()), float(loss_g.detach())


def _descend(loss: Tensor, module: nn.Module, lr: float) -> None:
    gradients = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
    with torch.no_grad():
        for parameter, gradient in zip(module.parameters(), gradients, strict=True):
            parameter -= lr * gradient


def test_a_training_step_is_one_step_of_each_network_in_turn(few: Path) -> None:
    """In double precision, against the losses of the paper's reference written out."""
    ours, theirs = make(few), make(few)
    for task in (ours, theirs):
        for module in task.modules.values():
            module.double()
    steppers = optimizers(ours, lr=0.5)
    for photos, noise in ours.batches(0):
        found = ours.training_step((photos.double(), noise.double()), steppers)
        expected = reference_step(theirs, photos.double(), noise.double(), lr=0.5)
        assert [float(found["loss_d"]), float(found["loss_g"])] == pytest.approx(expected, rel=1e-9)
        assert not any(loss.requires_grad for loss in found.values())
    for name, module in ours.modules.items():
        for key, value in module.state_dict().items():
            torch.testing.assert_close(value, theirs.modules[name].state_dict()[key], rtol=1e-9, atol=1e-12)


def test_smoothed_labels_are_those_of_photos_alone(few: Path) -> None:
    """A photo counts as generated with the probability that its label is smoothed by."""
    photos, noise = next(iter(make(few).batches(0)))
    photos, noise = photos.double(), noise.double()
    losses = {}
    for smoothing in (0.0, 0.25):
        task = make(few, {"label_smoothing": smoothing})
        for module in task.modules.values():
            module.double()
        images = task.generator(noise).detach()
        losses[smoothing] = float(task._discriminator_loss(photos, images).detach())
        logits = task.discriminator(photos).detach()
    as_photo, as_generated = (nn.functional.softplus(sign * logits).mean() for sign in (-1.0, 1.0))
    assert losses[0.25] - losses[0.0] == pytest.approx(0.25 * float(as_generated - as_photo), rel=1e-9)


def test_the_loss_is_the_discriminators(few: Path) -> None:
    task = make(few)
    batch = next(iter(task.batches(0)))
    loss = copy.deepcopy(task).loss(batch)
    assert float(loss.detach()) == float(task.training_step(batch, optimizers(task))["loss_d"])


@pytest.mark.parametrize("count", [2, 7, 12, 100])
def test_few_images_are_compared_with_as_many_photos(few: Path, tmp_path: Path, count: int) -> None:
    """The same photos for every seed; their features are not taken for those of all of them."""
    task, whole = make(few, {"evaluation_images": count}, seed=3), make(few)
    assert torch.equal(task.photos, whole.photos)
    assert torch.equal(task.reference, whole.photos[subset(12, count)])
    network = InceptionFeatures(Averages(), SIZES)
    own = settings(tmp_path / "d")
    measured = [Quality(own, network, one.reference) for one in (task, whole, task)]
    assert isinstance(network.network, Averages) and network.network.calls == (2 if count < 12 else 1)
    assert measured[0].measure(task.reference)["fid"] == pytest.approx(0.0, abs=1e-6)
    found = evaluated(task)
    with torch.no_grad():
        images = task._images(min(count, 12), "evaluation")
    assert images is not None and found == task.quality.measure(images)


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_evaluation_is_of_as_many_images_as_photos(few: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("tasks.ig.task.GENERATION_BATCH", size)
    seen: list[Tensor] = []
    task = make(few)
    monkeypatch.setattr(task.quality, "measure", lambda images: seen.append(images) or {})
    evaluated(task)
    (images,) = seen
    assert images.shape == (12, 3, 64, 64) and images.dtype == torch.uint8
    with torch.no_grad():
        expected = (task.generator(task._noise(12, "evaluation")) + 1.0) * 127.5
    assert float((images.float() - expected).abs().max()) < 0.51


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_images_that_are_not_finite_have_no_distance(few: Path, bad: float) -> None:
    task = make(few)
    with torch.no_grad():
        next(task.generator.parameters()).fill_(bad)
        found = evaluated(task)
        task.after_epoch(0)
    assert set(found) == {metric.name for metric in task.metrics}
    assert all(math.isnan(value) for value in found.values())
    assert not task.samples[1].any()


def test_training_brings_the_images_nearer_to_the_photos(shoes: Path) -> None:
    """Of 48 steps: the distance falls by a third, and colours' mean comes nearer to the photos'."""
    task = make(shoes, batch_size=16, model={"noise": 16, "filters": 8})
    steppers = optimizers(task, lr=0.05)
    photos = float(task.photos.float().mean())

    def state() -> tuple[float, float]:
        measured = evaluated(task)
        with torch.no_grad():
            images = task._images(32, "evaluation")
        assert images is not None
        return measured["random_features_distance"], abs(float(images.float().mean()) - photos)

    before = state()
    for epoch in range(8):  # by then the distance is a third, whatever the rounding of a machine makes of the start
        for module in task.modules.values():
            module.train()
        for batch in task.batches(epoch):
            losses = task.training_step(batch, steppers)
            assert all(bool(loss.isfinite()) for loss in losses.values())
    after = state()
    assert after[0] < 2 / 3 * before[0] and after[1] < before[1]


# --- pictures ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_images_of_the_chosen_and_of_the_last_epoch_are_kept(few: Path) -> None:
    """They come from the same noise, whatever else was generated, and survive a checkpoint."""
    task = make(few, {"sample_epochs": [1, 3]})
    task.generator.eval()
    assert task.state() == {}
    for epoch, kept in enumerate([[1], [1, 2], [1, 3], [1, 3, 4], [1, 3, 5]]):
        task.after_epoch(epoch)
        assert list(task.samples) == kept
    expected = task._images(SAMPLES, "samples")
    assert expected is not None and all(torch.equal(images, expected) for images in task.samples.values())
    other = make(few)
    other.load_state({name: value.clone() for name, value in task.state().items()})
    assert list(other.samples) == [1, 3, 5]
    assert all(torch.equal(images, task.samples[done]) for done, images in other.samples.items())
    other.load_state({})
    assert list(other.samples) == [1, 3, 5]


def test_pictures_of_a_run(few: Path, tmp_path: Path) -> None:
    task = make(few)
    task.draw(tmp_path)  # nothing trained, nothing to show
    assert [path.name for path in tmp_path.iterdir()] == ["generator.pt"]
    with torch.no_grad():
        task.after_epoch(0)
        task.after_epoch(1)
    task.draw(tmp_path)
    samples = Samples.load(tmp_path)
    assert samples.epochs.tolist() == [1, 2] and samples.images.shape == (2, SAMPLES, 3, 64, 64)
    assert torch.equal(torch.from_numpy(samples.images[1]), task.samples[2])
    with Image.open(tmp_path / "samples.png") as picture:
        assert picture.width > 400
    kept = torch.load(tmp_path / "generator.pt", weights_only=True)
    assert all(torch.equal(value, kept[name]) for name, value in task.generator.state_dict().items())


# --- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"features": "vgg"},
        {"features": None},
        {"evaluation_images": 1},
        {"evaluation_images": "few"},
        {"evaluate_every": 0},
        {"evaluate_every": "often"},
        {"sample_epochs": 5},
        {"sample_epochs": [0]},
        {"sample_epochs": [1, "last"]},
        {"label_smoothing": 0.6},
        {"label_smoothing": None},
        {"unknown": 1},
    ],
    ids=str,
)
def test_an_option_that_cannot_be_used_is_refused(few: Path, options: dict[str, Any]) -> None:
    """In one sentence that names it, before anything is trained."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        tasks.build("tasks.ig.ImageGeneration", settings(few), OPTIONS | options)


def test_a_single_photo_is_too_few(few: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.limit"):
        make(few, data_limit=1)


# --- whole runs ----------------------------------------------------------------------------------------------------

RUN = TASKS["ig"]


def test_a_run_keeps_the_images_of_the_chosen_epochs_and_every_loss(few: Path, tmp_path: Path) -> None:
    spec = RUN.spec("tmsgd")
    RUN.train(few, tmp_path, spec)
    assert Samples.load(tmp_path / spec.run_id).epochs.tolist() == [1, EPOCHS]
    measured = ("random_features_distance", "diversity")
    assert set(whole_runs.history(tmp_path, spec)) == {"epoch", "loss_d", "loss_g", *measured, "lr"}


# --- FID afterwards ------------------------------------------------------------------------------------------------


MEASURING = replace(RUN, overrides=(*RUN.overrides, "task.features=inception"))


@pytest.fixture
def finished(few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run's folder that lacked FID's weights; a small network in Inception's place can measure it now."""
    one = replace(MEASURING.spec("sgd"), epochs=1)
    MEASURING.train(few, tmp_path / "runs", one)
    set_inception(monkeypatch, few)
    return tmp_path / "runs" / one.run_id


def set_inception(monkeypatch: pytest.MonkeyPatch, photos: Path) -> None:
    """Make FID measurable, with a small network in Inception's place."""
    monkeypatch.setattr(inception, "lacking", lambda folder: "")
    monkeypatch.setattr(inception, "load", lambda folder: InceptionFeatures(Averages(), SIZES))
    monkeypatch.setattr(finished_run, "data_folder", lambda data, fingerprint: photos)


def test_fid_of_a_finished_run_is_what_the_run_would_have_measured(
    finished: Path, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / store.RESULT).read_bytes()
    assert score.main([str(finished), "--root", str(tmp_path)]) == 0
    found = files.read_json(finished / MEASURED)
    assert found is not None and "fid" in capsys.readouterr().out
    again = replace(MEASURING.spec("sgd"), epochs=1)
    MEASURING.train(few, tmp_path / "measured", again)
    history = whole_runs.history(tmp_path / "measured", again)
    for name in ("fid", "fid64", "fid_softmax", "diversity"):
        assert found["metrics"][name] == history[name].iloc[-1]
    assert found["measured_with"]["images"] == RUN.limit
    (row,) = store.read_runs(finished.parent).to_dict("records")
    assert (row["metric"], row["final"]) == ("fid", history["fid"].iloc[-1]) and row["note"].startswith("FID ")
    assert (finished / store.RESULT).read_bytes() == before


def test_fid_of_a_run_with_another_metric_of_its_own_is_printed_alone(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tables go on to have the metric that it was asked for."""
    spec = replace(RUN.spec("sgd"), epochs=1)
    RUN.train(few, tmp_path / "runs", spec)
    set_inception(monkeypatch, few)
    assert score.main([str(tmp_path / "runs" / spec.run_id), "--root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "fid " in printed and "task.features=random" in printed
    (row,) = store.read_runs(tmp_path / "runs").to_dict("records")
    assert row["metric"] == "random_features_distance"


def test_a_folder_that_cannot_be_scored_gets_one_sentence(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        assert score.main([*arguments, "--root", str(tmp_path)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    assert "is no finished run of task=ig" in said(str(tmp_path))
    kept = (finished / "generator.pt").read_bytes()
    (finished / "generator.pt").write_bytes(kept[:100])
    assert "generator.pt" in said(str(finished))
    (finished / "generator.pt").unlink()
    assert "force=true" in said(str(finished))
    (finished / "generator.pt").write_bytes(kept)
    monkeypatch.setattr(inception, "lacking", lambda folder: "the weights are missing: get them")
    assert "the weights are missing: get them" in said(str(finished))


# --- the real photos -----------------------------------------------------------------------------------------------


def test_the_real_photos_are_the_papers() -> None:
    """7,049, of which 4,896 differ, on white."""
    folder = Path(os.environ.get("TMSGD_DATA", "none")) / "sneakers"
    if not folder.is_dir():
        pytest.skip("needs the real photos: set TMSGD_DATA to the folder of the data sets")
    photos = data.decode(folder)
    assert photos.shape == (7049, 3, 64, 64)
    assert len({image.numpy().tobytes() for image in photos}) == 4896
    assert float((photos[:, :, 0] > 240).float().mean()) > 0.9
