"""Memory ownership of loaded tensors: no two elements share memory.

A file may describe a tensor of any shape over a single number, or two tensors over the same numbers. Compiled code that
changes tensors in place, such as a fused optimizer, assumes memory for every element, and would write out of bounds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from semask_d2.checkpoint.containers import map_leaves

MAX_REPEATED = 2**26  # bytes that tensors may take beyond MAX_SHARES times the file's
MAX_SHARES = 4  # how often tensors may share memory, as weights under several names do


class Repeated(Exception):
    """Error for a file whose tensors are far larger than its data; the text names a tensor."""


def is_dense(value: Tensor) -> bool:
    """Return whether a strided tensor's elements fill contiguous memory without overlap, in any order of dimensions."""
    step = 1
    for stride, side in sorted(
        (stride, side) for stride, side in zip(value.stride(), value.shape, strict=True) if side > 1
    ):
        if stride != step:
            return False
        step *= side
    return True


class Owner:
    """Makes tensors own their memory; if several share memory, the first keeps it and the others are copied."""

    def __init__(self) -> None:
        self.storages: set[int] = set()
        self.file_bytes = 0
        self.tensor_bytes = 0

    def tensor(self, value: Tensor, name: str) -> Tensor:
        """Return `value`, or a copy if it does not own its memory; tensors that are not strided are returned as is."""
        if value.layout != torch.strided or value.is_meta or value.is_quantized or not value.numel():
            return value
        storage = value.untyped_storage()
        is_first = storage.data_ptr() not in self.storages
        self.storages.add(storage.data_ptr())
        self.file_bytes += storage.nbytes() if is_first else 0
        self.tensor_bytes += value.numel() * value.element_size()
        if self.tensor_bytes > MAX_SHARES * self.file_bytes + MAX_REPEATED:
            raise Repeated(f"{name} repeats few numbers to the shape {tuple(value.shape)}; save a copy of it")
        if is_first and is_dense(value) and not value.is_neg() and not value.is_conj():
            return value
        return value.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)

    def within(self, value: Any) -> Any:
        """Return nested dicts, lists and tuples in which all tensors own their memory."""
        return map_leaves(value, lambda leaf, name: self.tensor(leaf, name) if isinstance(leaf, Tensor) else leaf)
