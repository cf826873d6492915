"""Image classification: CIFAR's pickles read safely, the networks, the batches, and the task around them."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import modes
import numpy as np
import pytest
import torch
import torchvision
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.transforms import ToTensor
from torchvision.transforms import functional as reference

import tasks
from tasks.compute import to_float
from tasks.ic import ImageClassification, data, models
from tasks.ic.batches import PADDING, crop_and_flip, draw_crops_and_flips
from tasks.ic.task import CHANNELS_LAST_FROM
from tmsgd_bench import TMSGD
from tmsgd_bench.data import synthetic
from tmsgd_bench.data.catalog import find
from tmsgd_bench.errors import ConfigError, DataError
from tmsgd_bench.optim import sharpness
from tmsgd_bench.seeding import epoch_order, subset
from tmsgd_bench.task import TaskSettings

CONF = Path(__file__).parents[2] / "conf"
DATASETS = ("cifar10", "cifar100")
CPU = torch.device("cpu")
FIX = "restore it."
TARGET = "tasks.ic.models.build"
TINY = {"family": "vgg", "depth": 11, "width": 2}
SMALL = {"family": "resnet", "depth": 18, "width": 2}
FORMATS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture(scope="module", autouse=True)
def no_onednn() -> Iterator[None]:
    with modes.without_onednn():
        yield


@pytest.fixture(scope="module")
def stand_ins(synthetic_data: Callable[[str], Path]) -> Path:
    """A folder with both stand-ins, to be read only."""
    first, second = map(synthetic_data, DATASETS)
    assert first.parent == second.parent
    return first.parent


def batch(count: int = 6, classes: int = 10, key: bytes = b"labels") -> dict[bytes, Any]:
    pixels = np.random.default_rng(count).integers(0, 256, (count, 3072), dtype=np.uint8)
    return {b"data": pixels, key: [k % classes for k in range(count)], b"batch_label": b"one"}


def put(path: Path, value: Any, protocol: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def write_cifar10(root: Path, sizes: tuple[int, ...] = (3, 2, 4, 1, 2, 5)) -> Path:
    """A CIFAR-10 with so many images in its five training batches and its test batch."""
    layout = data.LAYOUTS["cifar10"]
    for name, count in zip((*layout.train, *layout.test), sizes, strict=True):
        put(root / "cifar10" / name, batch(count))
    return root / "cifar10"


def settings(folder: Path, **changes: Any) -> TaskSettings:
    """Those of a small run; ``changes`` replaces some."""
    made = replace(TaskSettings(folder, 24, 8, 0, CPU, TINY), **changes)
    return replace(made, model={"_target_": TARGET, **made.model})


def make(
    folder: Path, augment: str = "none", channels_last: bool | str = "auto", **changes: Any
) -> ImageClassification:
    torch.manual_seed(0)
    return ImageClassification(settings(folder, **changes), augment=augment, channels_last=channels_last)


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(2, 5))
@pytest.mark.parametrize("count", [1, 6, 50])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_batch_of_any_size_is_read_as_it_was_written(tmp_path: Path, order: Any, count: int, protocol: int) -> None:
    written = batch(count)
    pixels = np.asarray(written[b"data"], order=order)
    images, labels = data.read_batch(put(tmp_path / "b", written | {b"data": pixels}, protocol), "labels", 10, FIX)
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert np.array_equal(images.numpy(), pixels.reshape(count, 3, 32, 32))
    assert labels.tolist() == written[b"labels"]


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """As the publisher's are: strings without an encoding, and numpy's module by the name it had."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    pixels = batch(2)[b"data"]
    kind = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xff"
    kind += b"J\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01K\x02M\x00\x0c\x86" + kind + b"\x89" + text(pixels.tobytes()) + b"tb"
    content = b"\x80\x02}(" + text(b"data") + array + text(b"labels") + b"](K\x07K\x03eu."
    loaded = pickle.loads(content, encoding="bytes")  # what is written here by hand is such a pickle
    assert np.array_equal(loaded[b"data"], pixels)
    (tmp_path / "b").write_bytes(content)
    images, labels = data.read_batch(tmp_path / "b", "labels", 10, FIX)
    assert np.array_equal(images.numpy().reshape(2, -1), pixels)
    assert labels.tolist() == [7, 3]


