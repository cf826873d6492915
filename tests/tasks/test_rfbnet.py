"""RFBNet: its architecture, priors, loss, examples, what it finds, and VGG16's weights that it begins with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import vgg16
from torchvision.ops import box_iou, nms

import tasks
from tasks.compute import IMAGENET_MEAN, IMAGENET_STD, normalise
from tasks.od import vgg
from tasks.od.detector import Batch, DetectedBoxes
from tasks.od.rfbnet import RFBDetector, detector, network
from tasks.od.rfbnet.loss import match, multi_box
from tasks.od.rfbnet.network import Block, RFBNet
from tasks.od.rfbnet.priors import corners, decode, encode, priors
from tasks.voc import ImageSplit, image_splits
from tmsgd_bench.errors import ConfigError, DataError
from tmsgd_bench.task import TaskSettings
from tmsgd_bench.voc import Objects

TARGET = "tasks.od.task.build"
MODEL: dict[str, Any] = {
    "detector": "rfbnet",
    "width": 8,
    "head_width": None,
    "weights": "none",
    "frozen_stages": 0,
    "keep_features": False,
    "augment": "none",
}
CELLS = (38, 19, 10, 5, 3, 1)
BOXES = (6, 6, 6, 6, 4, 4)
COUNT = 11_620
HUGE = torch.finfo(torch.float32).max


@pytest.fixture(scope="module")
def stand_in(synthetic_data: Callable[[str], Path]) -> Path:
    """A folder with the stand-in, to be read only; what is kept of it lies beside."""
    return synthetic_data("voc2007")


@pytest.fixture(scope="module")
def narrow() -> RFBNet:
    """A network in evaluation mode whose every weight and running average is random; to be read only."""
    torch.manual_seed(0)
    return randomised(RFBNet(8)).eval()


def randomised(made: RFBNet) -> RFBNet:
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
        elif isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.1)
    return made


def settings(folder: Path = Path("voc2007"), model: dict[str, Any] | None = None, batch_size: int = 4) -> TaskSettings:
    """Those of a small run."""
    return TaskSettings(
        data_folder=folder,
        data_limit=None,
        batch_size=batch_size,
        seed=0,
        device=torch.device("cpu"),
        model={"_target_": TARGET, **MODEL, **(model or {})},
        fingerprint="stand-in",
        weights_folder=folder.parent / "weights",
    )


def built(settings: TaskSettings) -> RFBDetector:
    return tasks.build_model(RFBDetector, settings.model, settings=settings)


def make(**model: Any) -> RFBDetector:
    torch.manual_seed(0)
    return built(settings(model=model))


def trained_on(stand_in: Path) -> ImageSplit:
    return image_splits(settings(stand_in), "Main", "train/val")[0]


# --- architecture --------------------------------------------------------------------------------------------------

Row = tuple[int, int, tuple[int, int], int, int, tuple[int, int], bool]
"""A convolution: channels in and out, kernel, stride, dilation, padding, and whether it has a bias.

Those without one are followed by batch normalisation.
"""
Pair = tuple[int, int]


def plain(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> Row:
    padding = dilation * (kernel // 2)
    return inputs, outputs, (kernel, kernel), 1, dilation, (padding, padding), True


def normed(inputs: int, outputs: int, kernel: Pair = (1, 1), stride: int = 1, dilation: int = 1) -> Row:
    padding = dilation * (kernel[0] // 2), dilation * (kernel[1] // 2)
    return inputs, outputs, kernel, stride, dilation, padding, False


def rfb_rows(inputs: int, outputs: int, stride: int) -> list[Row]:
    """Three branches of an eighth of the channels and more, all of them together, and the shortcut."""
    one, half_more, two = inputs // 8, 3 * inputs // 16, inputs // 4
    square = (3, 3)
    return [
        normed(inputs, two, stride=stride),
        normed(two, two, square, dilation=2),
        normed(inputs, one),
        normed(one, two, square, stride),
        normed(two, two, square, dilation=3),
        normed(inputs, one),
        normed(one, half_more, square),
        normed(half_more, two, square, stride),
        normed(two, two, square, dilation=5),
        normed(3 * two, outputs),
        normed(inputs, outputs, stride=stride),
    ]


def rfb_s_rows(inputs: int, channels: int) -> list[Row]:
    """Four branches of a quarter of the outputs' channels, with 1 × 3 and 3 × 1 kernels."""
    half, three, one = channels // 8, 3 * channels // 16, channels // 4
    square, high, wide = (3, 3), (3, 1), (1, 3)
    return [
        normed(inputs, one),
        normed(one, one, square),
        normed(inputs, one),
        normed(one, one, high),
        normed(one, one, square, dilation=3),
        normed(inputs, one),
        normed(one, one, wide),
        normed(one, one, square, dilation=3),
        normed(inputs, half),
        normed(half, three, wide),
        normed(three, one, high),
        normed(one, one, square, dilation=5),
        normed(channels, channels),
        normed(inputs, channels),
    ]


