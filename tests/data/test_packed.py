"""Images of different sizes in one tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tmsgd_bench.data.packed import Chosen, Packed, pack

SIZES = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=5)


def images(sizes: list[tuple[int, int]], channels: int, seed: int = 0) -> list[np.ndarray]:
    """Noise; without an axis for a single channel, as Pillow has it."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, size if channels == 1 else (*size, channels), np.uint8) for size in sizes]


def planes(image: np.ndarray) -> Tensor:
    """Channels first."""
    return torch.from_numpy(image if image.ndim == 3 else image[..., None]).permute(2, 0, 1)


@settings(deadline=None, max_examples=50)
@given(sizes=SIZES, channels=st.sampled_from([1, 3]))
def test_every_image_comes_out_as_it_went_in(sizes: list[tuple[int, int]], channels: int) -> None:
    given_images = images(sizes, channels)
    packed = pack(sizes, iter(given_images), channels)
    assert len(packed) == len(sizes)
    assert packed.pixels.shape == (channels * sum(height * width for height, width in sizes),)
    for number, image in enumerate(given_images):
        assert torch.equal(packed[number], planes(image))


@settings(deadline=None, max_examples=20)
@given(sizes=SIZES, channels=st.sampled_from([1, 3]))
def test_a_pack_is_made_again_from_its_tensors(sizes: list[tuple[int, int]], channels: int) -> None:
    packed = pack(sizes, images(sizes, channels), channels)
    tensors = packed.tensors("photos")
    assert set(tensors) == {"photos_pixels", "photos_starts", "photos_sizes"}
    again = Packed.of_tensors({**tensors, "masks_pixels": torch.zeros(0)}, "photos", channels)
    assert all(torch.equal(again[number], packed[number]) for number in range(len(packed)))


def test_an_image_is_a_view_of_the_pack() -> None:
    """So that none is copied before it is needed."""
    packed = pack([(2, 3), (4, 1)], images([(2, 3), (4, 1)], 3), 3)
    assert packed[1].untyped_storage().data_ptr() == packed.pixels.untyped_storage().data_ptr()
    assert packed[1].is_contiguous()


@pytest.mark.parametrize("sizes", [[(2, 2), (4, 4)], [(3, 5), (5, 4)]], ids=str)
def test_a_size_that_was_announced_otherwise_is_no_silent_mistake(sizes: list[tuple[int, int]]) -> None:
    wrong = [(height + 1, width) for height, width in sizes]
    with pytest.raises(RuntimeError):
        pack(sizes, images(wrong, 3), 3)


@settings(deadline=None, max_examples=50)
@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=4).filter(any),
    data=st.data(),
)
def test_images_of_several_packs_are_numbered_through(counts: list[int], data: st.DataObject) -> None:
    """Packs without any image too; in any order, and an image more than once."""
    sizes = [[(1 + number, 2) for number in range(count)] for count in counts]
    parts = [images(own, 3, seed) for seed, own in enumerate(sizes)]
    every = [image for part in parts for image in part]
    numbers = data.draw(st.lists(st.integers(0, len(every) - 1), max_size=6))
    packs = [pack(own, part, 3) for own, part in zip(sizes, parts, strict=True)]
    chosen = Chosen(packs, torch.tensor(numbers, dtype=torch.int64))
    assert len(chosen) == len(numbers)
    for place, number in enumerate(numbers):
        assert torch.equal(chosen[place], planes(every[number]))