class Harmful:
    """Pickled, it makes a folder when it is read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("key", [b"data", b"labels", b"more"])
def test_a_pickle_that_runs_code_is_refused(key: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = put(tmp_path / "b", batch() | {key: Harmful()})
    with pytest.raises(DataError, match="mkdir") as raised:
        data.read_batch(path, "labels", 10, FIX)
    assert str(path) in str(raised.value)
    assert not (tmp_path / "harm").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "harm").exists()  # so it would have


@pytest.mark.parametrize(
    "named",
    [b"cbuiltins\neval\n", b"cnumpy\nload\n", b"cnumpy\nfromfile\n", b"c_codecs\nopen\n", b"cnumpy\nndarray.tofile\n"],
)
def test_no_other_name_of_an_allowed_module_is_known(tmp_path: Path, named: bytes) -> None:
    (tmp_path / "b").write_bytes(b"\x80\x02" + named + b".")
    with pytest.raises(DataError, match="is not allowed"):
        data.read_batch(tmp_path / "b", "labels", 10, FIX)


def changed(**values: Any) -> bytes:
    return pickle.dumps(batch() | {key.encode(): value for key, value in values.items()}, protocol=2)


WHOLE = changed()
BAD = {
    "empty": (b"", "Ran out of input"),
    "no pickle": (b"GIF89a", "cannot read"),
    "cut": (WHOLE[: len(WHOLE) // 2], "truncated"),
    "a reference": (b"Pelsewhere\n.", "not allowed"),
    "no dictionary": (pickle.dumps([1, 2]), "CIFAR"),
    "no images": (pickle.dumps({b"labels": [1]}), "b'data'"),
    "no labels": (pickle.dumps({b"data": batch()[b"data"]}, protocol=2), "b'labels'"),
    "fine labels": (pickle.dumps({b"data": batch()[b"data"], b"fine_labels": [0] * 6}, protocol=2), "b'labels'"),
    "flat": (changed(data=np.zeros(3072, np.uint8)), r"\(3072,\)"),
    "another side": (changed(data=np.zeros((6, 768), np.uint8)), r"\(6, 768\)"),
    "no rows": (pickle.dumps({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, 4), r"\(0, 3072\)"),
    "floats": (changed(data=np.zeros((6, 3072), np.float32)), "bytes"),
    "objects": (changed(data=np.full((6, 3072), None)), "bytes"),
    "a list for pixels": (changed(data=[[0] * 3072] * 6), "CIFAR"),
    "too few labels": (changed(labels=[0] * 5), "labels"),
    "nested labels": (changed(labels=[[0]] * 6), "labels"),
    "fractions": (changed(labels=[0.0] * 6), "labels"),
    "words": (changed(labels=[b"cat"] * 6), "labels"),
    "a large number": (changed(labels=[2**80] * 6), "labels"),
    "none": (changed(labels=None), "labels"),
    "below 0": (changed(labels=[0, 1, 2, 3, 4, -1]), "-1 to 4.* 0 to 9"),
    "above 9": (changed(labels=[0, 1, 2, 3, 4, 10]), "0 to 10.* 0 to 9"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_no_batch_is_named_with_the_reason_and_the_fix(tmp_path: Path, case: str) -> None:
    content, reason = BAD[case]
    (tmp_path / "b").write_bytes(content)
    with pytest.raises(DataError, match=reason) as raised:
        data.read_batch(tmp_path / "b", "labels", 10, FIX)
    message = str(raised.value)
    assert str(tmp_path / "b") in message and FIX in message
    assert "\n" not in message


@given(share=st.floats(0.0, 1.0, exclude_max=True))
@hypothesis_settings(max_examples=60, deadline=None)
def test_no_beginning_of_a_file_passes_for_the_file(tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    path = tmp_path_factory.mktemp("cut") / "b"
    path.write_bytes(WHOLE[: int(share * len(WHOLE))])
    with pytest.raises(DataError):
        data.read_batch(path, "labels", 10, FIX)


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"x")], ids=["missing", "damaged"])
def test_the_one_bad_file_of_a_data_set_is_named(tmp_path: Path, number: int, damage: Callable[[Path], Any]) -> None:
    folder, layout = write_cifar10(tmp_path), data.LAYOUTS["cifar10"]
    path = folder / (*layout.train, *layout.test)[number]
    damage(path)
    with pytest.raises(DataError) as raised:
        data.load(settings(folder, data_limit=None))
    assert str(path) in str(raised.value)
    assert "delete it if it is there and run 'python -m tmsgd_bench data prepare cifar10'" in str(raised.value)


# --- data set ------------------------------------------------------------------------------------------------------


def test_a_data_set_is_its_batches_one_after_the_other(tmp_path: Path) -> None:
    loaded = data.load(settings(write_cifar10(tmp_path, (3, 2, 4, 1, 2, 5)), data_limit=None))
    rows = np.concatenate([batch(count)[b"data"] for count in (3, 2, 4, 1, 2)])
    assert np.array_equal(loaded.train_images.numpy().reshape(12, -1), rows)
    assert loaded.train_labels.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3, 0, 0, 1]
    assert np.array_equal(loaded.test_images.numpy().reshape(5, -1), batch(5)[b"data"])
    assert loaded.test_labels.tolist() == [0, 1, 2, 3, 4]
    assert loaded.classes == 10


@pytest.mark.parametrize("limit", [1, 7, 12, 100])
def test_a_limit_keeps_a_fixed_subset_of_training_and_all_of_test(tmp_path: Path, limit: int) -> None:
    folder = write_cifar10(tmp_path)
    whole, part = (data.load(settings(folder, data_limit=n)) for n in (None, limit))
    kept = subset(12, limit)
    assert len(part.train_labels) == min(limit, 12)
    assert torch.equal(part.train_images, whole.train_images[kept])
    assert torch.equal(part.train_labels, whole.train_labels[kept])
    assert torch.equal(part.test_images, whole.test_images) and torch.equal(part.test_labels, whole.test_labels)


def test_the_folder_of_another_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'r8'.*data\.name"):
        data.load(settings(tmp_path / "r8", data_limit=None))


@pytest.mark.parametrize("name", DATASETS)
def test_the_files_are_those_of_the_catalog(name: str) -> None:
    layout = data.LAYOUTS[name]
    for split, names in (("train", layout.train), ("test", layout.test)):
        assert {file.name for file in find(name).files if file.split == split} == set(names)


STAND_IN_SHA256 = {
    "cifar10": {1: "8d0d1e856ae45c681660577857688566ec43f7ee722260fda0cf803f8ab38a93"},
    "cifar100": {1: "1d5a287e6e6cb7091c781154996f5c8328c06857a9806a03de23cdc42fa36fee"},
}
"""Of all files of each version, in the order of their names."""


@pytest.mark.parametrize("name", DATASETS)
def test_the_stand_in_has_the_files_and_the_bytes_of_its_version(name: str, stand_ins: Path, tmp_path: Path) -> None:
    """If the digest differs, a change (or numpy's streams) has changed the stand-in: raise ``VERSION`` and note it."""
    np.random.default_rng().random(3)
    synthetic.write(name, tmp_path)
    paths = [tmp_path / file.name for file in find(name).files]
    for path in paths:
        assert path.read_bytes() == (stand_ins / name / path.relative_to(tmp_path)).read_bytes()
    content = b"".join(path.read_bytes() for path in sorted(paths))
    assert len(content) < 5_000_000
    assert hashlib.sha256(content).hexdigest() == STAND_IN_SHA256[name][synthetic.version(name)]


@pytest.mark.parametrize(("name", "sizes"), [("cifar10", (500, 100)), ("cifar100", (800, 100))])
def test_the_stand_in_shows_every_class(name: str, sizes: tuple[int, int], stand_ins: Path) -> None:
    loaded = data.load(settings(stand_ins / name, data_limit=None))
    assert (len(loaded.train_labels), len(loaded.test_labels)) == sizes
    assert len(loaded.train_labels.unique()) == loaded.classes


@pytest.mark.parametrize("name", DATASETS)
def test_the_real_data_set_has_as_many_images_of_each_class(name: str) -> None:
    """Whole or a part with equal shares, as long as the files are batches of this layout."""
    folder = Path(os.environ.get("TMSGD_DATA", "none")) / name
    if not folder.is_dir():
        pytest.skip(f"needs the real {name}: set TMSGD_DATA to the folder of the data sets")
    loaded = data.load(settings(folder, data_limit=None))
    for labels in (loaded.train_labels, loaded.test_labels):
        assert len(set(labels.bincount(minlength=loaded.classes).tolist())) == 1
    means = loaded.train_images.float().mean((0, 2, 3)) / 255
    torch.testing.assert_close(means, torch.tensor([0.49, 0.48, 0.45]), atol=0.03, rtol=0)  # red, green, blue


# --- networks ------------------------------------------------------------------------------------------------------

NETWORKS = [("vgg", depth) for depth in models.VGG_DEPTHS] + [("resnet", depth) for depth in models.RESNET_DEPTHS]


def vgg_count(depth: int, width: int, classes: int) -> int:
    """Nine weights for each pair of channels, two of normalisation for each channel that comes out; a head."""
    stages = {11: [1, 1, 2, 2, 2], 13: [2, 2, 2, 2, 2], 16: [2, 2, 3, 3, 3], 19: [2, 2, 4, 4, 4]}[depth]
    channels = [width * factor for factor, count in zip((1, 2, 4, 8, 8), stages, strict=True) for _ in range(count)]
    pairs = sum(a * b for a, b in zip([3, *channels], channels, strict=False))
    return 9 * pairs + 2 * sum(channels) + (channels[-1] + 1) * classes


def resnet_count(depth: int, width: int, classes: int) -> int:
    """The stem; of each block its convolutions, their normalisations and, in a stage's first, a shortcut; a head."""
    total, inputs = 9 * 3 * width + 2 * width, width
    for stage, blocks in enumerate([2, 2, 2, 2] if depth == 18 else [3, 4, 6, 3]):
        inner = width * 2**stage
        outer = inner if depth < 50 else 4 * inner
        for _ in range(blocks):
            if depth < 50:
                total += 9 * inputs * inner + 9 * inner * inner + 4 * inner
            else:
                total += inputs * inner + 9 * inner * inner + inner * outer + 4 * inner + 2 * outer
            total += inputs * outer + 2 * outer if inputs != outer else 0
            inputs = outer
    return total + (inputs + 1) * classes


COUNTS = {
    **{("vgg", 11): 9_228_362, ("vgg", 13): 9_413_066, ("vgg", 16): 14_724_042, ("vgg", 19): 20_035_018},
    **{("resnet", 18): 11_173_962, ("resnet", 34): 21_282_122, ("resnet", 50): 23_520_842},
}


def on_paper(family: str, depth: int, width: int, classes: int) -> nn.Module:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return models.build(classes, family, depth, width)


@pytest.mark.parametrize(("family", "depth"), NETWORKS)
def test_the_number_of_weights_follows_the_formula(family: str, depth: int) -> None:
    """With 64 channels and 10 classes it is the one known from CIFAR: 11.17 million for ResNet18."""
    formula = {"vgg": vgg_count, "resnet": resnet_count}[family]
    for width, classes in ((64, 10), (64, 100), (3, 7)):
        weights = sum(p.numel() for p in on_paper(family, depth, width, classes).parameters())
        assert weights == formula(depth, width, classes)
    assert formula(depth, 64, 10) == COUNTS[family, depth]


def vgg_of_torchvision(depth: int) -> nn.Module:
    """Its convolutions alone; their biases, which ours has not, set to zero."""
    letter = {11: "A", 13: "B", 16: "D", 19: "E"}[depth]
    layers = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs[letter], batch_norm=True)
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            layer.bias = None
    return nn.Sequential(layers, nn.Flatten(), nn.Linear(512, 10))


