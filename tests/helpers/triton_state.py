"""What this process knows of Triton, forgotten for a test and after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from semask_d2.modeling.layers import triton_choice


@contextmanager
def fresh_triton_state() -> Iterator[None]:
    """No answer about Triton from before, and none left."""
    obstacle = triton_choice.obstacle

    def forget() -> None:
        obstacle.cache_clear()
        triton_choice.warn_once.cache_clear()
        triton_choice.FAILURES.clear()
        triton_choice.PASSED.clear()

    forget()
    yield
    forget()
