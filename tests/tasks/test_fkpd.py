"""Facial key points: frames and their crops, the network, the task around them, and its runs in the engine."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from modes import evaluating
from PIL import Image
from tiny import values_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import tasks
from tasks.compute import to_float
from tasks.fkpd import FacialKeyPoints, data
from tasks.fkpd.data import CROP, POINTS, SHORT_SIDE, Frames
from tasks.fkpd.figure import FACES, PICTURE, KeyPoints
from tasks.fkpd.model import PreActBlock, PreActResNet
from tasks.fkpd.task import in_pixels, scale
from tmsgd_bench import TMSGD
from tmsgd_bench.data.synthetic import fkpd as stand_in
from tmsgd_bench.engine.spec import without
from tmsgd_bench.errors import ConfigError, DataError
from tmsgd_bench.seeding import subset
from tmsgd_bench.task import TaskSettings

CONF = Path(__file__).parents[2] / "conf"
TARGET = "tasks.fkpd.model.PreActResNet"
SMALL = {"blocks": [1, 1, 1, 1], "width": 4, "hidden": 8}
LARGE = {"blocks": [3, 4, 6, 3], "width": 64, "hidden": 512}
LISTS = {"train": "training_frames_keypoints.csv", "test": "test_frames_keypoints.csv"}
FOLDERS = {"train": "training", "test": "test"}
FIX = "run 'python -m tmsgd_bench data prepare fkpd'"
Rgb = tuple[int, int, int]


@pytest.fixture(scope="module")
def faces(synthetic_data: Callable[[str], Path]) -> Path:
    """A folder with the stand-in, to be read only; what is kept of it lies beside."""
    return synthetic_data("fkpd")


@pytest.fixture(scope="session")
def real_fkpd() -> Path:
    """The folder of the real data set, where there is one."""
    folder = Path(os.environ.get("TMSGD_DATA", "none")) / "fkpd"
    if not folder.is_dir():
        pytest.skip("needs the real frames: set TMSGD_DATA to the folder of the data sets")
    return folder


def write(folder: Path, train: int = 3, test: int = 2, size: tuple[int, int] = (40, 50)) -> Path:
    """Write a few flat frames with points in the data set's layout; returns the folder."""
    for split, count in (("train", train), ("test", test)):
        (folder / FOLDERS[split]).mkdir(parents=True, exist_ok=True)
        lines = ["," + ",".join(map(str, range(2 * POINTS)))]
        for number in range(count):
            Image.new("L", size, 50 + number).save(folder / FOLDERS[split] / f"{number}.jpg", format="PNG")
            lines.append(row(f"{number}.jpg"))
        (folder / LISTS[split]).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def row(name: str, *numbers: object) -> str:
    """A line of a list; its last numbers are replaced by the given ones."""
    values = [float(k) for k in range(2 * POINTS - len(numbers))]
    return ",".join(map(str, (name, *values, *numbers)))


def settings(folder: Path, **changes: Any) -> TaskSettings:
    """Those of a small run; ``changes`` replaces some."""
    made = replace(
        TaskSettings(
            data_folder=folder,
            data_limit=None,
            batch_size=5,
            seed=0,
            device=torch.device("cpu"),
            model=SMALL,
            fingerprint="faces",
        ),
        **changes,
    )
    return replace(made, model={"_target_": TARGET, **made.model})


def make(folder: Path, loss: str = "smooth_l1", eval_crop: str = "centre", **changes: Any) -> FacialKeyPoints:
    torch.manual_seed(0)
    return FacialKeyPoints(settings(folder, **changes), loss=loss, eval_crop=eval_crop)