def resnet_of_torchvision(depth: int) -> nn.Module:
    """With the stem for 32 × 32 pixels."""
    network = getattr(torchvision.models, f"resnet{depth}")(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


@pytest.mark.parametrize(("family", "depth"), NETWORKS)
def test_a_network_is_torchvisions_with_the_stem_and_head_for_cifar(family: str, depth: int) -> None:
    """In float64, in training mode; its weights are ours in the same order."""
    torch.manual_seed(depth)
    ours = models.build(10, family, depth, 64).double()
    with torch.device("meta"):  # nobody needs its own initial weights
        theirs = (vgg_of_torchvision if family == "vgg" else resnet_of_torchvision)(depth)
    names, values = list(theirs.state_dict()), list(ours.state_dict().values())
    theirs.load_state_dict(dict(zip(names, values, strict=True)), assign=True)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("family", "depth"), NETWORKS)
def test_a_network_turns_images_into_logits_with_a_gradient_for_every_weight(family: str, depth: int) -> None:
    torch.manual_seed(0)
    network = models.build(7, family, depth, 2)
    logits = network(torch.rand(5, 3, 32, 32))
    assert logits.shape == (5, 7)
    logits.square().sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None and torch.isfinite(weight.grad).all(), name


@pytest.mark.parametrize(
    "name", [*(f"vgg{d}" for d in models.VGG_DEPTHS), *(f"resnet{d}" for d in models.RESNET_DEPTHS)]
)
def test_every_depth_has_a_yaml(name: str) -> None:
    options = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    assert options.pop("name") == name == f"{options['family']}{options['depth']}"
    assert options["width"] == "${task.${protocol}.width}"
    options["width"] = yaml.safe_load((CONF / "task/ic.yaml").read_text())["table2"]["width"]
    with torch.device("meta"):
        network = tasks.build_model(nn.Module, options, classes=10)
    weights = sum(p.numel() for p in network.parameters())
    assert weights == COUNTS[options["family"], options["depth"]]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"depth": 17}, r"model\.depth .*11, 13, 16, 19"),
        ({"family": "resnet", "depth": 16}, r"model\.depth .*18, 34, 50"),
        ({"depth": "16"}, r"model\.depth"),
        ({"depth": None}, r"model\.depth"),
        ({"family": "lstm"}, r"model\.family .*vgg, resnet"),
        ({"width": 0}, r"model\.width"),
        ({"width": 1.5}, r"model\.width"),
        ({"hidden": 5}, r"model\.hidden"),
    ],
    ids=str,
)
def test_a_network_that_there_is_not_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        tasks.build_model(nn.Module, {"_target_": TARGET, **TINY, **changes}, classes=10)


