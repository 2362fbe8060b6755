"""Tensors that a file brings in own their memory: no element of one lies where another element lies.

A file may describe a tensor of any shape over a single number, or two over the same numbers. Compiled code that changes
tensors in place, such as a fused optimizer, takes each of its elements to be there, and writes beyond such memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from semask_d2.checkpoint.containers import map_leaves

MAX_REPEATED = 2**26  # bytes that copies may take beyond the four times of what lies in the file
MAX_SHARES = 4  # as of weights that a file holds under several names


class Repeated(Exception):
    """A file whose tensors are far larger than what it holds; the text says which."""


def is_dense(value: Tensor) -> bool:
    """Return whether a strided tensor's elements lie side by side, each in a place of its own, in any order."""
    step = 1
    for stride, side in sorted(
        (stride, side) for stride, side in zip(value.stride(), value.shape, strict=True) if side > 1
    ):
        if stride != step:
            return False
        step *= side
    return True


class Owner:
    """Makes tensors own their memory; of several that lie in the same memory, the first keeps it."""

    def __init__(self) -> None:
        self.storages: set[int] = set()
        self.file_bytes = 0
        self.tensor_bytes = 0

    def tensor(self, value: Tensor, name: str) -> Tensor:
        """Return `value`, or a copy of it where it needs one. Only dense tensors of numbers are looked at."""
        if value.layout != torch.strided or value.is_meta or value.is_quantized or not value.numel():
            return value
        storage = value.untyped_storage()
        is_first = storage.data_ptr() not in self.storages
        self.storages.add(storage.data_ptr())
        self.file_bytes += storage.nbytes() if is_first else 0
        self.tensor_bytes += value.numel() * value.element_size()
        if self.tensor_bytes > MAX_SHARES * self.file_bytes + MAX_REPEATED:
            raise Repeated(f"{name} repeats its numbers to a size of {tuple(value.shape)}; save a copy of it")
        if is_first and is_dense(value) and not value.is_neg() and not value.is_conj():
            return value
        return value.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)

    def within(self, value: Any) -> Any:
        """Return `value`, however deep in dicts, lists and tuples, with all its tensors owning their memory."""
        return map_leaves(value, lambda leaf, name: self.tensor(leaf, name) if isinstance(leaf, Tensor) else leaf)