def recipe(width: int, head_width: int | None = None) -> list[Row]:
    """Every convolution of RFBNet-300 in the order of the forward pass, heads last; narrower ones in proportion."""
    vgg_channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    c = [3, *(channels * width // 64 for channels in vgg_channels[1:])]
    c128, c256, c512, c1024 = (channels * (head_width or width) // 64 for channels in (128, 256, 512, 1024))
    small = [normed(c256, c128), (c128, c256, (3, 3), 1, 1, (0, 0), False)]
    maps = (c512, c1024, c512, c256, c256, c256)
    return [
        *(plain(inputs, outputs, 3) for inputs, outputs in itertools.pairwise(c)),
        plain(c[-1], c1024, 3, dilation=6),
        plain(c1024, c1024, 1),
        *rfb_s_rows(c[-1], c512),
        *rfb_rows(c1024, c1024, 1),
        *rfb_rows(c1024, c512, 2),
        *rfb_rows(c512, c256, 2),
        *small,
        *small,
        *(plain(channels, 4 * boxes, 3) for channels, boxes in zip(maps, BOXES, strict=True)),
        *(plain(channels, 21 * boxes, 3) for channels, boxes in zip(maps, BOXES, strict=True)),
    ]


def parameters(row: Row) -> int:
    inputs, outputs, (high, wide), *_, bias = row
    return high * wide * inputs * outputs + (outputs if bias else 2 * outputs)


def row_of(layer: nn.Conv2d) -> Row:
    high, wide = layer.kernel_size
    (stride, other), (dilation, also) = layer.stride, layer.dilation
    assert stride == other and dilation == also and layer.groups == 1 and not isinstance(layer.padding, str)
    padding = layer.padding[0], layer.padding[1]
    return layer.in_channels, layer.out_channels, (high, wide), stride, dilation, padding, layer.bias is not None


def convolutions(made: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in made.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize(("width", "head_width"), [(8, None), (16, None), (64, None), (64, 64), (64, 8), (8, 24)])
def test_every_convolution_is_the_recipes(width: int, head_width: int | None) -> None:
    with torch.device("meta"):
        made = RFBNet(width, head_width)
    rows = recipe(width, head_width)
    assert [row_of(layer) for layer in convolutions(made)] == rows
    norms = [layer.num_features for layer in made.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms == [row[1] for row in rows if not row[-1]]
    assert sum(p.numel() for p in made.parameters()) == sum(map(parameters, rows))


def test_a_narrow_head_answers_for_as_many_priors() -> None:
    with torch.device("meta"):
        offsets, logits = RFBNet(64, 8)(torch.empty(2, 3, 300, 300))
    assert offsets.shape == (2, COUNT, 4) and logits.shape == (2, COUNT, 21)


@pytest.mark.parametrize("frozen", [0, 2, 5])
def test_so_many_stages_are_frozen(frozen: int) -> None:
    made = RFBNet(8, None, frozen)
    trained = [any(weight.requires_grad for weight in stage.parameters()) for stage in made.stages]
    assert trained == [False] * frozen + [True] * (5 - frozen)
    assert all(weight.requires_grad for weight in made.fc6.parameters())


def test_rfbnet_300_has_36_531_296_parameters() -> None:
    assert sum(map(parameters, recipe(64))) == 36_531_296


def test_six_maps_and_an_answer_for_each_of_11_620_priors() -> None:
    with torch.device("meta"):
        made, images = RFBNet(64), torch.empty(2, 3, 300, 300)
        shapes = [tuple(found.shape) for found in made.maps(images)]
        offsets, logits = made(images)
    channels = (512, 1024, 512, 256, 256, 256)
    assert shapes == [(2, c, side, side) for c, side in zip(channels, CELLS, strict=True)]
    assert sum(side * side * boxes for side, boxes in zip(CELLS, BOXES, strict=True)) == COUNT
    assert offsets.shape == (2, COUNT, 4) and logits.shape == (2, COUNT, 21)


class Recipe:
    """RFBNet's forward pass in functions, from its weights in order and the table above."""

    def __init__(self, made: RFBNet) -> None:
        self.rows = iter(recipe(8))
        self.layers = iter(convolutions(made))
        self.norms = iter([layer for layer in made.modules() if isinstance(layer, nn.BatchNorm2d)])

    def convolve(self, x: Tensor) -> Tensor:
        _, _, _, stride, dilation, padding, bias = next(self.rows)
        layer = next(self.layers)
        x = F.conv2d(x, layer.weight, layer.bias, stride, padding, dilation)
        return x if bias else self.norm(x)

    def norm(self, x: Tensor) -> Tensor:
        layer = next(self.norms)
        assert layer.running_mean is not None and layer.running_var is not None
        mean, variance, scale, shift = (
            value[:, None, None] for value in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
        )
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def chain(self, x: Tensor, count: int, last: bool = True) -> Tensor:
        """So many convolutions with ReLU; the last one perhaps without."""
        for number in range(count):
            x = self.convolve(x)
            x = x.clamp(min=0) if last or number < count - 1 else x
        return x

    def block(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        branches = [self.chain(x, length, last=False) for length in lengths]
        merged = self.convolve(torch.cat(branches, dim=1))
        return (merged + self.convolve(x)).clamp(min=0)

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Maps, offsets and logits."""
        x = F.max_pool2d(self.chain(images, 2), 2)
        x = F.max_pool2d(self.chain(x, 2), 2)
        x = F.pad(self.chain(x, 3), (0, 1, 0, 1))  # 75 cells and, of what is not negative, a row of zeros
        conv4_3 = self.chain(F.max_pool2d(x, 2), 3)
        x = self.chain(F.max_pool2d(conv4_3, 2), 3)
        x = self.chain(F.max_pool2d(x, 3, stride=1, padding=1), 2)
        maps = [self.block(conv4_3, (2, 3, 3, 4))]
        for _ in range(3):
            maps.append(x := self.block(x, (2, 3, 4)))
        for _ in range(2):
            maps.append(x := self.chain(x, 2))
        answers = [[self.heads(x) for x in maps] for _ in range(2)]
        offsets, logits = (torch.cat(parts, dim=1) for parts in answers)
        return maps, offsets.unflatten(1, (-1, 4)), logits.unflatten(1, (-1, 21))

    def heads(self, x: Tensor) -> Tensor:
        """Cell by cell, and within a cell box by box."""
        return self.convolve(x).flatten(2).transpose(1, 2).flatten(1)


@torch.no_grad()
def test_the_forward_pass_is_the_recipes(narrow: RFBNet) -> None:
    """In double precision: pooling, ReLU, the order of answers, and blocks whose branches count in full."""
    made = RFBNet(8).double().eval()
    made.load_state_dict(narrow.state_dict())
    images = torch.randn(1, 3, 300, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    given_images = images.clone()
    maps, offsets, logits = Recipe(made).forward(images)
    found = made.maps(images)
    for one, other in zip(found, maps, strict=True):
        assert bool(one.any())
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    for one, other in zip(made(images), (offsets, logits), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert torch.equal(images, given_images)


@pytest.mark.parametrize(
    ("block", "fields"),
    [
        (lambda: network.rfb(16, 8, 1), [(5, 5), (9, 9), (15, 15)]),
        (lambda: network.rfb_s(16, 16), [(3, 3), (9, 7), (7, 9), (13, 13)]),
    ],
    ids=["RFB", "RFB-s"],
)
def test_receptive_fields_grow_from_branch_to_branch(block: Callable[[], Block], fields: list[Pair]) -> None:
    """Height and width of what one output of each branch depends on: 3 × 3 dilated, after the kernels before it."""
    made = block().eval()
    for layer in convolutions(made):
        nn.init.ones_(layer.weight)
    found = []
    for branch in made.branches:
        x = torch.ones(1, 16, 31, 31, requires_grad=True)
        branch(x)[..., 15, 15].sum().backward()
        assert x.grad is not None
        touched = x.grad[0].abs().sum(0).nonzero()
        height, width = (touched.amax(0) - touched.amin(0) + 1).tolist()
        found.append((height, width))
    assert found == fields


def test_weights_begin_as_in_the_authors_code() -> None:
    """He's normal distribution by outputs; in the heads torch's uniform one by inputs; biases are 0."""
    torch.manual_seed(0)
    made = RFBNet(16)
    heads = {*made.boxes, *made.classes}
    for layer in convolutions(made):
        weights = layer.weight.detach()
        outputs, inputs = weights[:, 0].numel(), weights[0].numel()
        std = math.sqrt(1 / (3 * inputs)) if layer in heads else math.sqrt(2 / outputs)
        assert float(weights.std()) == pytest.approx(std, rel=5.0 / math.sqrt(2 * weights.numel()))
        assert layer not in heads or float(weights.abs().max()) <= 1 / math.sqrt(inputs)
        assert layer.bias is None or not layer.bias.detach().any()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"width": 12}, r"model\.width"),
        ({"width": 0}, r"model\.width"),
        ({"width": 8.0}, r"model\.width"),
        ({"augment": "coco"}, r"model\.augment"),
        ({"head_width": 12}, r"model\.head_width"),
        ({"frozen_stages": 6}, r"model\.frozen_stages"),
        ({"keep_features": True}, r"model\.frozen_stages=5"),
        ({"keep_features": True, "frozen_stages": 5, "augment": "ssd"}, r"model\.augment=none"),
        ({"weights": "coco"}, r"model\.weights"),
        ({"weights": "imagenet"}, r"model\.width=64"),
        ({"depth": 16}, r"model\.depth"),
    ],
    ids=str,
)
def test_a_model_that_cannot_be_built_is_refused(model: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make(**model)


# --- priors --------------------------------------------------------------------------------------------------------


def slow_priors() -> list[list[float]]:
    """SSD's formulae (Liu et al. 2016, section 2.2): sides in shares of the image, centres at (i + 0.5) / f."""
    steps, sides = (8, 16, 32, 64, 100, 300), (30, 60, 111, 162, 213, 264, 315)
    ratios = ((2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,))
    found = []
    for number, cells in enumerate(CELLS):
        small, large = sides[number] / 300, sides[number + 1] / 300
        for row, column in itertools.product(range(cells), repeat=2):
            centre = [(column + 0.5) / (300 / steps[number]), (row + 0.5) / (300 / steps[number])]
            found.append([*centre, small, small])
            found.append([*centre, math.sqrt(small * large), math.sqrt(small * large)])
            for ratio in ratios[number]:
                root = math.sqrt(ratio)
                found.append([*centre, small * root, small / root])
                found.append([*centre, small / root, small * root])
    return [[min(max(value, 0.0), 1.0) for value in prior] for prior in found]


def test_priors_are_those_of_the_formulae_in_order() -> None:
    expected = torch.tensor(slow_priors(), dtype=torch.float64)
    found = priors()
    assert found.shape == (COUNT, 4) and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=6e-8, atol=0)
    assert float(found.min()) > 0 and float(found.max()) == 1.0  # 264 · √2 pixels are more than the image has


def random_priors(count: int, seed: int) -> Tensor:
    """Of random centres and sizes, so that no two are as good as each other."""
    stream = torch.Generator().manual_seed(seed)
    return torch.cat([torch.rand(count, 2, generator=stream), 0.05 + 0.5 * torch.rand(count, 2, generator=stream)], 1)


def test_offsets_are_ssds() -> None:
    prior, box = torch.tensor([0.5, 0.4, 0.2, 0.1]), torch.tensor([0.5, 0.35, 0.9, 0.75])
    expected = [0.2 / (0.1 * 0.2), 0.15 / (0.1 * 0.1), math.log(2) / 0.2, math.log(4) / 0.2]
    assert encode(box, prior).tolist() == pytest.approx(expected, rel=1e-5)


SHARE = st.floats(0, 1)
SIZE = st.floats(1e-3, 1.5)


@given(st.lists(st.tuples(SHARE, SHARE, SIZE, SIZE), min_size=1, max_size=5), st.integers(0, COUNT - 5))
@hypothesis_settings(max_examples=50, deadline=None)
def test_decoding_is_the_inverse_of_encoding(rows: list[tuple[float, ...]], first: int) -> None:
    x, y, width, height = torch.tensor(rows, dtype=torch.float64).unbind(1)
    boxes = torch.stack([x, y, x + width, y + height], dim=1)
    near = priors()[first : first + len(rows)].double()
    torch.testing.assert_close(decode(encode(boxes, near), near), boxes, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(decode(encode(boxes, near).float(), near.float()), boxes.float(), rtol=1e-4, atol=1e-5)


def test_offsets_of_zero_are_the_prior_itself() -> None:
    near = priors()
    assert torch.equal(decode(torch.zeros(COUNT, 4), near), corners(near))
    centres, sizes = near.double().split(2, dim=1)
    expected = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1)
    torch.testing.assert_close(corners(near).double(), expected, rtol=1e-6, atol=1e-7)


# --- which prior answers for which object --------------------------------------------------------------------------


def slow_iou(box: Sequence[float], prior: Sequence[float]) -> float:
    x, y, width, height = prior
    other = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    shared = max(min(box[2], other[2]) - max(box[0], other[0]), 0) * max(
        min(box[3], other[3]) - max(box[1], other[1]), 0
    )
    union = (box[2] - box[0]) * (box[3] - box[1]) + width * height - shared
    return shared / union


def slow_match(boxes: Tensor, labels: Tensor, near: Tensor) -> list[int | None]:
    """For one image: the number of the object that each prior answers for."""
    objects = [number for number, label in enumerate(labels.tolist()) if label > 0]
    overlaps = {number: [slow_iou(boxes[number].tolist(), prior) for prior in near.tolist()] for number in objects}
    owners: list[int | None] = []
    for prior in range(len(near)):
        best = max(objects, key=lambda number: overlaps[number][prior], default=None)  # of equal ones the first
        owners.append(best if best is not None and overlaps[best][prior] >= 0.5 else None)
    for number in objects:
        owners[overlaps[number].index(max(overlaps[number]))] = number
    return owners


def random_objects(count: int, seed: int, most: int = 6) -> tuple[Tensor, Tensor]:
    """Boxes (1, most, 4) and labels (1, most) of which the first ``count`` are objects; the others are padding."""
    stream = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(1, most, 2, generator=stream) * 0.7, 0.05 + 0.5 * torch.rand(1, most, 2, generator=stream)
    labels = torch.randint(1, 21, (1, most), generator=stream)
    labels[:, count:] = 0
    return torch.cat([corner, corner + size], dim=2), labels


def assert_matches(boxes: Tensor, labels: Tensor, near: Tensor) -> None:
    found_boxes, found = match(boxes, labels, near)
    assert found.dtype == torch.int64 and found_boxes.shape == (*found.shape, 4)
    for image in range(len(labels)):
        owners = slow_match(boxes[image], labels[image], near)
        assert found[image].tolist() == [0 if owner is None else int(labels[image, owner]) for owner in owners]
        for prior, owner in enumerate(owners):
            assert owner is None or torch.equal(found_boxes[image, prior], boxes[image, owner])


@pytest.mark.parametrize("seed", range(12))
def test_matching_agrees_with_loops(seed: int) -> None:
    """Three images together, of which one has few objects and one none."""
    rows = [random_objects(count, 3 * seed + number) for number, count in enumerate((6, 1 + seed % 4, 0))]
    boxes, labels = (torch.cat(column) for column in zip(*rows, strict=True))
    near = random_priors(60, seed)
    # Several priors that overlap an object by more than half.
    near[:6] = torch.cat([(boxes[0, :, :2] + boxes[0, :, 2:]) / 2, 0.9 * (boxes[0, :, 2:] - boxes[0, :, :2])], dim=1)
    assert_matches(boxes, labels, near)
    assert (match(boxes, labels, near)[1][0] > 0).sum() >= 6


@pytest.mark.parametrize("seed", range(4))
def test_objects_of_a_pixel_get_the_prior_that_fits_them_least_badly(seed: int) -> None:
    boxes, labels = random_objects(6, seed)
    boxes[..., 2:] = boxes[..., :2] + 1 / 500
    assert_matches(boxes, labels, random_priors(80, seed))


def test_of_objects_in_the_same_place_the_later_has_the_best_prior_and_the_first_the_others() -> None:
    boxes, _ = random_objects(1, 0, most=1)
    box = boxes[0, 0]
    best = torch.cat([(box[:2] + box[2:]) / 2, box[2:] - box[:2]])
    near = torch.stack([1.1 * best, best, torch.tensor([0.9, 0.9, 0.05, 0.05])])
    near[0, :2] = best[:2]
    boxes, labels = boxes.repeat(1, 3, 1), torch.tensor([[5, 9, 7]])
    assert match(boxes, labels, near)[1].tolist() == [[5, 7, 0]]
    assert_matches(boxes, labels, near)


def test_a_best_prior_is_taken_from_the_object_that_it_overlaps_more() -> None:
    """The small object's only chance is a prior that all but fits the large one."""
    near = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]])
    boxes = torch.tensor([[[0.45, 0.45, 0.55, 0.55], [0.3, 0.3, 0.7, 0.69]]])
    assert match(boxes, torch.tensor([[3, 8]]), near)[1].tolist() == [[8, 0]]  # of two whose best it is, the later
    assert match(boxes.flip(1), torch.tensor([[8, 3]]), near)[1].tolist() == [[3, 0]]


@pytest.mark.parametrize("filler", [0.0, 1.0, -5.0, math.nan, math.inf])
def test_padding_is_not_looked_at(filler: float) -> None:
    near = random_priors(50, 0)
    boxes, labels = random_objects(3, 1)
    expected = match(boxes[:, :3], labels[:, :3], near)
    boxes[:, 3:] = filler
    found = match(boxes, labels, near)
    assert torch.equal(found[1], expected[1])
    positive = found[1] > 0
    assert torch.equal(found[0][positive], expected[0][positive])
    assert not match(boxes, torch.zeros_like(labels), near)[1].any()


def test_images_without_any_place_for_objects_are_background() -> None:
    boxes, labels = match(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), priors())
    assert boxes.shape == (2, COUNT, 4) and labels.shape == (2, COUNT) and not labels.any()


def test_every_object_has_a_prior_of_its_own_among_the_11_620() -> None:
    """If they lie apart, however small; and every prior that answers for one of them overlaps it."""
    near = priors()
    sides = torch.tensor([1 / 500, 5 / 500, 0.1, 0.2])
    corner = torch.tensor([[0.05, 0.05], [0.9, 0.1], [0.1, 0.6], [0.6, 0.5]])
    boxes, labels = torch.cat([corner, corner + sides[:, None]], dim=1)[None], torch.tensor([[1, 2, 3, 4]])
    found = match(boxes, labels, near)[1][0]
    assert set(found.tolist()) == {0, 1, 2, 3, 4}
    for label in range(1, 5):
        assert (box_iou(boxes[0, label - 1, None], corners(near[found == label])) > 0).all()


# --- multi-box loss ------------------------------------------------------------------------------------------------


def slow_multi_box(offsets: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor, near: Tensor) -> tuple[float, float]:
    """In double precision, image by image and prior by prior."""
    total_boxes, total_classes, count = 0.0, 0.0, 0
    for image in range(len(labels)):
        owners = slow_match(boxes[image], labels[image], near)
        positive: list[float] = []
        negative: list[float] = []
        for prior, owner in enumerate(owners):
            values = logits[image, prior].double().tolist()
            label = 0 if owner is None else int(labels[image, owner])
            entropy = math.log(sum(math.exp(value) for value in values)) - values[label]
            (negative if owner is None else positive).append(entropy)
            if owner is not None:
                total_boxes += slow_smooth_l1(offsets[image, prior], boxes[image, owner], near[prior])
        count += len(positive)
        total_classes += sum(positive) + sum(sorted(negative, reverse=True)[: 3 * len(positive)])
    return total_boxes / max(count, 1), total_classes / max(count, 1)


def slow_smooth_l1(found: Tensor, box: Tensor, prior: Tensor) -> float:
    (x1, y1, x2, y2), (x, y, width, height) = box.double().tolist(), prior.double().tolist()
    wanted = [((x1 + x2) / 2 - x) / (0.1 * width), ((y1 + y2) / 2 - y) / (0.1 * height)]
    wanted += [math.log((x2 - x1) / width) / 0.2, math.log((y2 - y1) / height) / 0.2]
    errors = [abs(one - other) for one, other in zip(found.double().tolist(), wanted, strict=True)]
    return sum(error**2 / 2 if error < 1 else error - 0.5 for error in errors)


def random_batch(seed: int, counts: Sequence[int] = (4, 1, 0), near: int = 60) -> tuple[Tensor, ...]:
    """Offsets, logits, boxes, labels and priors."""
    stream = torch.Generator().manual_seed(seed)
    rows = [random_objects(count, 10 * seed + number) for number, count in enumerate(counts)]
    boxes, labels = (torch.cat(column) for column in zip(*rows, strict=True))
    offsets = torch.randn(len(counts), near, 4, generator=stream)
    return offsets, 2 * torch.randn(len(counts), near, 21, generator=stream), boxes, labels, random_priors(near, seed)


@pytest.mark.parametrize("seed", range(8))
def test_the_loss_agrees_with_loops_in_double_precision(seed: int) -> None:
    batch = random_batch(seed)
    found = [float(loss) for loss in multi_box(*batch)]
    assert found == pytest.approx(slow_multi_box(*batch), rel=1e-5)


@pytest.mark.parametrize("objects", [1, 3])
def test_three_negatives_count_for_each_positive_also_where_all_are_equal(objects: int) -> None:
    """Those whose logits have a gradient; and never more than there are."""
    for count in (60, 6):
        offsets, logits, boxes, labels, near = random_batch(2, (objects, 0), count)
        logits = torch.zeros_like(logits).requires_grad_()
        multi_box(offsets, logits, boxes, labels, near)[1].backward()
        assert logits.grad is not None
        counted = logits.grad.abs().sum(2) > 0
        positives = int((match(boxes, labels, near)[1][0] > 0).sum())
        assert counted.sum(1).tolist() == [min(4 * positives, count), 0]


def test_negatives_are_those_with_the_largest_loss_of_their_own_image() -> None:
    offsets, logits, boxes, labels, near = random_batch(3, (1, 1))
    logits = logits.requires_grad_()
    multi_box(offsets, logits, boxes, labels, near)[1].backward()
    assert logits.grad is not None
    wanted = match(boxes, labels, near)[1]
    entropies = -logits.detach().log_softmax(2)[..., 0]
    for image in range(2):
        counted, negative = logits.grad[image].abs().sum(1) > 0, wanted[image] == 0
        assert int((counted & negative).sum()) == 3 * int((~negative).sum())
        assert entropies[image][counted & negative].min() >= entropies[image][~counted].max()


@pytest.mark.parametrize("places", [0, 3])
def test_a_batch_without_objects_costs_nothing(places: int) -> None:
    offsets, logits, _, _, near = random_batch(0)
    offsets, logits = offsets.requires_grad_(), logits.requires_grad_()
    boxes, labels = torch.zeros(3, places, 4), torch.zeros(3, places, dtype=torch.int64)
    losses = multi_box(offsets, logits, boxes, labels, near)
    assert [float(loss.detach()) for loss in losses] == [0.0, 0.0]
    sum(losses, torch.zeros(())).backward()
    for each in (offsets, logits):
        assert each.grad is not None and not each.grad.any()


@pytest.mark.parametrize("filler", [0.0, 1.0, math.nan, math.inf], ids=str)
def test_gradients_are_finite_whatever_the_padding_is(filler: float) -> None:
    """And where an image has no objects, and one has an object of a pixel."""
    offsets, logits, boxes, labels, near = random_batch(1, (2, 1, 0))
    expected = multi_box(offsets, logits, boxes, labels, near)
    boxes = torch.where(labels[..., None] > 0, boxes, filler)
    offsets, logits = offsets.requires_grad_(), logits.requires_grad_()
    losses = multi_box(offsets, logits, boxes, labels, near)
    assert [float(loss.detach()) for loss in losses] == [float(loss) for loss in expected]
    sum(losses, torch.zeros(())).backward()
    boxes[1, 0, 2:] = boxes[1, 0, :2] + 1 / 500
    assert all(bool(loss.isfinite()) for loss in multi_box(offsets, logits, boxes, labels, near))
    for each in (offsets, logits):
        assert each.grad is not None and bool(each.grad.isfinite().all()) and bool(each.grad.any())


def test_the_loss_does_not_depend_on_the_order_of_images() -> None:
    offsets, logits, boxes, labels, near = random_batch(4, (3, 0, 1, 5))
    order = torch.tensor([2, 0, 3, 1])
    found = multi_box(offsets, logits, boxes, labels, near)
    other = multi_box(offsets[order], logits[order], boxes[order], labels[order], near)
    torch.testing.assert_close(found, other, rtol=1e-6, atol=0)


def test_answers_that_are_not_numbers_show_in_the_loss() -> None:
    """So that the run is recorded as diverged; also those of background priors."""
    offsets, logits, boxes, labels, near = random_batch(0)
    background = int((match(boxes, labels, near)[1][0] == 0).nonzero()[0])
    logits[0, background, 0] = math.nan
    assert math.isnan(float(multi_box(offsets, logits, boxes, labels, near)[1]))


# --- what is found -------------------------------------------------------------------------------------------------


def apart(count: int, seed: int) -> Tensor:
    """Boxes (at most ``count``, 4) in whole pixels of 300, no two of which have an IoU close to the limit of NMS.

    There a rounding error decides; coordinates of several images in one call of NMS have some.
    """
    stream = torch.Generator().manual_seed(seed)
    corner, size = (
        torch.randint(0, 200, (count, 2), generator=stream),
        torch.randint(20, 100, (count, 2), generator=stream),
    )
    boxes = torch.cat([corner, corner + size], dim=1).float()
    close = ((box_iou(boxes, boxes) - detector.NMS_IOU).abs() < 2e-3).triu(1).any(0)
    return boxes[~close] / 300


def random_scores(images: int, boxes: int, seed: int) -> Tensor:
    """Many below the least score, none equal to another."""
    stream = torch.Generator().manual_seed(seed)
    return torch.rand(images, boxes, 20, generator=stream) ** 6


def slow_select(boxes: Tensor, scores: Tensor, candidates: int, kept: int) -> list[list[tuple[float, int, int]]]:
    """Score, label and prior of what is found in each image, surest first, class by class."""
    images = []
    for image in range(len(scores)):
        rows = []
        for label in range(20):
            own = scores[image, :, label]
            surest = own.argsort(descending=True).tolist()
            usable = [prior for prior in surest if float(own[prior]) > detector.SCORE_THRESHOLD][:candidates]
            left = nms(300 * boxes[image, usable], own[usable], detector.NMS_IOU).tolist() if usable else []
            rows += [(float(own[usable[place]]), label, usable[place]) for place in left]
        images.append(sorted(rows, reverse=True)[:kept])
    return images


def rows_of(found: DetectedBoxes, image: int, boxes: Tensor) -> list[tuple[float, int, int]]:
    """Of one image, as :func:`slow_select` has them; a box is told by its exact numbers."""
    numbers = {tuple(box): number for number, box in enumerate(boxes.tolist())}
    chosen = found.images == image
    columns = (found.scores[chosen].tolist(), found.labels[chosen].tolist(), found.boxes[chosen].tolist())
    return sorted(((s, label, numbers[tuple(box)]) for s, label, box in zip(*columns, strict=True)), reverse=True)


@pytest.mark.parametrize(("candidates", "kept"), [(400, 200), (10, 200), (400, 25), (7, 3)])
@pytest.mark.parametrize("images", [1, detector.AT_ONCE, 2 * detector.AT_ONCE + 1])
def test_what_is_selected_agrees_with_loops_over_classes(
    images: int, candidates: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "CANDIDATES", candidates)
    monkeypatch.setattr(detector, "MAX_DETECTIONS", kept)
    boxes = apart(60, 0)
    assert len(boxes) > 30
    together = torch.stack([boxes.roll(image, 0) for image in range(images)])
    scores = random_scores(images, len(boxes), images)
    found = detector.select(together, scores)
    expected = slow_select(together, scores, candidates, kept)
    for image in range(images):
        assert rows_of(found, image, together[image]) == expected[image] and expected[image]
    assert (found.scores > detector.SCORE_THRESHOLD).all()


def test_a_surer_box_hides_those_of_its_own_class_and_image_alone() -> None:
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.51], [0.6, 0.6, 0.9, 0.9]]).expand(2, -1, -1)
    scores = torch.zeros(2, 3, 20)
    scores[0, :, 4], scores[0, 1, 7], scores[1, 1, 4] = torch.tensor([0.9, 0.8, 0.01]), 0.3, 0.2
    found = detector.select(boxes, scores)
    rows = sorted(zip(found.images.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True))
    assert rows == [(0, 4, pytest.approx(0.9)), (0, 7, pytest.approx(0.3)), (1, 4, pytest.approx(0.2))]