# --- batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_bytes_become_the_floats_of_to_tensor(memory_format: torch.memory_format, device: str) -> None:
    """Bit for bit, for every value of a byte."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    pixels = torch.arange(256, dtype=torch.uint8).repeat(12).view(1, 3, 32, 32)
    ours = to_float(pixels.to(device), memory_format)
    theirs = ToTensor()(pixels[0].permute(1, 2, 0).numpy())
    assert torch.equal(ours[0].cpu(), theirs)
    assert ours.is_contiguous(memory_format=memory_format)
    assert (float(ours.min()), float(ours.max())) == (0.0, 1.0)


def one_by_one(pixels: Tensor, corners: Tensor, flips: Tensor) -> Tensor:
    """What ``crop_and_flip`` returns, image by image with torchvision's functions."""
    done = []
    for image, (top, left), flip in zip(pixels, corners.tolist(), flips.tolist(), strict=True):
        cut = reference.crop(reference.pad(image, [PADDING] * 4), top, left, 32, 32)
        done.append(reference.hflip(cut) if flip else cut)
    return torch.stack(done)


@given(
    drawn=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8), st.booleans()), min_size=1, max_size=6),
    seed=st.integers(0, 99),
)
@hypothesis_settings(max_examples=50, deadline=None)
def test_crops_and_flips_are_those_of_each_image_alone(drawn: list[tuple[int, int, bool]], seed: int) -> None:
    shape = (len(drawn), 3, 32, 32)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    corners = torch.tensor([[top, left] for top, left, _ in drawn])
    flips = torch.tensor([flip for *_, flip in drawn])
    assert torch.equal(crop_and_flip(pixels, corners, flips), one_by_one(pixels, corners, flips))


