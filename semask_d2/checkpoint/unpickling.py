"""Reading pickles that may hold numpy arrays, tensors and plain containers, and nothing that runs.

A pickle names the callables that rebuild its objects. Here each name maps to a rebuilding function that is safe with
any arguments, and every other name is refused before anything is called.
"""

from __future__ import annotations

import io
import os
import pickle
import re
from collections import OrderedDict
from typing import IO, Any

import numpy as np
import torch

NUMBERS = "biufc"  # the kinds of dtype that arrays may have: no objects, no records


class PlainDtype:
    """Stands for `numpy.dtype`, whose own state could turn numbers into object references."""

    def __init__(self, spec: str, align: bool = False, copy: bool = False):
        self.dtype = np.dtype(spec)
        if self.dtype.kind not in NUMBERS:
            raise pickle.UnpicklingError(f"arrays of {self.dtype} are no plain numbers")

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class PlainArray(np.ndarray):
    """Stands for `numpy.ndarray`, and takes only numbers as its content."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, fortran, content = state
        super().__setstate__((version, shape, dtype.dtype, fortran, content))


def empty_array(*_: Any) -> PlainArray:
    """The array that `PlainArray.__setstate__` then fills."""
    return np.ndarray.__new__(PlainArray, (0,), "b")


def array_from_buffer(
    content: bytes, dtype: PlainDtype, shape: tuple[int, ...], order: str, axes: tuple[int, ...] | None = None
) -> np.ndarray:
    """The array of a protocol 5 pickle."""
    array = np.frombuffer(content, dtype.dtype)
    return array.reshape(shape, order=order) if axes is None else array.reshape(shape).transpose(axes)


def scalar(dtype: PlainDtype, content: bytes) -> np.generic:
    """The numpy scalar with these bytes."""
    return np.frombuffer(content, dtype.dtype, count=1)[0]


def latin1(text: str, encoding: str) -> bytes:
    """The bytes that old pickles hold as text."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text encoded as {encoding!r}")
    return text.encode("latin1")


def no_bytes() -> bytes:
    """The content of an empty array."""
    return b""


def storage_from_bytes(content: bytes) -> Any:
    """A tensor's storage, which a plain pickle holds as a torch file of its own."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


NUMPY_GLOBALS: dict[str, Any] = {
    "numpy.ndarray": PlainArray,
    "numpy.dtype": PlainDtype,
    "builtins.bytes": no_bytes,
    "__builtin__.bytes": no_bytes,  # as Python 2's protocols spell it
}
for _core in ("numpy.core", "numpy._core"):  # as numpy 1 and numpy 2 write it
    NUMPY_GLOBALS[f"{_core}.multiarray._reconstruct"] = empty_array
    NUMPY_GLOBALS[f"{_core}.multiarray.scalar"] = scalar
    NUMPY_GLOBALS[f"{_core}.numeric._frombuffer"] = array_from_buffer

PICKLE_GLOBALS: dict[str, Any] = {
    **NUMPY_GLOBALS,
    "_codecs.encode": latin1,
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch.storage._load_from_bytes": storage_from_bytes,
}


class PlainUnpickler(pickle.Unpickler):
    """Unpickles numbers, text, builtin containers, numpy arrays and scalars, and tensors; refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return PICKLE_GLOBALS[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(foreign(f"{module}.{name}")) from None


def load_pickle(file: IO[bytes]) -> Any:
    """The plain data of a pickle file. Raises `pickle.UnpicklingError`, unexecuted, where it names anything else."""
    return PlainUnpickler(file, encoding="latin1").load()


def load_torch(path: str | os.PathLike) -> Any:
    """What a torch file holds, on the CPU: plain data, tensors, numpy arrays and scalars. Raises as `load_pickle`."""
    with torch.serialization.safe_globals([(value, name) for name, value in NUMPY_GLOBALS.items()]):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # torch's own text advises to run the file
            named = re.search(r"GLOBAL (\S+)", str(error))
            raise pickle.UnpicklingError(foreign(named[1]) if named else "it is no pickle of plain data") from error


def foreign(name: str) -> str:
    """What is wrong with a file that names something outside the list."""
    return f"it names {name}, which is not plain data"