def numbered(sizes: Iterable[tuple[int, int]], points: Tensor | None = None) -> tuple[Frames, list[np.ndarray]]:
    """Frames (height, width) of random gray values, and the same one by one."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]
    lengths = torch.tensor([image.size for image in images])
    pixels = torch.from_numpy(np.concatenate([image.ravel() for image in images]))
    if points is None:
        points = torch.from_numpy(rng.uniform(0, 250, (len(images), POINTS, 2))).float()
    return Frames(pixels, lengths.cumsum(0) - lengths, torch.tensor([i.shape for i in images]), 1, points), images


# --- the stand-in --------------------------------------------------------------------------------------------------


def test_the_stand_in_is_the_same_every_time(faces: Path, tmp_path: Path) -> None:
    stand_in.write(tmp_path)
    paths = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert paths == sorted(path.relative_to(faces) for path in faces.rglob("*") if path.is_file())
    assert all((tmp_path / path).read_bytes() == (faces / path).read_bytes() for path in paths)
    assert sum((tmp_path / path).stat().st_size for path in paths) < 5e6


def test_the_stand_in_has_the_publishers_layout(faces: Path) -> None:
    """PNG images with an alpha channel, named .jpg; 68 points inside each; frames of different sizes."""
    for split, count in (("train", 40), ("test", 12)):
        names, points = data.read_points(faces / LISTS[split])
        folder = faces / FOLDERS[split]
        assert sorted(names) == sorted(path.name for path in folder.iterdir()) and len(names) == count
        assert {path.suffix for path in folder.iterdir()} == {".jpg"}
        images = [Image.open(folder / name) for name in names]
        assert {(image.format, image.mode) for image in images} == {("PNG", "RGBA")}
        sizes = torch.tensor([image.size for image in images])
        assert len(sizes.unique(dim=0)) > count / 2
        assert (points >= 0).all() and (points <= sizes[:, None]).all()
        assert torch.equal(points, points.round())


# --- frames --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "rescaled"),
    [
        ((250, 250), (250, 250)),
        ((100, 100), (250, 250)),
        ((100, 133), (250, 332)),
        ((133, 100), (332, 250)),
        ((72, 87), (250, 302)),
        ((616, 300), (513, 250)),
    ],
    ids=str,
)
def test_the_shorter_side_becomes_250_and_the_other_follows(
    tmp_path: Path, size: tuple[int, int], rescaled: tuple[int, int]
) -> None:
    """Width and height; the longer side is cut to a whole number."""
    path = tmp_path / "frame.jpg"
    Image.new("L", size).save(path)
    pixels, factors = data.read_frame(path)
    assert pixels.shape == rescaled[::-1] and pixels.dtype == np.uint8
    assert factors == pytest.approx((rescaled[0] / size[0], rescaled[1] / size[1]), rel=1e-15)
    assert min(rescaled) == SHORT_SIDE


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_gray_is_the_luma_of_red_green_and_blue(tmp_path: Path, mode: str) -> None:
    """(299 R + 587 G + 114 B) / 1000, in float64, to the nearest value; alpha does not count."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (SHORT_SIDE, SHORT_SIDE, len(mode)), dtype=np.uint8)
    path = tmp_path / "frame.jpg"
    Image.fromarray(pixels, mode).save(path, format="PNG")
    expected = pixels[..., :3].astype(np.float64) @ [0.299, 0.587, 0.114]
    assert np.abs(data.read_frame(path)[0] - expected).max() < 0.51


def test_a_gray_frame_of_that_size_stays_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SHORT_SIDE, 300), dtype=np.uint8)
    path = tmp_path / "frame.jpg"
    Image.fromarray(pixels).save(path, format="PNG")
    assert np.array_equal(data.read_frame(path)[0], pixels)


def test_a_gradient_is_rescaled_bilinearly(tmp_path: Path) -> None:
    """Twice as large, between pixel centres: each new pixel lies a quarter from one old one."""
    path = tmp_path / "frame.jpg"
    Image.fromarray(np.arange(0, 250, 2, dtype=np.uint8)[None].repeat(125, 0)).save(path, format="PNG")
    found = data.read_frame(path)[0].astype(np.float64)
    expected = np.clip(np.arange(250) - 0.5, 0, 248)
    assert np.abs(found - expected).max() <= 0.5


def test_points_are_rescaled_with_their_frame(tmp_path: Path) -> None:
    train, test = data.load(settings(write(tmp_path, size=(40, 50))))
    expected = torch.arange(2.0 * POINTS).view(POINTS, 2) * torch.tensor([250 / 40, 312 / 50])
    assert [part.tolist() for part in (train.sizes, test.sizes)] == [[[312, 250]] * 3, [[312, 250]] * 2]
    for frames in (train, test):
        torch.testing.assert_close(frames.points, expected.expand(len(frames), -1, -1), rtol=1e-6, atol=0)
    assert train.starts.tolist() == [0, 312 * 250, 2 * 312 * 250]
    assert train.pixels.view(3, -1).float().mean(1).tolist() == [50.0, 51.0, 52.0]