def test_the_middle_unmirrored_is_the_image_itself() -> None:
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(crop_and_flip(pixels, torch.full((4, 2), PADDING), torch.zeros(4, dtype=torch.bool)), pixels)


def test_all_corners_and_both_flips_are_drawn_about_equally_often() -> None:
    """Within five standard deviations of a binomial count."""
    corners, flips = draw_crops_and_flips(8100, seed=0, epoch=0)
    counts = torch.bincount(corners[:, 0] * 9 + corners[:, 1], minlength=81)
    assert len(counts) == 81 and int((counts - 100).abs().max()) < 5 * math.sqrt(100)
    assert abs(int(flips.sum()) - 4050) < 5 * math.sqrt(8100 / 4)
    both = (corners[:, 0].double() - 4) * (flips.double() - 0.5)
    assert abs(float(both.mean())) < 5 * math.sqrt(60 / 9 / 4 / 8100)  # the variance of 0 … 8 is 60/9


def test_draws_differ_between_seeds_and_epochs() -> None:
    drawn = [draw_crops_and_flips(50, seed, epoch)[0] for seed in (0, 1) for epoch in (0, 1)]
    for number, one in enumerate(drawn):
        assert all(not torch.equal(one, other) for other in drawn[:number])


def flat(task: ImageClassification, epoch: int) -> tuple[Tensor, Tensor]:
    """The images and labels of an epoch, in order."""
    images, labels = (torch.cat(parts) for parts in zip(*task.batches(epoch), strict=True))
    return images, labels


