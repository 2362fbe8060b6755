"""Safe reading of pickles: only numpy arrays, tensors and plain containers, never code.

A pickle names the callables that rebuild its objects. Here each permitted name maps to a function that is safe with
any arguments, every other name is refused before anything is called, and a pickle can change only objects that it
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
    """A stand-in for `collections.OrderedDict`; drops attributes, such as the versions in torch's state dicts."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


def ordered_dict(items: Any = None, *_: Any) -> PlainDict:
    """Return the dict of a list of pairs, as Python 2 pickles it; later versions of Python give no arguments."""
    items = [] if items is None else items
    if not isinstance(items, list) or not all(type(pair) in (list, tuple) and is_key(pair[0]) for pair in items):
        raise pickle.UnpicklingError("a dict is not made of pairs")
    return PlainDict(items)


def storage_from_bytes(content: Any = None, *_: Any) -> Any:
    """Return a tensor's storage, which a plain pickle holds as an embedded torch file."""
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("a tensor is not made of bytes")
    return load_torch(io.BytesIO(content))


def tensor_from_storage(
    storage: Any = None, offset: Any = None, size: Any = None, stride: Any = None, *_: Any
) -> Tensor:
    """Return the tensor with this layout in its storage; raises an error if it would reach beyond the storage."""
    untyped = getattr(storage, "_untyped_storage", None)
    if type(storage) is not torch.storage.TypedStorage or type(untyped) is not torch.UntypedStorage:
        raise pickle.UnpicklingError("a tensor has no storage")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor has an invalid shape")
    if not all(type(number) is int and 0 <= number < 2**48 for number in (offset, *size, *stride)):
        raise pickle.UnpicklingError("a tensor has an invalid shape")
    empty = torch.empty(0, dtype=storage.dtype)
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if 0 not in size and (last + 1) * empty.element_size() > untyped.nbytes():
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return empty.set_(untyped, offset, size, stride)


def parameter(tensor: Any = None, *_: Any) -> Tensor:
    """Return a parameter's tensor."""
    if type(tensor) is not Tensor:
        raise pickle.UnpicklingError("a parameter is not a tensor")
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
    """A file that refuses reads beyond its end: a pickle may announce any length, and memory would be allocated."""

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


class PlainUnpickler(pickle._Unpickler):  # the Python version, since the C version cannot check opcodes or memory
    """Unpickles numbers, text, builtin containers, numpy arrays and scalars, and tensors; refuses everything else."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)
    read: Callable[[int], bytes]  # set by `load`, as is `append`
    append: Callable[[Any], None]

    def find_class(self, module: str, name: str) -> Any:
        try:
            return PICKLE_NAMES[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(foreign(f"{module}.{name}")) from None

    def load_bytearray8(self) -> None:
        """Read the content of a protocol 5 array; Python's version would allocate the announced length first."""
        self.append(self.read(struct.unpack("<Q", self.read(8))[0]))

    def refuse(self) -> None:
        raise pickle.UnpicklingError("it has an opcode that plain data does not need")

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    for _step in (pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.PERSID, pickle.BINPERSID):
        dispatch[_step[0]] = refuse
    for _step in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.FROZENSET, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
        dispatch[_step[0]] = refuse


def restrict(step: bytes, kinds: tuple[type, ...], depth: int, keys: slice | None = None) -> None:
    """Restrict an opcode of `PlainUnpickler` to objects of these kinds, `depth` below the stack's top (0: the mark).

    `keys` is the slice of the stack with the values that the opcode hashes.
    """
    inner = pickle._Unpickler.dispatch[step[0]]

    def checked(unpickler: Any) -> None:
        target = (unpickler.stack if depth else unpickler.metastack[-1])[-depth or -1]
        if type(target) not in kinds:
            raise pickle.UnpicklingError("it changes an object that is not a list, dict or array")
        if keys and not all(map(is_key, unpickler.stack[keys])):
            raise pickle.UnpicklingError("a key is not text or a number")
        inner(unpickler)

    PlainUnpickler.dispatch[step[0]] = checked


def is_key(value: Any) -> bool:
    """Return whether a dict may have this key; nested tuples are refused, since hashing them can overflow the stack."""
    return isinstance(value, ATOMS) or (isinstance(value, tuple) and all(isinstance(item, ATOMS) for item in value))


restrict(pickle.BUILD, (ArrayStandIn, DtypeStandIn, PlainDict), 2)
restrict(pickle.APPEND, (list,), 2)
restrict(pickle.APPENDS, (list,), 0)
restrict(pickle.SETITEM, (dict, PlainDict), 3, slice(-2, -1))
restrict(pickle.SETITEMS, (dict, PlainDict), 0, slice(0, None, 2))
restrict(pickle.ADDITEMS, (set,), 0, slice(0, None))


def load_pickle(file: IO[bytes]) -> Any:
    """Return the plain data of a pickle file; raises `pickle.UnpicklingError`, executing nothing, for other content."""
    return plain(PlainUnpickler(Bounded(file), encoding="latin1").load())


def load_torch(file: str | os.PathLike | IO[bytes]) -> Any:
    """Return the content of a torch file on the CPU: plain data, tensors and numpy arrays; errors as `load_pickle`."""
    check_torch_file(file)
    with torch.serialization.safe_globals([(value, name) for name, value in NUMPY_NAMES.items()]):
        try:
            return plain(torch.load(file, map_location="cpu", weights_only=True))
        except pickle.UnpicklingError as error:  # replaces torch's message, which advises running the file
            named = re.search(r"GLOBAL (\S+)", str(error))
            raise pickle.UnpicklingError(foreign(named[1]) if named else "it is not a pickle of plain data") from error


def foreign(name: str) -> str:
    """Return the error message for a file that names something outside the list."""
    return f"it names {name}, which is not plain data"