@pytest.mark.parametrize("limit", [1, 7, 39, 40, 1000])
def test_a_limit_keeps_a_fixed_subset_of_training_and_all_of_test(faces: Path, limit: int) -> None:
    (whole, test), (part, same) = data.load(settings(faces)), data.load(settings(faces, data_limit=limit))
    kept = subset(40, limit)
    assert len(part) == min(limit, 40) and len(same) == len(test) == 12
    assert torch.equal(part.points, whole.points[kept]) and torch.equal(same.points, test.points)
    one = torch.tensor([len(part) - 1])
    assert torch.equal(part.crop(one, part.centres()[one])[0], whole.crop(kept[one], whole.centres()[kept[one]])[0])


def test_frames_are_decoded_once_and_then_kept(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load(settings(faces))

    def again(path: Path, _: int) -> None:
        raise AssertionError(f"{path} is decoded again")

    monkeypatch.setattr(data, "read_frame", again)
    for one, other in zip(first, data.load(settings(faces)), strict=True):
        kept = other.tensors("frames")
        assert all(torch.equal(value, kept[name]) for name, value in one.tensors("frames").items())
    with pytest.raises(AssertionError, match="decoded again"):
        data.load(settings(faces, fingerprint="other frames"))


def test_the_real_data_set_has_the_papers_sizes(real_fkpd: Path) -> None:
    """3,462 and 770 frames; and the mean training face errs by 0.0791 on central crops, as docs/tasks/fkpd.md says."""
    scaled = []
    for split, count in (("train", 3462), ("test", 770)):
        names, points = data.read_points(real_fkpd / LISTS[split])
        assert len(names) == len(points) == count
        sizes = []
        for name in names:
            with Image.open(real_fkpd / FOLDERS[split] / name) as image:
                sizes.append(image.size)
        before = torch.tensor(sizes)
        after = SHORT_SIDE * before // before.min(1, keepdim=True).values
        frames = Frames(torch.empty(0), torch.empty(count), after.flip(1), 1, points)
        moved = points * (after / before)[:, None] - frames.centres()[:, None].flip(2)
        scaled.append((moved - 100) / 50)
    train, test = scaled
    assert float((test - train.mean(0)).square().mean()) == pytest.approx(0.0791, abs=5e-5)


# --- crops ---------------------------------------------------------------------------------------------------------


@hypothesis_settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(224, 270), st.integers(224, 300)), min_size=1, max_size=4),
    st.integers(0, 2**32),
)
def test_cropping_a_batch_is_cropping_each_frame(sizes: list[tuple[int, int]], seed: int) -> None:
    frames, images = numbered(sizes)
    corners = frames.random_corners(seed, "any")
    chosen = torch.randperm(len(frames), generator=torch.Generator().manual_seed(seed))
    pixels, points = frames.crop(chosen, corners[chosen])
    for number, cut, moved in zip(chosen.tolist(), pixels, points, strict=True):
        top, left = corners[number].tolist()
        assert np.array_equal(cut.numpy(), images[number][top : top + CROP, left : left + CROP])
        assert torch.equal(moved, frames.points[number] - torch.tensor([left, top]))


def test_key_points_stay_on_what_they_mark() -> None:
    """The pixel under each point is the same before and after, whatever the crop."""
    inside = torch.randint(30, 220, (3, POINTS, 2), generator=torch.Generator().manual_seed(0)).float()
    frames, images = numbered([(250, 260), (254, 250), (250, 250)], inside)
    for seed in range(5):
        pixels, points = frames.crop(torch.arange(3), frames.random_corners(seed, "any"))
        for image, cut, before, after in zip(images, pixels, inside.long(), points.long(), strict=True):
            marked = torch.from_numpy(image)[before[:, 1], before[:, 0]]
            seen = ((after >= 0) & (after < CROP)).all(1)
            assert seen.sum() > POINTS // 2
            assert torch.equal(cut[after[seen, 1], after[seen, 0]], marked[seen])


@pytest.mark.parametrize(("size", "corner"), [((250, 250), [13, 13]), ((250, 301), [13, 38]), ((224, 224), [0, 0])])
def test_the_centre_is_as_far_from_either_side(size: tuple[int, int], corner: list[int]) -> None:
    assert numbered([size])[0].centres().tolist() == [corner]