@pytest.mark.parametrize("augment", ["none", "standard"])
@pytest.mark.parametrize("size", [1, 7, 24, 100])
def test_an_epoch_shows_every_image_once_with_its_label(stand_ins: Path, size: int, augment: str) -> None:
    """In the order of (seed, epoch); what happens to an image is a function of (seed, epoch, its number) alone."""
    task = make(stand_ins / "cifar10", augment, batch_size=size, seed=3)
    for epoch in (1, 0):
        torch.manual_seed(epoch)
        sizes = [len(labels) for _, labels in task.batches(epoch)]
        assert sizes == [min(size, 24 - done) for done in range(0, 24, size)]
        assert len(sizes) == task.steps_per_epoch
        pixels = task.data.train_images
        if augment == "standard":
            pixels = one_by_one(pixels, *draw_crops_and_flips(24, 3, epoch))
        order = epoch_order(24, 3, epoch)
        images, labels = flat(task, epoch)
        assert torch.equal(images, pixels[order].float() / 255)
        assert torch.equal(labels, task.data.train_labels[order])


# --- memory format -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [TINY, SMALL], ids=["vgg", "resnet"])
def test_the_memory_format_changes_rounding_alone(stand_ins: Path, model: dict[str, Any]) -> None:
    """Weights and images have it; the first loss and its gradients agree."""
    found = []
    for last, memory_format in zip((False, True), FORMATS, strict=True):
        task = make(stand_ins / "cifar10", channels_last=last, model=model, data_limit=8)
        images, labels = next(iter(task.batches(0)))
        assert images.is_contiguous(memory_format=memory_format)
        weights = [p for p in task.model.parameters() if p.dim() == 4]
        assert weights and all(p.is_contiguous(memory_format=memory_format) for p in weights)
        task.model.double()
        loss = task.loss((images.double(), labels))
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in task.model.parameters() if p.grad is not None)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [CHANNELS_LAST_FROM - 1, CHANNELS_LAST_FROM, 256])
def test_auto_is_channels_last_for_large_batches_on_a_cpu(stand_ins: Path, size: int) -> None:
    chosen = make(stand_ins / "cifar10", batch_size=size).memory_format
    assert chosen == (torch.channels_last if size >= CHANNELS_LAST_FROM else torch.contiguous_format)


