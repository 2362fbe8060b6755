"""A data set's dicts as bytes, so that data-loading processes share them.

A process that reads an object of Python's writes to it, its count of references, and so gets a copy of the page it lies
in: with lists of dicts each of them ends up with a data set of its own. Bytes of one array stay shared.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from semask_d2.data.labels import LabelFormat


class SerializedDicts(Sequence[dict[str, Any]]):
    """Dicts, each pickled for itself into one array of bytes and made anew when it is asked for.

    What pickling reads here it has written here: nothing comes from a file. The label formats, of which a data set has
    one, are kept as they are.
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
        place = range(len(self))[index]  # also from the end; IndexError beyond
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