def test_the_surest_200_of_each_image_are_left() -> None:
    """Of a grid of 15 × 15 boxes in two images, and of one box in a third."""
    grid = torch.cartesian_prod(torch.arange(15), torch.arange(15)) * 20 / 300
    boxes = torch.cat([grid, grid + 18 / 300], dim=1).expand(3, -1, -1)
    scores = torch.zeros(3, 225, 20)
    for image in range(2):
        order = torch.randperm(225, generator=torch.Generator().manual_seed(image))
        scores[image, torch.arange(225), order % 20] = 0.02 + 0.004 * order.float()
    scores[2, 0, 0] = 0.5
    found = detector.select(boxes, scores)
    assert found.images.bincount().tolist() == [200, 200, 1]
    assert float(found.scores[found.images < 2].min()) == pytest.approx(0.02 + 0.004 * 25)


def test_nothing_is_selected_where_nothing_is_sure() -> None:
    found = detector.select(torch.rand(2, 9, 4), torch.full((2, 9, 20), 0.01))
    assert [tuple(part.shape) for part in vars(found).values()] == [(0,), (0,), (0, 4), (0,)]


class Answers(nn.Module):
    """In RFBNet's place: for an image whose pixels are all ``n``, answer number n."""

    def __init__(self, offsets: Tensor, logits: Tensor) -> None:
        super().__init__()
        self.offsets, self.logits = offsets, logits

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        red = normalise(torch.arange(len(self.offsets)).view(-1, 1, 1, 1).expand(-1, 3, 1, 1))
        numbers = (images[:, None, 0, 0, 0] - red[None, :, 0, 0, 0]).abs().argmin(dim=1)
        return self.offsets[numbers], self.logits[numbers]