def test_random_crops_reach_every_place_equally_often_and_no_other() -> None:
    """Two rows and three columns: each of the six places in a sixth of 6,000 draws, within five deviations."""
    frames = Frames(torch.empty(0), torch.zeros(6000), torch.tensor([[225, 226]]).expand(6000, 2), 1, torch.empty(0))
    places, counts = frames.random_corners(0, "any").unique(dim=0, return_counts=True)
    assert places.tolist() == [[top, left] for top in range(2) for left in range(3)]
    assert (counts - 1000).abs().max() < 5 * math.sqrt(6000 / 6 * 5 / 6)


def test_a_crop_never_leaves_its_frame() -> None:
    frames = Frames(torch.empty(0), torch.zeros(9999), torch.randint(224, 700, (9999, 2)), 1, torch.empty(0))
    for epoch in range(20):
        corners = frames.random_corners(0, "crops", epoch)
        assert (corners >= 0).all() and (corners + CROP <= frames.sizes).all()


def test_random_crops_depend_on_seed_purpose_and_number_alone() -> None:
    frames = numbered([(250, 270)] * 9)[0]
    before = torch.get_rng_state()
    corners = frames.random_corners(3, "crops", 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(frames.random_corners(3, "crops", 5), corners)
    for other in ((4, "crops", 5), (3, "crops", 6), (3, "test crops")):
        assert not torch.equal(frames.random_corners(*other), corners)


# --- bad files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("contents", [b"", b"no image", "truncated", None], ids=str)
def test_a_frame_that_cannot_be_used_is_named_with_the_fix(
    tmp_path: Path, split: str, contents: bytes | str | None
) -> None:
    path = write(tmp_path) / FOLDERS[split] / "1.jpg"
    whole = path.read_bytes()
    if contents is None:
        path.unlink()
    else:
        path.write_bytes(whole[: len(whole) // 2] if isinstance(contents, str) else contents)
    with pytest.raises(DataError) as raised:
        data.load(settings(tmp_path))
    assert str(path) in str(raised.value)
    assert ("No such file or directory" in str(raised.value)) == (contents is None)
    assert FIX in str(raised.value) and "delete it" in str(raised.value)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "1.jpg",
        row("1.jpg").rpartition(",")[0],
        row("1.jpg") + ",1.0",
        row(""),
        *(row("1.jpg", bad) for bad in ("", "x", "nan", "inf", "1.0;")),
    ],
    ids=["empty", "no points", "too few", "too many", "no name", "missing", "a word", "nan", "inf", "mark"],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_bad_line_of_a_list_is_named_by_file_and_number(tmp_path: Path, split: str, line: str) -> None:
    path = write(tmp_path) / LISTS[split]
    path.write_text("\n".join(["", row("0.jpg"), line, row("1.jpg"), ""]), encoding="utf-8")
    with pytest.raises(DataError) as raised:
        data.load(settings(tmp_path))
    assert str(raised.value).startswith(f"{path}, line 3, ")
    assert FIX in str(raised.value)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("contents", [b"", b",0,1\n", b"\xff\xfe\n\x81", None], ids=str)
def test_a_list_that_cannot_be_used_is_named_with_the_fix(tmp_path: Path, split: str, contents: bytes | None) -> None:
    path = write(tmp_path) / LISTS[split]
    if contents is None:
        path.unlink()
    else:
        path.write_bytes(contents)
    with pytest.raises(DataError) as raised:
        data.load(settings(tmp_path))
    assert str(path) in str(raised.value) and FIX in str(raised.value)


# --- the network ---------------------------------------------------------------------------------------------------


def test_preactresnet34_has_34_172_904_parameters() -> None:
    """By the options in conf/, which are the same but in the reduced protocol, and by a formula of its parts."""
    options = without(values_of("task=fkpd")["model"], "name")
    assert options == {"_target_": TARGET, **LARGE}
    with torch.device("meta"):
        model = tasks.build_model(PreActResNet, options, side=CROP, outputs=2 * POINTS)
        assert model(torch.empty(3, 1, CROP, CROP)).shape == (3, 136)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    pairs = [(32, 64), *[(64, 64)] * 2, (64, 128), *[(128, 128)] * 3, (128, 256), *[(256, 256)] * 5, (256, 512)]
    pairs += [(512, 512)] * 2
    blocks = sum(2 * (a + b) + 9 * a * b + 9 * b * b + (a * b if a != b else 0) for a, b in pairs)
    linear = {"hidden": 512 * 49 * 512 + 512, "head": 512 * 136 + 136}
    assert counts == {"stem": 49 * 32, "pool": 0, "blocks": blocks, **linear}
    assert sum(counts.values()) == 34_172_904


@pytest.mark.parametrize(("inputs", "channels", "stride"), [(3, 3, 1), (3, 5, 1), (3, 3, 2), (3, 6, 2)])
def test_a_block_is_what_its_paper_draws(inputs: int, channels: int, stride: int) -> None:
    """Norm, ReLU, convolution, twice, beside the input or a 1 × 1 convolution of it after the first ReLU."""
    torch.manual_seed(0)
    block = PreActBlock(inputs, channels, stride).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, inputs, 8, 8, dtype=torch.float64)
    given_x = x.clone()
    active = norm(x, block.bn1).clamp(min=0)
    second = norm(F.conv2d(active, block.conv1.weight, None, stride, 1), block.bn2).clamp(min=0)
    beside = x if block.shortcut is None else F.conv2d(active, block.shortcut.weight, None, stride)
    expected = F.conv2d(second, block.conv2.weight, None, 1, 1) + beside
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(x, given_x)  # the one before may still need it


def norm(x: Tensor, layer: nn.BatchNorm2d) -> Tensor:
    """Batch normalisation by its formula."""
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    weight, bias = layer.weight[:, None, None], layer.bias[:, None, None]
    return (x - mean) / (variance + layer.eps).sqrt() * weight + bias


@pytest.mark.parametrize(
    "model",
    [
        {"width": 4, "hidden": 8},
        {**SMALL, "depth": 34},
        {**SMALL, "blocks": [1, 1, 1]},
        {**SMALL, "blocks": 34},
        {**SMALL, "blocks": [1, 1, 1, 0]},
        {**SMALL, "blocks": [1, 1, 1, 1.5]},
        {**SMALL, "width": 1},
        {**SMALL, "width": "wide"},
        {**SMALL, "hidden": 0},
    ],
    ids=str,
)
def test_a_model_that_cannot_be_built_is_refused(model: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"blocks|width|hidden"):
        tasks.build_model(PreActResNet, {"_target_": TARGET, **model}, side=CROP, outputs=2 * POINTS)


# --- the task ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 40, 64])
def test_an_epoch_shows_every_frame_once(faces: Path, size: int) -> None:
    task = make(faces, batch_size=size)
    batches = list(task.batches(2))
    assert [len(points) for _, points in batches[:-1]] == [size] * (len(batches) - 1)
    assert len(batches) == task.steps_per_epoch
    shown = in_pixels(torch.cat([points for _, points in batches]))
    everything = task.train.points - task.train.random_corners(0, "crops", 2)[:, None].flip(2)
    assert torch.allclose(shown.sum((1, 2)).sort().values, everything.sum((1, 2)).sort().values, rtol=1e-4)


def test_a_batch_is_gray_from_0_to_1_and_points_from_their_centre(faces: Path) -> None:
    """(p - 100) / 50, x before y, of the very crop that is shown; as float32."""
    task = make(faces)
    images, points = next(iter(task.batches(0)))
    assert images.shape == (5, 1, CROP, CROP) and points.shape == (5, 2 * POINTS)
    assert images.dtype == points.dtype == torch.float32
    assert 0 <= float(images.min()) < 0.5 < float(images.max()) <= 1
    chosen = torch.arange(3)
    pixels, places = task.train.crop(chosen, task.train.centres()[chosen])
    torch.testing.assert_close(to_float(pixels).double(), pixels.double() / 255, rtol=1e-7, atol=0)
    assert torch.equal(to_float(pixels), pixels.float() / 255)  # the bits of ToTensor
    expected = (places.double().reshape(3, -1) - 100) / 50
    torch.testing.assert_close(scale(places).double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(in_pixels(scale(places)), places, rtol=1e-5, atol=1e-4)


def test_a_frame_is_cut_anew_in_every_epoch(faces: Path) -> None:
    """One frame, ten epochs: several crops, and their points with them."""
    task = make(faces, data_limit=1)
    epochs = [next(iter(task.batches(epoch))) for epoch in range(10)]
    assert len({points.numpy().tobytes() for _, points in epochs}) > 5
    assert len({images.numpy().tobytes() for images, _ in epochs}) > 5


@pytest.mark.parametrize("loss", ["smooth_l1", "mse"])
def test_the_loss_is_a_mean_over_all_coordinates(faces: Path, loss: str) -> None:
    """In float64, by its formula; scaled so that both branches of the smooth L1 loss are met."""
    task = make(faces, loss)
    images, points = next(iter(task.batches(0)))
    batch = images, 3 * points
    off = (task.model(images).detach().double() - batch[1].double()).abs()
    assert float(off.min()) < 1 < float(off.max())
    smooth = torch.where(off < 1, off.square() / 2, off - 0.5)
    expected = (smooth if loss == "smooth_l1" else off.square()).mean()
    assert float(task.loss(batch).detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("eval_crop", ["centre", "random"])
@pytest.mark.parametrize("size", [1, 5, 35])
@torch.no_grad()
def test_evaluation_agrees_with_a_computation_by_hand(
    faces: Path, monkeypatch: pytest.MonkeyPatch, size: int, eval_crop: str
) -> None:
    """In float64, frame by frame, for any size of its batches."""
    monkeypatch.setattr("tasks.fkpd.task.EVALUATION_BATCH", size)
    task = make(faces, eval_crop=eval_crop)
    task.model.eval()
    squares, distances = [], []
    for number in range(len(task.test)):
        pixels, points = task.test.crop(torch.tensor([number]), task.test_corners[number, None])
        found = task.model(pixels[:, None].float() / 255).double().view(POINTS, 2)
        squares.append((found - (points[0].double() - 100) / 50).square().mean())
        distances.append((50 * found + 100 - points[0].double()).square().sum(1).sqrt().mean())
    expected = {"mse": sum(squares) / len(squares), "distance": sum(distances) / len(distances)}
    assert task.evaluate() == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-5)


@torch.no_grad()
def test_a_network_far_off_has_a_finite_error(faces: Path) -> None:
    """Its square is beyond single precision."""
    task = make(faces)
    task.model.eval()
    task.model.head.bias.fill_(1e25)
    assert task.evaluate()["mse"] == pytest.approx(1e50, rel=1e-3)


def test_test_frames_are_cut_in_the_middle_or_at_places_of_the_seed(faces: Path) -> None:
    central, drawn, other = make(faces), make(faces, eval_crop="random"), make(faces, eval_crop="random", seed=1)
    assert torch.equal(central.test_corners, (central.test.sizes - CROP) // 2)
    assert torch.equal(drawn.test_corners, make(faces, eval_crop="random").test_corners)
    assert not torch.equal(drawn.test_corners, other.test_corners)
    assert not torch.equal(drawn.test_corners, central.test_corners)


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "TM-SGD": lambda p: TMSGD(p, lr=0.05, switch_step=8),
}


@pytest.mark.parametrize(("name", "loss"), [("SGD", "smooth_l1"), ("TM-SGD", "mse")])
def test_the_loss_falls_on_the_stand_in(faces: Path, name: str, loss: str) -> None:
    """Below half of what a network pays that puts every point into the middle."""
    task = make(faces, loss, model={**SMALL, "hidden": 32, "width": 8})
    optimizers = {"keypoints": OPTIMIZERS[name](task.model.parameters())}
    targets = torch.cat([points for _, points in task.batches(0)])
    middle = float(task.loss_function(torch.zeros_like(targets), targets))
    for epoch in range(12):
        losses = [float(task.training_step(batch, optimizers)["loss"]) for batch in task.batches(epoch)]
        if sum(losses) / len(losses) < middle / 2:
            return
    pytest.fail(f"{sum(losses) / len(losses)} after 12 epochs is not below half of {middle}")


def test_it_learns_to_tell_faces_apart(faces: Path) -> None:
    """On one batch, again and again, it does better than any answer that is the same for all of its faces."""
    task = make(faces, "mse", batch_size=8, model={**SMALL, "hidden": 32, "width": 8})
    optimizers = {"keypoints": torch.optim.SGD(task.model.parameters(), lr=0.1)}
    batch = next(iter(task.batches(0)))
    constant = float((batch[1] - batch[1].mean(0)).square().mean())
    assert float(task.training_step(batch, optimizers)["loss"]) > constant
    steps = range(1, 100)
    assert any(float(task.training_step(batch, optimizers)["loss"]) < 0.95 * constant for _ in steps)


@pytest.mark.parametrize("crop", [32, 96, 224, 250])
def test_the_same_face_has_the_same_targets_in_crops_of_every_side(crop: int) -> None:
    """Of 224 pixels they are (p - 100) / 50, bit by bit."""
    points = 224 * torch.rand((4, POINTS, 2), generator=torch.Generator().manual_seed(0))
    expected = (points.flatten(1) - 100) / 50
    assert torch.equal(scale(points), expected)
    torch.testing.assert_close(scale(points * crop / CROP, crop), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(in_pixels(expected, crop), points * crop / CROP, rtol=1e-5, atol=1e-4)


def test_frames_and_crops_have_the_sizes_that_are_asked_for(faces: Path) -> None:
    """For training, for evaluation and in the picture; a task without these options has the paper's."""
    torch.manual_seed(0)
    task = FacialKeyPoints(settings(faces), loss="mse", eval_crop="random", short_side=70, crop=64)
    assert (task.train.sizes.min(1).values == 70).all() and (task.test.sizes.min(1).values == 70).all()
    assert all(images.shape[1:] == (1, 64, 64) for images, _ in task.batches(0))
    assert (task.test_corners + 64 <= task.test.sizes).all()
    with evaluating(task):
        found, measured = task.found(), task.evaluate()
        assert found.images.shape == (FACES, 64, 64)
        numbers = task.model(to_float(task.test.crop(torch.arange(12), task.test_corners, 64)[0][:, None]))
    places = torch.cat([task.test.crop(torch.tensor([n]), task.test_corners[n, None], 64)[1] for n in range(12)])
    targets = (places.flatten(1) * CROP / 64 - 100) / 50
    assert measured["mse"] == pytest.approx(float((numbers - targets).square().mean()), rel=1e-4)
    assert torch.equal(make(faces).test_corners, make(faces).test.centres())


# --- pictures ------------------------------------------------------------------------------------------------------


def test_drawing_writes_the_points_found_on_seven_faces(faces: Path, tmp_path: Path) -> None:
    task = make(faces)
    with evaluating(task):
        task.draw(tmp_path)
    found = KeyPoints.load(tmp_path)
    assert found.images.shape == (FACES, CROP, CROP) and found.images.dtype == np.uint8
    assert found.truth.shape == found.predicted.shape == (FACES, POINTS, 2)
    chosen = torch.tensor([0, 1, 3, 5, 6, 8, 10])  # spread over 12
    pixels, points = task.test.crop(chosen, task.test.centres()[chosen])
    assert np.array_equal(found.images, pixels.numpy()) and np.array_equal(found.truth, points.numpy())
    with evaluating(task):
        expected = 50 * task.model(pixels[:, None].float() / 255).view(-1, POINTS, 2) + 100
    np.testing.assert_allclose(found.predicted, expected.numpy(), rtol=1e-5)
    with Image.open(tmp_path / PICTURE) as picture:
        assert picture.format == "PNG" and picture.width > 3 * picture.height


def test_a_small_test_split_has_fewer_faces(tmp_path: Path) -> None:
    task = make(write(tmp_path))
    with evaluating(task):
        assert task.found().images.shape == (2, CROP, CROP)


# --- options -------------------------------------------------------------------------------------------------------


def test_the_task_is_built_by_its_yaml(faces: Path) -> None:
    """Table 2's values, as printed, are the defaults, and nothing is to correct in them."""
    values = yaml.safe_load((CONF / "task/fkpd.yaml").read_text(encoding="utf-8"))
    printed = {"epochs": 20, "lr": 0.01, "batch_size": 10, "switch_epoch": 5, "schedule": None}
    printed |= {"short_side": SHORT_SIDE, "crop": CROP, **LARGE}
    assert values["table2"] == values["corrected"] == printed
    assert values["smoke"].keys() == {*printed, "limit"}
    resolved = values_of("task=fkpd")["task"]
    options = {key: resolved[key] for key in ("loss", "eval_crop", "short_side", "crop")}
    task = tasks.build(values["_target_"], settings(faces), options)
    assert isinstance(task, FacialKeyPoints)
    assert task.loss_function is F.smooth_l1_loss


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "l2"},
        {"loss": None},
        {"eval_crop": "left"},
        {"eval_crop": True},
        {"short_side": 31},
        {"crop": "all"},
        {"crop": 100},  # the network halves an image five times
        {"crop": 256},  # more than a frame has
        {"unknown": 1},
    ],
    ids=str,
)
def test_an_option_that_cannot_be_used_is_refused(faces: Path, options: dict[str, Any]) -> None:
    """In one sentence that names it, before anything is trained."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        tasks.build("tasks.fkpd.FacialKeyPoints", settings(faces), {"loss": "mse", "eval_crop": "centre", **options})
