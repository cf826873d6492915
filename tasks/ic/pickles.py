"""Dictionaries of numbers, strings and arrays from pickles, without running anything that a pickle asks for.

A pickle is a program: it may import and call whatever it names. Here the few names that a numpy array needs stand for
a class that only writes down what it is told, and every other name is refused. numpy itself never sees the pickle's
instructions; an array is made from its bytes afterwards.
"""

from __future__ import annotations

import _codecs
import io
import pickle
from typing import Any

import numpy as np


class Noted:
    """What a pickle says of an array or of its type: the arguments it is called with, and its state."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def bytes_array(self) -> np.ndarray:
        """The array of bytes (uint8) that is described; read only.

        Raises:
            Exception: of many kinds, where something else is described.
        """
        _, shape, kind, by_columns, raw = self.state
        if kind.arguments[0] not in ("u1", b"u1") or not isinstance(raw, bytes):
            raise ValueError("its array is not one of bytes")
        return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_columns else "C")


KNOWN = {
    ("numpy", "dtype"): Noted,
    ("numpy", "ndarray"): Noted,
    ("numpy.core.multiarray", "_reconstruct"): Noted,
    ("numpy._core.multiarray", "_reconstruct"): Noted,  # since numpy 2
    ("_codecs", "encode"): _codecs.encode,  # how Python 3 writes bytes for Python 2
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("references to other files are not allowed")


def read(content: bytes) -> Any:
    """What a pickle holds, its arrays as :class:`Noted`, and strings of Python 2 as bytes.

    Raises:
        Exception: of many kinds, for a damaged pickle; pickle.UnpicklingError for one that names anything else.
    """
    return _Reader(io.BytesIO(content), encoding="bytes").load()