def answering(offsets: Tensor, logits: Tensor) -> RFBDetector:
    made = make()
    made.network = Answers(offsets, logits)
    return made


def batch_of(numbers: Sequence[int], sizes: Sequence[tuple[int, int]]) -> Batch:
    images = torch.tensor(numbers, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 300, 300)
    return {"images": images, "sizes": torch.tensor(sizes)}


def unsure(images: int) -> tuple[Tensor, Tensor]:
    """Answers that find nothing: background, surely."""
    logits = torch.zeros(images, COUNT, 21)
    logits[..., 0] = 20.0
    return torch.zeros(images, COUNT, 4), logits


def test_boxes_are_in_pixels_of_the_published_image_and_end_at_its_border() -> None:
    offsets, logits = unsure(2)
    near = priors()
    inside = int((near - torch.tensor([0.5, 0.5, 0.2, 0.2])).abs().sum(1).argmin())
    across = 0  # in the corner, and larger than what of it lies in the image
    logits[0, inside, 1 + 14], logits[1, across, 1 + 3] = 25.0, 22.0
    offsets[0, inside] = torch.tensor([1.0, -0.5, 0.3, 0.1])
    found = answering(offsets, logits).detect(batch_of([0, 1], [(375, 500), (200, 100)]))
    order = found.images.argsort()
    assert found.images[order].tolist() == [0, 1] and found.labels[order].tolist() == [14, 3]
    x, y, w, h = near[inside].double().tolist()
    x, y, w, h = x + 0.1 * w, y - 0.05 * h, w * math.exp(0.06), h * math.exp(0.02)
    expected = [500 * (x - w / 2), 375 * (y - h / 2), 500 * (x + w / 2), 375 * (y + h / 2)]
    assert found.boxes[order][0].tolist() == pytest.approx(expected, abs=1e-3)
    assert found.boxes[order][1].tolist() == pytest.approx([0, 0, 100 * 19 / 300, 200 * 19 / 300], abs=1e-3)
    share = math.exp(25) / (math.exp(25) + math.exp(20) + 19)
    assert float(found.scores[order][0]) == pytest.approx(share, rel=1e-5)
    assert found.boxes.dtype == found.scores.dtype == torch.float32 and found.labels.dtype == torch.int64


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("where", ["offsets", "logits"])
def test_an_answer_that_is_not_finite_finds_nothing(where: str, bad: float) -> None:
    """The other priors' answers count."""
    offsets, logits = unsure(1)
    logits[0, [100, 9000], 3] = 25.0
    {"offsets": offsets, "logits": logits}[where][0, 9000, 2] = bad
    found = answering(offsets, logits).detect(batch_of([0], [(300, 300)]))
    assert found.labels.tolist() == [2]
    torch.testing.assert_close(found.boxes[0], 300 * corners(priors()[100]).clamp(0, 1), rtol=0, atol=1e-3)