# --- task ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATASETS)
def test_the_network_has_an_output_for_each_class(stand_ins: Path, name: str) -> None:
    task = make(stand_ins / name)
    images, labels = next(iter(task.batches(0)))
    logits = task.model(images).detach().double()
    assert logits.shape == (8, {"cifar10": 10, "cifar100": 100}[name])
    expected = -logits.log_softmax(dim=1)[torch.arange(8), labels].mean()
    torch.manual_seed(0)
    assert float(task.loss((images, labels)).detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("size", [1, 17, 500])
@torch.no_grad()
def test_evaluation_agrees_with_a_computation_by_hand(
    stand_ins: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """In float64, for any size of its batches; normalisation uses its running averages."""
    monkeypatch.setattr("tasks.ic.task.EVALUATION_BATCH", size)
    task = make(stand_ins / "cifar10")
    list(map(task.loss, task.batches(0)))
    task.model.eval()
    found = task.evaluate()
    logits = copy.deepcopy(task.model).double()(task.data.test_images.double() / 255)
    right = (logits.argmax(dim=1) == task.data.test_labels).double().mean()
    losses = -logits.log_softmax(dim=1).gather(1, task.data.test_labels[:, None])
    assert found["accuracy"] == pytest.approx(100 * float(right), rel=1e-6)
    assert found["test_loss"] == pytest.approx(float(losses.mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "model", "sizes", "lr", "epochs"),
    [
        ("cifar10", {**TINY, "width": 8}, {"data_limit": 200}, 0.02, 3),
        ("cifar10", {**SMALL, "width": 4}, {"data_limit": 160}, 0.02, 3),
        ("cifar100", {**TINY, "width": 8}, {"data_limit": None, "batch_size": 16}, 0.05, 2),
    ],
    ids=["VGG on CIFAR-10", "ResNet on CIFAR-10", "VGG on CIFAR-100"],
)
def test_the_loss_falls_on_the_stand_in(
    stand_ins: Path, name: str, model: dict[str, Any], sizes: dict[str, Any], lr: float, epochs: int
) -> None:
    """By TM-SGD across its switch: well below that of guessing, and images not seen before are told apart."""
    task = make(stand_ins / name, model=model, **sizes)
    optimizers = {"classifier": TMSGD(task.model.parameters(), lr=lr, switch_step=task.steps_per_epoch)}
    for epoch in range(epochs):
        losses = [float(task.training_step(each, optimizers)["loss"]) for each in task.batches(epoch)]
    assert sum(losses) / len(losses) < 0.8 * math.log(task.data.classes)
    task.model.eval()
    with torch.no_grad():
        assert task.evaluate()["accuracy"] > 4 * 100 / task.data.classes


@pytest.mark.parametrize("model", [TINY, SMALL], ids=["vgg", "resnet"])
def test_the_sharpness_can_be_measured(stand_ins: Path, model: dict[str, Any]) -> None:
    """The loss is differentiable twice, and the largest curvature is no smaller than that along the gradient."""
    task = make(stand_ins / "cifar10", model=model)
    task.model.double()
    ((images, labels), size) = next(iter(task.probe(8)))
    weights = list(task.model.parameters())

    def loss() -> Tensor:
        return task.loss((images.double(), labels))

    found = float(sharpness(loss, weights))
    assert size == 8 and math.isfinite(found) and found > 0
    gradients = torch.autograd.grad(loss(), weights, create_graph=True)
    assert found >= rayleigh_quotient(gradients, weights)


def rayleigh_quotient(gradients: tuple[Tensor, ...], weights: list[nn.Parameter]) -> float:
    """The curvature along the gradient, which the largest one cannot be below."""
    fixed = [gradient.detach() for gradient in gradients]
    along = sum((a * b).sum() for a, b in zip(gradients, fixed, strict=True))
    assert isinstance(along, Tensor)
    bent = torch.autograd.grad(along, weights)
    squares = sum(float(b.square().sum()) for b in fixed)
    return sum(float((a * b).sum()) for a, b in zip(bent, fixed, strict=True)) / squares


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"augment": "heavy"}, r"task\.augment .*none, standard"),
        ({"augment": None}, r"task\.augment .*none, standard"),
        ({"channels_last": "yes"}, r"task\.channels_last .*auto, true, false"),
        ({"channels_last": None}, r"task\.channels_last .*auto, true, false"),
        ({"unknown": 1}, "unknown"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_used_is_refused(stand_ins: Path, options: dict[str, Any], named: str) -> None:
    own = {"augment": "none", "channels_last": "auto", **options}
    with pytest.raises(ConfigError, match=named):
        tasks.build("tasks.ic.ImageClassification", settings(stand_ins / "cifar10"), own)


def test_the_protocols_are_the_papers_as_printed_and_as_read() -> None:
    values = yaml.safe_load((CONF / "task/ic.yaml").read_text())
    assert values["_target_"] == "tasks.ic.ImageClassification" and values["datasets"] == list(DATASETS)
    common = {"lr": 0.1, "batch_size": 256, "switch_epoch": 75, "width": 64}
    assert values["table2"] == {**common, "epochs": 10, "schedule": None}
    schedule = values["corrected"].pop("schedule")
    assert values["corrected"] == {**common, "epochs": 100}
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    steps = getattr(torch.optim.lr_scheduler, schedule.pop("_target_").rpartition(".")[2])(optimizer, **schedule)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        steps.step()
    assert rates == pytest.approx([0.1] * 50 + [0.01] * 25 + [0.001] * 25)
