"""Reading pickles that may hold numpy arrays, tensors and plain containers, and nothing that runs.

A pickle names the callables that rebuild its objects. Here each name maps to a rebuilding function that is safe with
any arguments, every other name is refused before anything is called, and what a pickle may change is only what it
built itself.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
from collections.abc import Callable
from typing import IO, Any, ClassVar

import torch
from torch import Tensor

from semask_d2.checkpoint.integrity import check_torch_file
from semask_d2.checkpoint.plain_values import NUMPY_NAMES, ArrayStandIn, DtypeStandIn, latin1, plain

ATOMS = (str, bytes, int, float, type(None))


class PlainDict(dict):
    """Stands for `collections.OrderedDict`; attributes, such as torch's versions of a state's parts, are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


def ordered_dict(items: Any = None, *_: Any) -> PlainDict:
    """The dict of these pairs, a list, as Python 2 gives them; later Pythons give none."""
    items = [] if items is None else items
    if not isinstance(items, list) or not all(type(pair) in (list, tuple) and is_key(pair[0]) for pair in items):
        raise pickle.UnpicklingError("a dict of it is made of no pairs")
    return PlainDict(items)


def storage_from_bytes(content: Any = None, *_: Any) -> Any:
    """A tensor's storage, which a plain pickle holds as a torch file of its own."""
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("a tensor of it is not made of bytes")
    return load_torch(io.BytesIO(content))


def tensor_from_storage(
    storage: Any = None, offset: Any = None, size: Any = None, stride: Any = None, *_: Any
) -> Tensor:
    """The tensor that lies so in its storage; nothing outside of the storage is in its reach."""
    untyped = getattr(storage, "_untyped_storage", None)
    if type(storage) is not torch.storage.TypedStorage or type(untyped) is not torch.UntypedStorage:
        raise pickle.UnpicklingError("a tensor of it has no storage")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor of it has a shape that is none")
    if not all(type(number) is int and 0 <= number < 2**48 for number in (offset, *size, *stride)):
        raise pickle.UnpicklingError("a tensor of it has a shape that is none")
    empty = torch.empty(0, dtype=storage.dtype)
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if 0 not in size and (last + 1) * empty.element_size() > untyped.nbytes():
        raise pickle.UnpicklingError("a tensor of it reaches beyond its storage")
    return empty.set_(untyped, offset, size, stride)


def parameter(tensor: Any = None, *_: Any) -> Tensor:
    """A parameter's tensor."""
    if type(tensor) is not Tensor:
        raise pickle.UnpicklingError("a parameter of it is no tensor")
    return tensor


PICKLE_NAMES: dict[str, Callable] = {
    **NUMPY_NAMES,
    "_codecs.encode": latin1,
    "collections.OrderedDict": ordered_dict,
    "torch._utils._rebuild_parameter": parameter,
    "torch._utils._rebuild_tensor_v2": tensor_from_storage,
    "torch.storage._load_from_bytes": storage_from_bytes,
}


class Bounded:
    """A file that gives no more than it has: a pickle may announce any length, and memory is taken by it."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        start = file.tell()
        self.left = file.seek(0, os.SEEK_END) - start
        file.seek(start)

    def read(self, count: int) -> bytes:
        if not 0 <= count <= self.left:
            raise EOFError("it ends too early")
        self.left -= count
        return self.file.read(count)

    def readline(self) -> bytes:
        line = self.file.readline()
        self.left -= len(line)
        return line


class PlainUnpickler(pickle._Unpickler):  # the one in Python, as in C neither steps nor memory can be checked
    """Unpickles numbers, text, builtin containers, numpy arrays and scalars, and tensors; refuses all else."""

    dispatch: ClassVar = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return PICKLE_NAMES[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(foreign(f"{module}.{name}")) from None

    def load_bytearray8(self) -> None:
        """A protocol 5 array's content; Python's own would fill as much memory as announced before it reads."""
        self.append(self.read(struct.unpack("<Q", self.read(8))[0]))

    def refuse(self) -> None:
        raise pickle.UnpicklingError("it has a step that plain data does not need")

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    for _step in (pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.PERSID, pickle.BINPERSID):
        dispatch[_step[0]] = refuse
    for _step in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.FROZENSET, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
        dispatch[_step[0]] = refuse


def on_own(step: bytes, kinds: tuple[type, ...], depth: int, keys: slice | None = None) -> None:
    """Let a step of `PlainUnpickler` change nothing but objects of these kinds, `depth` below the top (0: the mark).

    `keys` is where on the stack the step finds what it hashes.
    """
    inner = pickle._Unpickler.dispatch[step[0]]

    def checked(unpickler: Any) -> None:
        target = (unpickler.stack if depth else unpickler.metastack[-1])[-depth or -1]
        if type(target) not in kinds:
            raise pickle.UnpicklingError("it changes what is no list, dict or array")
        if keys and not all(map(is_key, unpickler.stack[keys])):
            raise pickle.UnpicklingError("a key of it is no text or number")
        inner(unpickler)

    PlainUnpickler.dispatch[step[0]] = checked


def is_key(value: Any) -> bool:
    """Whether a dict may have this key: Python hashes tuples of tuples until its stack overflows."""
    return isinstance(value, ATOMS) or (isinstance(value, tuple) and all(isinstance(item, ATOMS) for item in value))


on_own(pickle.BUILD, (ArrayStandIn, DtypeStandIn, PlainDict), 2)
on_own(pickle.APPEND, (list,), 2)
on_own(pickle.APPENDS, (list,), 0)
on_own(pickle.SETITEM, (dict, PlainDict), 3, slice(-2, -1))
on_own(pickle.SETITEMS, (dict, PlainDict), 0, slice(0, None, 2))
on_own(pickle.ADDITEMS, (set,), 0, slice(0, None))


def load_pickle(file: IO[bytes]) -> Any:
    """The plain data of a pickle file. Raises `pickle.UnpicklingError`, unexecuted, where it names anything else."""
    return plain(PlainUnpickler(Bounded(file), encoding="latin1").load())


def load_torch(file: str | os.PathLike | IO[bytes]) -> Any:
    """What a torch file holds, on the CPU: plain data, tensors, numpy arrays and scalars. Raises as `load_pickle`."""
    check_torch_file(file)
    with torch.serialization.safe_globals([(value, name) for name, value in NUMPY_NAMES.items()]):
        try:
            return plain(torch.load(file, map_location="cpu", weights_only=True))
        except pickle.UnpicklingError as error:  # torch's own text advises to run the file
            named = re.search(r"GLOBAL (\S+)", str(error))
            raise pickle.UnpicklingError(foreign(named[1]) if named else "it is no pickle of plain data") from error


def foreign(name: str) -> str:
    """What is wrong with a file that names something outside the list."""
    return f"it names {name}, which is not plain data"