def test_boxes_are_finite_and_inside_whatever_the_offsets() -> None:
    offsets, logits = unsure(1)
    logits[0, :40, 5] = 25.0
    values = torch.tensor([HUGE, -HUGE, 1e3, -1e3, 0.0])
    offsets[0, :40] = values[torch.randint(5, (40, 4), generator=torch.Generator().manual_seed(0))]
    found = answering(offsets, logits).detect(batch_of([0], [(200, 100)]))
    assert len(found.boxes) and bool(found.boxes.isfinite().all())
    assert (found.boxes >= 0).all() and (found.boxes <= torch.tensor([100, 200, 100, 200])).all()
    assert (found.boxes[:, 2:] >= found.boxes[:, :2]).all()


@torch.no_grad()
@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=str)
def test_a_network_without_finite_weights_finds_nothing(bad: float) -> None:
    made = make()
    made.network.eval()
    assert isinstance(made.network, RFBNet)
    for head in (*made.network.boxes, *made.network.classes):
        convolutions(head)[0].weight.fill_(bad)
    found = made.detect(batch_of([7], [(300, 200)]))
    assert [len(part) for part in vars(found).values()] == [0, 0, 0, 0]


def test_an_image_is_judged_without_regard_to_its_batch() -> None:
    """What is found in it alone, and among others in any place."""
    offsets, logits = unsure(3)
    stream = torch.Generator().manual_seed(0)
    boxes = [apart(80, seed) for seed in range(3)]
    for image, own in enumerate(boxes):
        chosen = torch.randperm(COUNT, generator=stream)[: len(own)]
        offsets[image, chosen] = encode(own, priors()[chosen])
        logits[image, chosen] += 25 * torch.rand(len(own), 21, generator=stream)
    made, sizes = answering(offsets, logits), [(300, 200), (500, 375), (80, 90)]
    together = made.detect(batch_of([0, 1, 2], sizes)), made.detect(batch_of([2, 0, 1], [sizes[2], *sizes[:2]]))
    for image in range(3):
        alone = made.detect(batch_of([image], sizes[image : image + 1]))
        assert len(alone.labels) > 20
        for found, place in zip(together, (image, (image + 1) % 3), strict=True):
            chosen = found.images == place
            for name in ("labels", "boxes", "scores"):
                torch.testing.assert_close(getattr(found, name)[chosen], getattr(alone, name), rtol=1e-5, atol=1e-3)


