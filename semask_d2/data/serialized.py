"""The dicts of a dataset serialized to bytes, so that data-loading processes share their memory.

Reading a Python object writes to its reference count, which copies its memory page in a forked process: with lists of
dicts, each process ends up with a copy of the whole dataset. The bytes of one array stay shared.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from semask_d2.data.labels import LabelFormat


class SerializedDicts(Sequence[dict[str, Any]]):
    """Dicts, each pickled separately into one array of bytes, and unpickled on every access.

    Unpickling is safe here because this class wrote all the data itself; nothing comes from a file. Label formats, one
    per dataset, are kept as objects.
    """

    def __init__(self, dicts: Iterable[dict[str, Any]]):
        self._formats: list[LabelFormat] = []
        content, ends = io.BytesIO(), [0]
        for sample in dicts:
            _Writer(content, self._formats).dump(sample)
            ends.append(content.tell())
        self._bytes = np.frombuffer(content.getbuffer(), np.uint8)
        self._ends = np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # handles negative indices, and raises IndexError
        start, stop = self._ends[place : place + 2]
        return _Reader(io.BytesIO(self._bytes[start:stop].tobytes()), self._formats).load()


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, formats: list[LabelFormat]):
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.formats = formats

    def persistent_id(self, obj: Any) -> int | None:
        if not isinstance(obj, LabelFormat):
            return None
        if obj not in self.formats:
            self.formats.append(obj)
        return self.formats.index(obj)


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, formats: list[LabelFormat]):
        super().__init__(file)
        self.formats = formats

    def persistent_load(self, pid: Any) -> LabelFormat:
        return self.formats[pid]
