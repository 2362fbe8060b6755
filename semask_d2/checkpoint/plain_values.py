"""What a pickle of weights may build: arrays, dtypes and numpy scalars of plain numbers, from any arguments safely.

A pickle names a class or function and gives arguments and a state of its own choosing. numpy's own classes make
pointers of them if asked to, so a file meets these stand-ins alone: Python objects that check what they are given
and make an array only of a number type and as many bytes as its shape takes. `plain` puts the arrays in at the end.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from semask_d2.checkpoint.containers import map_leaves

NUMBERS = "biufc"  # the kinds of dtype that arrays may have: no objects, no records
NUMBER_TYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16)")  # those that torch has too
BYTE_ORDERS = ("<", ">", "=", "|")


class DtypeStandIn:
    """Stands for `numpy.dtype`; of the state of one, only the byte order counts."""

    __slots__ = ("dtype",)

    def __init__(self, spec: Any = None, *_: Any):
        if not isinstance(spec, str) or not NUMBER_TYPE.fullmatch(spec):
            raise pickle.UnpicklingError("an array of it holds no plain numbers")
        self.dtype = np.dtype(spec)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in BYTE_ORDERS:
            raise pickle.UnpicklingError("a dtype of it has no byte order")
        self.dtype = self.dtype.newbyteorder(state[1])


class ArrayStandIn:
    """Stands for `numpy.ndarray` and what rebuilds one; whatever it is called with, it is empty until its state."""

    __slots__ = ("array",)

    def __init__(self, *_: Any):
        self.array = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array of it has a state of no known form")
        _, shape, dtype, fortran, content = state
        self.array = array_of(content, dtype, shape, "F" if fortran is True or fortran == 1 else "C")


def array_of(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """The array of these bytes, which must be as many as its shape takes."""
    if isinstance(content, str):  # as Python 2 wrote bytes
        content = content.encode("latin1")
    if not isinstance(content, bytes) or not isinstance(dtype, DtypeStandIn):
        raise pickle.UnpicklingError("an array of it is not made of bytes and a dtype")
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise pickle.UnpicklingError("an array of it has a shape that is none")
    if math.prod(shape) * dtype.dtype.itemsize != len(content):
        raise pickle.UnpicklingError("an array of it has a shape for another number of bytes")
    return np.ndarray(shape, dtype.dtype, content, order="F" if order == "F" else "C")


def array_from_buffer(content: Any = None, dtype: Any = None, shape: Any = None, order: Any = "C", axes: Any = None):
    """The array of a protocol 5 pickle, as a stand-in."""
    if isinstance(content, bytearray):
        content = bytes(content)
    stand_in = ArrayStandIn()
    if axes is None:
        stand_in.array = array_of(content, dtype, shape, "F" if order == "F" else "C")
        return stand_in
    if not isinstance(axes, (tuple, list)) or not all(type(axis) is int for axis in axes):
        raise pickle.UnpicklingError("an array of it has axes that are none")
    stand_in.array = array_of(content, dtype, shape, "C").transpose(axes)
    return stand_in


def scalar(dtype: Any = None, content: Any = None, *_: Any) -> np.generic:
    """The numpy scalar with these bytes."""
    return array_of(content, dtype, (1,), "C")[0]


def latin1(text: Any = None, encoding: Any = None, *_: Any) -> bytes:
    """The bytes that old pickles hold as text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("it holds text in an encoding of its own")
    return text.encode("latin1")


def no_bytes(*_: Any) -> bytes:
    """The content of an empty array."""
    return b""


NUMPY_NAMES: dict[str, Callable] = {
    "numpy.ndarray": ArrayStandIn,
    "numpy.dtype": DtypeStandIn,
    "builtins.bytes": no_bytes,
    "__builtin__.bytes": no_bytes,  # as Python 2's protocols spell it
}
for _core in ("numpy.core", "numpy._core"):  # as numpy 1 and numpy 2 write it
    NUMPY_NAMES[f"{_core}.multiarray._reconstruct"] = ArrayStandIn
    NUMPY_NAMES[f"{_core}.multiarray.scalar"] = scalar
    NUMPY_NAMES[f"{_core}.numeric._frombuffer"] = array_from_buffer


def plain(value: Any) -> Any:
    """Return `value` with the arrays in the place of their stand-ins, however deep in its containers."""
    return map_leaves(value, _without_stand_in)


def _without_stand_in(value: Any, _: str) -> Any:
    if isinstance(value, ArrayStandIn):
        if getattr(value, "array", None) is None:
            raise pickle.UnpicklingError("an array of it has no content")
        return value.array
    return getattr(value, "dtype", None) if isinstance(value, DtypeStandIn) else value