@torch.no_grad()
def test_the_networks_answers_do_not_depend_on_the_batch(narrow: RFBNet) -> None:
    images = torch.randn(2, 3, 300, 300, generator=torch.Generator().manual_seed(3))
    for both, one in zip(narrow(images), narrow(images[1:]), strict=True):
        torch.testing.assert_close(both[1:], one, rtol=1e-3, atol=1e-4)


# --- examples ------------------------------------------------------------------------------------------------------


def ramps() -> tuple[Tensor, Tensor, Tensor]:
    """A picture (3, 200, 240) of gray: what is of class 3 gets lighter to the right, what is of class 7 downwards."""
    image = torch.full((3, 200, 240), 10, dtype=torch.uint8)
    ramp = torch.linspace(40, 200, 80).to(torch.uint8)
    image[:, 20:100, 30:110] = ramp[None, None, :]
    image[:, 100:180, 140:220] = ramp[None, :, None]
    return image, torch.tensor([[30.0, 20.0, 110.0, 100.0], [140.0, 100.0, 220.0, 180.0]]), torch.tensor([3, 7])


class OnePart:
    """Of one image, in a part's place."""

    def __init__(self, image: Tensor, boxes: Tensor, labels: Tensor) -> None:
        self.photos, self.objects = [image], [Objects(boxes, labels - 1, torch.zeros(len(labels), dtype=torch.bool))]

    def __len__(self) -> int:
        return 4


