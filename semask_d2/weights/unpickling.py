"""Reading pickles that may hold numpy arrays, tensors and plain containers, and nothing that runs.

A pickle names the callables that rebuild its objects. Here each name maps to a rebuilding function that is safe with
any arguments, and every other name is refused before anything is called.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import IO, Any

import numpy as np
import torch

_core = getattr(np, "_core", None) or np.core  # numpy 2 renamed it; files hold the name of their writer's numpy

PLAIN_DTYPES = tuple(np.dtype(code) for code in "?bBhHiIlLqQefdFD")


def plain_dtype(spec: Any, align: bool = False, copy: bool = False) -> np.dtype:
    """The numpy dtype of plain numbers that `spec` names; any other (objects, records) is refused."""
    dtype = np.dtype(spec)
    if dtype not in PLAIN_DTYPES:
        raise pickle.UnpicklingError(f"arrays of {dtype} are no plain numbers")
    return np.dtype(dtype, copy=True)  # a copy, since the pickle then sets its byte order


def latin1(text: str, encoding: str = "latin1") -> bytes:
    """The bytes that old pickles hold as text."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text encoded as {encoding!r}")
    return text.encode("latin1")


def storage_from_bytes(content: bytes) -> Any:
    """A tensor's storage, which a plain pickle holds as a torch file of its own."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


NUMPY_GLOBALS: dict[str, Any] = {
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": plain_dtype,
    "_codecs.encode": latin1,
}
for _module in ("numpy.core", "numpy._core"):
    NUMPY_GLOBALS[f"{_module}.multiarray._reconstruct"] = _core.multiarray._reconstruct
    NUMPY_GLOBALS[f"{_module}.multiarray.scalar"] = _core.multiarray.scalar
    NUMPY_GLOBALS[f"{_module}.numeric._frombuffer"] = _core.numeric._frombuffer

PICKLE_GLOBALS: dict[str, Any] = NUMPY_GLOBALS | {
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
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not plain data") from None


def load_pickle(file: IO[bytes]) -> Any:
    """The plain data of a pickle file. Raises `pickle.UnpicklingError`, unexecuted, where it names anything else."""
    return PlainUnpickler(file, encoding="latin1").load()


def load_torch(path: Any) -> Any:
    """What a torch file holds, on the CPU: plain data, tensors, numpy arrays and scalars. Raises as `load_pickle`."""
    allowed: list[Any] = [(value, name) for name, value in NUMPY_GLOBALS.items() if name != "_codecs.encode"]
    # torch sets the state (byte order) only of objects whose class is listed
    allowed += list({type(dtype) for dtype in PLAIN_DTYPES})
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)
