"""Objects that a pickle of weights may build: arrays, dtypes and numpy scalars of plain numbers, safe for any input.

A pickle names a class or function, and chooses its arguments and state freely. numpy's classes would turn them into
pointers, so a pickle only reaches these stand-ins: Python objects that validate their input, and make an array only
from a number type and exactly as many bytes as its shape needs. `plain` replaces the stand-ins by arrays at the end.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from semask_d2.checkpoint.containers import map_leaves

NUMBERS = "biufc"  # the permitted kinds of dtype: no objects, no records
NUMBER_TYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16)")  # the types that torch has, too
BYTE_ORDERS = ("<", ">", "=", "|")


class DtypeStandIn:
    """A stand-in for `numpy.dtype`; only the byte order of its state is used."""

    __slots__ = ("dtype",)

    def __init__(self, spec: Any = None, *_: Any):
        if not isinstance(spec, str) or not NUMBER_TYPE.fullmatch(spec):
            raise pickle.UnpicklingError("an array does not hold plain numbers")
        self.dtype = np.dtype(spec)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in BYTE_ORDERS:
            raise pickle.UnpicklingError("a dtype has an invalid byte order")
        self.dtype = self.dtype.newbyteorder(state[1])


class ArrayStandIn:
    """A stand-in for `numpy.ndarray` and `_reconstruct`; ignores its arguments, and is empty until its state is set."""

    __slots__ = ("array",)

    def __init__(self, *_: Any):
        self.array = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array has a state in an unknown format")
        _, shape, dtype, fortran, content = state
        self.array = array_of(content, dtype, shape, "F" if fortran is True or fortran == 1 else "C")


def array_of(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """Return the array with these bytes; their number must match the shape."""
    if isinstance(content, str):  # Python 2 wrote bytes as text
        content = content.encode("latin1")
    if not isinstance(content, bytes) or not isinstance(dtype, DtypeStandIn):
        raise pickle.UnpicklingError("an array is not made of bytes and a dtype")
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise pickle.UnpicklingError("an array has an invalid shape")
    if math.prod(shape) * dtype.dtype.itemsize != len(content):
        raise pickle.UnpicklingError("an array's shape does not match its number of bytes")
    return np.ndarray(shape, dtype.dtype, content, order="F" if order == "F" else "C")


def array_from_buffer(content: Any = None, dtype: Any = None, shape: Any = None, order: Any = "C", axes: Any = None):
    """Return a stand-in for the array of a protocol 5 pickle."""
    if isinstance(content, bytearray):
        content = bytes(content)
    stand_in = ArrayStandIn()
    if axes is None:
        stand_in.array = array_of(content, dtype, shape, "F" if order == "F" else "C")
        return stand_in
    if not isinstance(axes, (tuple, list)) or not all(type(axis) is int for axis in axes):
        raise pickle.UnpicklingError("an array has invalid axes")
    stand_in.array = array_of(content, dtype, shape, "C").transpose(axes)
    return stand_in


def scalar(dtype: Any = None, content: Any = None, *_: Any) -> np.generic:
    """Return the numpy scalar with these bytes."""
    return array_of(content, dtype, (1,), "C")[0]


def latin1(text: Any = None, encoding: Any = None, *_: Any) -> bytes:
    """Return the bytes that old pickles hold as text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it holds text in an unknown encoding")
    return text.encode("latin1")


def no_bytes(*_: Any) -> bytes:
    """Return the content of an empty array."""
    return b""


NUMPY_NAMES: dict[str, Callable] = {
    "numpy.ndarray": ArrayStandIn,
    "numpy.dtype": DtypeStandIn,
    "builtins.bytes": no_bytes,
    "__builtin__.bytes": no_bytes,  # the name in Python 2's protocols
}
for _core in ("numpy.core", "numpy._core"):  # the names in numpy 1 and numpy 2
    NUMPY_NAMES[f"{_core}.multiarray._reconstruct"] = ArrayStandIn
    NUMPY_NAMES[f"{_core}.multiarray.scalar"] = scalar
    NUMPY_NAMES[f"{_core}.numeric._frombuffer"] = array_from_buffer


def plain(value: Any) -> Any:
    """Return `value` with all stand-ins replaced by their arrays, also in nested containers."""
    return map_leaves(value, _without_stand_in)


def _without_stand_in(value: Any, _: str) -> Any:
    if isinstance(value, ArrayStandIn):
        if getattr(value, "array", None) is None:
            raise pickle.UnpicklingError("an array has no content")
        return value.array
    return getattr(value, "dtype", None) if isinstance(value, DtypeStandIn) else value
