"""Triton in tests: resetting this process's state of it before and after a test, and breaking kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor

from semask_d2.modeling.kernels import triton_choice


@contextmanager
def fresh_triton_state() -> Iterator[None]:
    """Reset the cached checks of Triton before and after a test."""
    obstacle = triton_choice.obstacle

    def forget() -> None:
        obstacle.cache_clear()
        triton_choice.warn_once.cache_clear()
        triton_choice.FAILURES.clear()
        triton_choice.PASSED.clear()

    forget()
    yield
    forget()


def wrong(*parts: Tensor) -> Any:
    results = tuple(1.5 * part for part in parts)
    return results if len(results) > 1 else results[0]


def raising(*parts: Tensor) -> Any:
    raise CompilationError("no kernel image is available")


class CompilationError(Exception):
    """Stand-in for a compiler's error."""


# the kernel function to break, how to break it, and the words of the warning
BROKEN = (
    ("forward", wrong, r"differs from the formula by 0\.(5|49) "),
    ("forward", raising, "CompilationError: no kernel image"),
    ("backward", wrong, r"differs from the formula by 0\.(5|49) "),
)


def break_kernel(monkeypatch: pytest.MonkeyPatch, kernels: ModuleType, part: str, break_it: Callable) -> None:
    """Replace the kernel function `part` so that `break_it` changes its result."""
    kernel = getattr(kernels, part)

    def broken(*arguments: Any) -> Any:
        results = kernel(*arguments)
        return break_it(*(results if isinstance(results, tuple) else (results,)))

    monkeypatch.setattr(kernels, part, broken)
