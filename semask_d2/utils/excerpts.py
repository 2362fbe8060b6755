"""Excerpts of long lists: evenly spread items, and the first items as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

FEW = 3


def few(values: Iterable[object], separator: str = ", ", count: int = FEW, *, total: int | None = None) -> str:
    """Return the first `count` values as text, followed by the number of the others.

    `total` is the number of all values, if only the first ones are given.
    """
    texts = [str(value) for value in values]
    more = (total or len(texts)) - count
    return separator.join(texts[:count]) + (f" and {more} more" if more > 0 else "")


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` of `items`, evenly spread, the first and the last included."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)]
