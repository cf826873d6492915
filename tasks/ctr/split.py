"""Which rows of Avazu are for training, validation and testing: a seeded draw within every ten rows."""

from __future__ import annotations

import numpy as np
import torch

from tmsgd_bench.seeding import generator

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(len(SPLITS))
TEN = 10
GROUPS = 1 << 16
"""Groups of ten rows whose draws come from one stream."""


def split(rows: int) -> np.ndarray:
    """Which split each row of the file belongs to, as its place in ``SPLITS``: uint8, shape (rows,).

    Of every ten rows, a draw gives one to the test split and another one to the validation split. It is the same for
    every run, and does not depend on how many rows follow.
    """
    streams = [generator(0, "split", stream) for stream in range(rows // (TEN * GROUPS) + 1)]
    drawn = torch.cat([torch.randint(TEN * (TEN - 1), (GROUPS,), generator=stream) for stream in streams]).numpy()
    test = drawn % TEN
    validation = (test + 1 + drawn // TEN) % TEN
    groups, members = np.arange(len(drawn)), np.full((len(drawn), TEN), TRAIN, np.uint8)
    members[groups, test], members[groups, validation] = TEST, VALIDATION
    return members.ravel()[:rows]
