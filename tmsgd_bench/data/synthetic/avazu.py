"""Synthetic data for Avazu: rows of ``train.csv``, in order of time; of any size, for measurements."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

VERSION = 1
ROWS = 12_000
COLUMNS = (
    *("id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category"),
    *("app_id", "app_domain", "app_category", "device_id", "device_ip", "device_model", "device_type"),
    *("device_conn_type", "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21"),
)
HEXADECIMAL = COLUMNS[5:14]
"""Columns whose values are eight hexadecimal digits; the others are whole numbers."""
VALUES = dict(
    zip(
        COLUMNS[3:],
        (7, 7, 4737, 7745, 26, 8552, 559, 36, 2_686_408, 6_729_486, 8251, 5, 4, 2626, 8, 9, 435, 4, 68, 172, 60),
        strict=True,
    )
)
"""About as many different values as the real columns have."""
FEW = {name: min(values, 40) for name, values in VALUES.items()} | {"device_id": 400, "device_ip": 2000}
"""So few that most of them occur several times in a small file."""
EFFECTS = {"site_id": 1.2, "app_id": 1.2, "device_model": 0.8, "C14": 1.2, "banner_pos": 0.5}
"""How much a value changes the log-odds of a click, at most."""
DAYS, HOURS = 10, 240
BASE = -1.7  # log-odds of the real mean click rate, about 0.17, a little lowered by the spread of the effects


def write(folder: Path) -> None:
    """Write ``train.csv``: the real header and formats, and clicks that depend on five of the columns."""
    write_csv(folder / "train.csv", ROWS, FEW)


def write_csv(path: Path, rows: int, values: Mapping[str, int] = VALUES, chunk: int = 200_000) -> None:
    """Write that many rows; the memory needed does not depend on their number.

    Args:
        values: how many different values each column has; small numbers of them are frequent, as in the real file.
    """
    rng = np.random.default_rng(14102100)
    with path.open("wb") as file:
        file.write((",".join(COLUMNS) + "\n").encode())
        for first in range(0, rows, chunk):
            table = _table(rng, np.arange(first, min(first + chunk, rows)), rows, values)
            pc.write_csv(table, file, pc.WriteOptions(include_header=False, quoting_style="none"))


def _table(rng: np.random.Generator, number: np.ndarray, rows: int, values: Mapping[str, int]) -> pa.Table:
    """The rows of these numbers out of ``rows``."""
    drawn = {name: _draw(rng, len(number), count) for name, count in values.items()}
    drawn["device_id"][rng.random(len(number)) < 0.8] = 0  # one value stands for "unknown", as in the real file
    odds = BASE + sum(size * _effect(drawn[name], salt) for salt, (name, size) in enumerate(EFFECTS.items()))
    odds = odds + 0.8 * _effect(drawn["site_id"] * 1009 + drawn["app_id"], 99)  # what no sum of values can express
    clicks = rng.random(len(number)) < 1.0 / (1.0 + np.exp(-odds))
    columns = {
        "id": rng.integers(1 << 63, size=len(number)),
        "click": clicks.astype(np.int8),
        "hour": _hour(number, rows),
    }
    for salt, (name, index) in enumerate(drawn.items()):
        columns[name] = _hexadecimal(index, salt) if name in HEXADECIMAL else index + 1000 * (name == "C1")
    return pa.table(columns)


def _draw(rng: np.random.Generator, rows: int, count: int) -> np.ndarray:
    """Numbers below ``count`` with the distribution function (x / count) ** (1 / 3): a long tail of rare ones."""
    uniform = rng.random(rows)
    return (count * (uniform * uniform * uniform)).astype(np.int64)


def _hour(number: np.ndarray, rows: int) -> np.ndarray:
    """YYMMDDHH of a row: the ten days from 21 October 2014 on, evenly and in order."""
    hour = number * HOURS // rows
    return 14102100 + hour // 24 * 100 + hour % 24


def _effect(index: np.ndarray, salt: int) -> np.ndarray:
    """A number between -1 and 1 for each value, always the same."""
    return (_mix(index, salt) >> np.uint64(40)).astype(np.float64) / (1 << 23) - 1.0


def _hexadecimal(index: np.ndarray, salt: int) -> pa.Array:
    """Eight hexadecimal digits for each value: different ones for different values."""
    number = (index.astype(np.uint64) * np.uint64(2_654_435_761) + np.uint64(salt * 97)) & np.uint64(0xFFFFFFFF)
    nibbles = (number[:, None] >> np.arange(28, -1, -4, dtype=np.uint64)) & np.uint64(15)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles.astype(np.intp)]
    offsets = np.arange(0, 8 * len(index) + 1, 8, dtype=np.int32)
    return pa.Array.from_buffers(pa.utf8(), len(index), [None, pa.py_buffer(offsets), pa.py_buffer(digits)])


def _mix(index: np.ndarray, salt: int) -> np.ndarray:
    """64 well-mixed bits of a number: the finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    bits = (index.astype(np.uint64) + np.uint64(salt + 1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
