"""The model's fields: which column each is made from, and the numbers of its values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tasks.ctr.text import FIELDS, characters, hexadecimal

RARE = 0
"""The first number of each field, for all of its values that are too rare or unknown."""

Key = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Field:
    """A categorical input of the model.

    Args:
        name: what it is called.
        column: the column of the file that it is made from.
        key: what of the column's values tells it apart: int64 to int64.
    """

    name: str
    column: str
    key: Key


def fields(hour: str) -> tuple[Field, ...]:
    """The fields in the order of their columns.

    Args:
        hour: "value" for the hour as it is, "split" for the hour of the day and the weekday in its place.
    """
    own = [Field(name, name, lambda values: values) for name in FIELDS]
    split = [Field("hour_of_day", "hour", hour_of_day), Field("weekday", "hour", weekday)]
    return tuple(own) if hour == "value" else (*split, *(field for field in own if field.name != "hour"))


def hour_of_day(hours: np.ndarray) -> np.ndarray:
    """0 to 23, of YYMMDDHH."""
    return hours % 100


def weekday(hours: np.ndarray) -> np.ndarray:
    """0 (Monday) to 6, of YYMMDDHH."""
    year, month, day = hours // 1_000_000 + 2000, hours // 10_000 % 100, hours // 100 % 100
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]").astype(np.int64) + day - 1
    return (days + 3) % 7  # 1 January 1970 was a Thursday


class Tally:
    """How often each value of a field occurs; lists are merged when they have doubled what is held.

    Values of eight hexadecimal digits are held as one word with their count, which is sorted about twice as fast as
    values of any kind with their counts beside them.

    Args:
        pending: entries that are gathered at least before they are merged.
    """

    def __init__(self, pending: int = 1 << 18) -> None:
        self.least = pending
        self.words: list[np.ndarray] = [np.zeros(0, np.uint64)]
        self.keys: list[np.ndarray] = [np.zeros(0, np.int64)]
        self.counts: list[np.ndarray] = [np.zeros(0, np.uint32)]
        self.waiting = 0

    def add(self, keys: np.ndarray, counts: np.ndarray) -> None:
        """Count some values (int64, shape (values,)), which may occur in the list several times (int32, the same)."""
        found, valid = hexadecimal(keys)
        self.words.append(_words(found[valid], counts[valid]))
        self.keys.append(keys[~valid])
        self.counts.append(counts[~valid].astype(np.uint32))
        self.waiting += len(keys)
        if self.waiting >= max(self.least, len(self.keys[0]) + len(self.words[0])):
            self._merge()

    def frequent(self, min_count: int) -> np.ndarray:
        """The values that occur at least so often, sorted."""
        self._merge()
        found, counts = _unpacked(self.words[0])
        own = [characters(found[counts >= min_count]), self.keys[0][self.counts[0] >= min_count]]
        return np.sort(np.concatenate(own))

    def _merge(self) -> None:
        words = np.concatenate(self.words)
        words.sort()
        self.words = [_words(*_summed(*_unpacked(words)))]
        keys, counts = np.concatenate(self.keys), np.concatenate(self.counts)
        order = keys.argsort()
        keys, counts = _summed(keys[order], counts[order])
        self.keys, self.counts, self.waiting = [keys], [counts], 0


def _words(numbers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """A number (uint32) and its count in one word (uint64), in the order of the numbers."""
    return numbers.astype(np.uint64) << 32 | counts.astype(np.uint64)


def _unpacked(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (words >> 32).astype(np.uint32), words.astype(np.uint32)


def _summed(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each of some sorted keys once, with the sum of its counts (uint32)."""
    last = np.flatnonzero(np.concatenate([keys[1:] != keys[:-1], keys[:1] == keys[:1]]))
    so_far = counts.cumsum(dtype=np.uint32).take(last)  # no sum is above 2 ** 32, so differences are right beyond it
    return keys.take(last), np.diff(so_far, prepend=np.uint32(0))


def numbers(vocabulary: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The number of each value: its place in the vocabulary, from 1; ``RARE`` for those that are not in it.

    Args:
        vocabulary: int64, sorted.
        keys: int64, shape (values,).

    Returns:
        int32, shape (values,).
    """
    found = np.full(len(keys), RARE, np.int32)
    if (keys[1:] < keys[:-1]).any():  # searched in order, a long vocabulary stays in the processor's cache
        order = keys.argsort()
        found[order] = numbers(vocabulary, keys[order])
        return found
    places = np.searchsorted(vocabulary, keys)
    known = np.flatnonzero(places < len(vocabulary))
    known = known[vocabulary[places[known]] == keys[known]]
    found[known] = places[known] + 1
    return found
