"""Which rows of Avazu are for training, validation and testing: a seeded draw within every ten rows."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from tmsgd_bench.seeding import generator

SPLITS = ("train", "valid", "test")
TRAIN, VALID, TEST = range(len(SPLITS))
TEN = 10
GROUPS = 1 << 16
"""Groups of ten rows whose draws come from one stream."""


def split(first: int, rows: int) -> np.ndarray:
    """Which split each of some consecutive rows belongs to: uint8, shape (rows,).

    Of every ten rows of the file, a draw gives one to the test split and another one to the validation split. It is
    the same for every run, and does not depend on how many rows there are.
    """
    length = TEN * GROUPS
    streams = range(first // length, (first + rows - 1) // length + 1)
    start = first - streams[0] * length
    return np.concatenate([_members(stream) for stream in streams])[start : start + rows]


def grouped(first: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Some consecutive rows, split by split, and in each in their order.

    Returns:
        Their places among the given ones: int64, shape (rows,). How many belong to each split: int64, shape (3,).
    """
    member = split(first, rows)
    return member.argsort(kind="stable"), np.bincount(member, minlength=len(SPLITS))


@lru_cache(maxsize=4)
def _members(stream: int) -> np.ndarray:
    """The same of all rows whose draws come from one stream."""
    drawn = torch.randint(TEN * (TEN - 1), (GROUPS,), generator=generator(0, "split", stream)).numpy()
    test = drawn % TEN
    valid = (test + 1 + drawn // TEN) % TEN
    members = np.full((GROUPS, TEN), TRAIN, np.uint8)
    members[np.arange(GROUPS), test], members[np.arange(GROUPS), valid] = TEST, VALID
    return members.ravel()


def sizes_before(first: int) -> np.ndarray:
    """How many of the first rows of the file belong to each split: int64, shape (3,)."""
    whole = first // TEN
    rest = split(whole * TEN, first % TEN) if first % TEN else np.zeros(0, np.uint8)
    return whole * np.array([TEN - 2, 1, 1]) + np.bincount(rest, minlength=len(SPLITS))