def contrasts(pixels: Tensor) -> tuple[float, float]:
    """How much lighter the right half is than the left one, and the lower than the upper one."""
    gray = pixels.float().mean(0)
    middle = gray.shape[0] // 2, gray.shape[1] // 2
    across = gray[:, middle[1] :].mean() - gray[:, : middle[1]].mean()
    down = gray[middle[0] :].mean() - gray[: middle[0]].mean()
    return float(across), float(down)


def test_augmented_boxes_stay_on_their_objects() -> None:
    """Inside the image, with their labels, in some mirrored, larger in some and smaller in others."""
    image, boxes, labels = ramps()
    example = make(augment="ssd").training_examples(OnePart(image, boxes, labels))  # type: ignore[arg-type]
    given_image, rising, widths = image.clone(), [], []
    torch.manual_seed(0)
    for _ in range(60):
        made = example(0)
        assert made["image"].shape == (3, 300, 300) and made["image"].dtype == torch.uint8
        assert len(made["boxes"]) == len(made["labels"]) <= 2 and made["labels"].dtype == torch.int64
        assert (made["boxes"] >= 0).all() and (made["boxes"] <= 1).all()
        assert ((made["boxes"][:, 2:] - made["boxes"][:, :2]) * 300 >= 1 - 1e-4).all()
        for (x1, y1, x2, y2), label in zip((300 * made["boxes"]).tolist(), made["labels"].tolist(), strict=True):
            pixels = made["image"][:, math.ceil(y1) : math.floor(y2), math.ceil(x1) : math.floor(x2)]
            if min(pixels.shape[1:]) < 12:
                continue
            across, down = contrasts(pixels)
            assert (abs(across) > abs(down)) == (label == 3)
            assert label == 3 or down > 0  # nothing is turned upside down
            rising += [across > 0] if label == 3 else []
            widths.append(x2 - x1)
    assert 0.25 < sum(rising) / len(rising) < 0.75 and len(rising) > 25
    assert min(widths) < 60 and max(widths) > 150  # 100 as published
    assert torch.equal(image, given_image)


def test_the_same_stream_makes_the_same_example(stand_in: Path) -> None:
    example = make(augment="ssd").training_examples(trained_on(stand_in))

    def drawn(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return [value for number in range(3) for value in example(number).values()]

    first, again, other = drawn(5), drawn(5), drawn(6)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize("augment", ["ssd", "none"])
def test_examples_of_the_stand_in_are_usable(stand_in: Path, augment: str) -> None:
    """Of a gray image, of one with an object of a pixel, and of one without objects."""
    part = trained_on(stand_in)
    example = make(augment=augment).training_examples(part)
    counts = [len(objects) for objects in part.objects]
    empty, full = counts.index(0), counts.index(max(counts))
    speck = next(n for n, own in enumerate(part.objects) if ((own.boxes[:, 2:] - own.boxes[:, :2]) == 1).all(1).any())
    torch.manual_seed(0)
    for number in (empty, full, speck, *range(8)):
        made = example(number)
        assert {name: type(value) for name, value in made.items()} == dict.fromkeys(
            ("image", "boxes", "labels"), Tensor
        )
        assert made["boxes"].shape == (len(made["labels"]), 4) and made["boxes"].dtype == torch.float32
        assert set(made["labels"].tolist()) <= {int(label) + 1 for label in part.objects[number].labels}
        assert number != empty or len(made["labels"]) == 0
        assert (made["boxes"] >= 0).all() and (made["boxes"] <= 1).all()


def test_without_augmentation_an_image_is_rescaled_and_nothing_else(stand_in: Path) -> None:
    part = trained_on(stand_in)
    made = make()
    example, tested = made.training_examples(part), made.evaluation_examples(part)
    for number in range(6):
        photo, found = part.photos[number], example(number)
        expected = F.interpolate(photo[None].float(), (300, 300), mode="bilinear", antialias=True)[0]
        assert float((found["image"].float() - expected).abs().max()) < 1.01
        height, width = photo.shape[1:]
        shares = part.objects[number].boxes / torch.tensor([width, height, width, height])
        torch.testing.assert_close(found["boxes"], shares, rtol=1e-5, atol=1e-6)
        assert torch.equal(found["labels"], part.objects[number].labels + 1)
        assert torch.equal(tested(number)["image"], found["image"])
        assert tested(number)["size"].tolist() == [height, width]


def test_a_batch_has_room_for_the_most_objects() -> None:
    torch.manual_seed(0)
    counts = (2, 0, 3)
    examples = [
        {
            "image": torch.full((3, 300, 300), n, dtype=torch.uint8),
            "boxes": torch.rand(n, 4),
            "labels": torch.arange(n) + 1,
        }
        for n in counts
    ]
    batch = make().collate(examples)
    assert batch["images"].shape == (3, 3, 300, 300) and batch["images"].dtype == torch.uint8
    assert batch["images"][:, 0, 0, 0].tolist() == [2, 0, 3]
    assert batch["labels"].tolist() == [[1, 2, 0], [0, 0, 0], [1, 2, 3]]
    for image, example in enumerate(examples):
        assert torch.equal(batch["boxes"][image, : counts[image]], example["boxes"])
    assert bool(batch["boxes"].isfinite().all())
    nothing = make().collate(examples[1:2] * 2)
    assert nothing["boxes"].shape == (2, 0, 4) and nothing["labels"].shape == (2, 0)


def test_test_images_come_with_their_sizes() -> None:
    image = torch.zeros(3, 300, 300, dtype=torch.uint8)
    batch = make().collate([{"image": image, "size": torch.tensor(size)} for size in ((10, 20), (30, 40))])
    assert batch.keys() == {"images", "sizes"} and batch["sizes"].tolist() == [[10, 20], [30, 40]]


def test_the_losses_are_the_multi_box_loss_of_normalised_images(stand_in: Path) -> None:
    made = make()
    example = made.training_examples(trained_on(stand_in))
    batch = made.collate([example(number) for number in (0, 1)])
    made.network.eval()  # so that running averages stay
    with torch.no_grad():
        found = made.losses(batch)
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        offsets, logits = made.network((batch["images"] / 255 - mean) / deviation)
        expected = multi_box(offsets, logits, batch["boxes"], batch["labels"], priors())
    assert list(found) == ["loss_boxes", "loss_classes"]
    torch.testing.assert_close(torch.stack(list(found.values())), torch.stack(expected), rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [1, 3, 13, 39])
def test_a_batch_of_a_single_image_is_refused(stand_in: Path, size: int) -> None:
    """Of 40 images one is left over, and its last map has a single cell to be normalised over."""
    made = built(settings(stand_in, batch_size=size))
    with pytest.raises(ConfigError, match=rf"batch_size={size} .* 40 .*data\.limit"):
        made.training_examples(trained_on(stand_in))


@pytest.mark.parametrize("size", [2, 14, 40, 64])
def test_the_last_batch_may_be_smaller(stand_in: Path, size: int) -> None:
    made = built(settings(stand_in, batch_size=size))
    assert made.training_examples(trained_on(stand_in))(0)["image"].shape == (3, 300, 300)


# --- VGG16's weights -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """Random weights under torchvision's names and shapes.

    Those of the linear layers overlap in memory, since they would take half a gigabyte: each row is the one before,
    moved by three, so that a wrong row or column is still another number.
    """
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in vgg16().state_dict().items()}
    stream = torch.Generator().manual_seed(0)
    made = {}
    for name, shape in shapes.items():
        if name.startswith("classifier") and len(shape) == 2:
            rows, columns = shape
            made[name] = torch.randn(3 * rows + columns, generator=stream).as_strided((rows, columns), (3, 1))
        else:
            fan_in = max(math.prod(shape[1:]), 1)
            made[name] = torch.randn(shape, generator=stream) * math.sqrt(2 / fan_in)
    return made


@pytest.fixture(scope="module")
def file(published: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(published, path)
    return path


@pytest.fixture(scope="module")
def begun(file: Path) -> RFBNet:
    """A network of full width that begins with these weights; to be read only."""
    torch.manual_seed(0)
    made = built(settings(model={"width": 64, "weights": str(file)})).network
    assert isinstance(made, RFBNet)
    return made


@pytest.fixture(scope="module")
def wanting() -> RFBNet:
    """A network of full width to be given wrong weights."""
    return RFBNet(64)


NUMBERS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""Of torchvision's convolutions, by stage; conv5_3 is the last."""


def test_every_convolution_gets_the_weights_of_its_place(begun: RFBNet, published: dict[str, Tensor]) -> None:
    for stage, numbers in zip(begun.stages, NUMBERS, strict=True):
        layers = convolutions(stage)
        for layer, number in zip(layers, numbers, strict=True):
            assert layer.bias is not None
            assert torch.equal(layer.weight, published[f"features.{number}.weight"])
            assert torch.equal(layer.bias, published[f"features.{number}.bias"])


def test_the_linear_layers_are_thinned(begun: RFBNet, published: dict[str, Tensor]) -> None:
    """Number by number: outputs 0, 4, 8, … of 4,096, and pixels 0, 3 and 6 of 7 in each direction."""
    six, seven = published["classifier.0.weight"], published["classifier.3.weight"]
    outputs, channels = torch.arange(1024), torch.arange(512)
    assert begun.fc6.weight.shape == (1024, 512, 3, 3) and begun.fc7.weight.shape == (1024, 1024, 1, 1)
    for row, column in itertools.product(range(3), repeat=2):
        places = channels * 49 + 3 * row * 7 + 3 * column
        assert torch.equal(begun.fc6.weight[:, :, row, column], six[4 * outputs[:, None], places])
    assert torch.equal(begun.fc7.weight[:, :, 0, 0], seven[4 * outputs[:, None], 4 * outputs])
    for layer, name in ((begun.fc6, "classifier.0.bias"), (begun.fc7, "classifier.3.bias")):
        assert layer.bias is not None and torch.equal(layer.bias, published[name][4 * outputs])


def test_convolutions_alone_leave_fc6_and_fc7_as_the_seed_makes_them(
    wanting: RFBNet, published: dict[str, Tensor]
) -> None:
    before = {name: value.clone() for name, value in wanting.state_dict().items() if not name.startswith("stages.")}
    alone = {name: value for name, value in published.items() if name.startswith("features.")}
    wanting.load_vgg(alone, Path("features.pth"))
    assert torch.equal(convolutions(wanting.stages[4])[2].weight, published["features.28.weight"])
    assert all(torch.equal(wanting.state_dict()[name], value) for name, value in before.items())


def test_a_head_of_another_width_leaves_fc6_and_fc7_as_the_seed_makes_them(published: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    narrow_head = RFBNet(64, 8)
    before = [layer.weight.clone() for layer in (narrow_head.fc6, narrow_head.fc7)]
    narrow_head.load_vgg(published, Path("vgg16.pth"))
    assert torch.equal(convolutions(narrow_head.stages[4])[2].weight, published["features.28.weight"])
    assert all(map(torch.equal, before, [layer.weight for layer in (narrow_head.fc6, narrow_head.fc7)]))


@torch.no_grad()
def test_convolutions_compute_what_torchvisions_do(begun: RFBNet, published: dict[str, Tensor]) -> None:
    """Up to conv5_3's ReLU, on an image whose sides can be halved four times."""
    with torch.device("meta"):
        features = vgg16().features
    own = {name.removeprefix("features."): value for name, value in published.items() if name.startswith("features.")}
    features.load_state_dict(own, assign=True)
    x = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    expected = {22: features[:23](x), 29: features[:30](x)}
    for stage, last in zip(begun.stages, (3, 8, 15, 22, 29), strict=True):
        x = stage(x)
        if last in expected:
            assert bool(x.any())
            torch.testing.assert_close(x, expected[last], rtol=1e-4, atol=1e-4)
        x = F.max_pool2d(x, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features.28.bias": None}, r"lacks 'features\.28\.bias': model\.weights must be torchvision's VGG16"),
        ({"features.0.weight": torch.zeros(8, 3, 3, 3)}, r"has the shape \(8, 3, 3, 3\), not \(64, 3, 3, 3\)"),
        ({"classifier.0.weight": None}, r"lacks 'classifier\.0\.weight'"),
        ({"classifier.3.bias": None}, r"lacks 'classifier\.3\.bias'"),
        ({"classifier.0.weight": torch.zeros(10, 512)}, "another classifier than VGG16's"),
    ],
    ids=["layer", "width", "no fc6", "no bias", "another fc6"],
)
def test_weights_of_another_network_are_refused(
    wanting: RFBNet, published: dict[str, Tensor], change: dict[str, Tensor | None], words: str
) -> None:
    changed = {name: value for name, value in {**published, **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=words) as raised:
        wanting.load_vgg(changed, Path("other.pth"))
    assert str(raised.value).startswith("other.pth") and str(raised.value).endswith(".")


def test_a_file_of_weights_that_cannot_be_used_is_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.width=64.*model\.weights=none"):
        make(weights=str(file))
    with pytest.raises(DataError, match=r"absent\.pth"):
        make(width=64, weights=str(tmp_path / "absent.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(DataError, match=r"text\.pth holds no weights"):
        make(width=64, weights=str(tmp_path / "text.pth"))


@pytest.mark.usefixtures("no_network")
def test_without_a_network_one_sentence_names_every_way_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        vgg.initial_weights("imagenet", vgg.FULL_WIDTH, tmp_path / "weights")
    said = str(raised.value)
    assert f"yourself as {tmp_path / 'weights'}" in said and said.count("\n") == 0
    assert "model.weights=PATH" in said and "model.weights=none" in said


@pytest.mark.parametrize("seed", range(2))
def test_the_loss_can_be_differentiated_twice(seed: int) -> None:
    offsets, logits, boxes, labels, near = random_batch(seed, counts=(2, 0), near=6)
    inputs = [part.double().requires_grad_() for part in (offsets, logits)]
    assert torch.autograd.gradgradcheck(
        lambda *own: sum(multi_box(*own, boxes.double(), labels, near.double())), inputs
    )
