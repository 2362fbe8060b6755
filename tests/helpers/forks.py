"""Forks in tests: as many threads and cores as a test needs, whatever the machine has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from semask_d2.data import forks


@contextmanager
def threads_and_cores(count: int) -> Iterator[pytest.MonkeyPatch]:
    """Let torch use `count` threads on as many cores; yields the patches of `forks`, which are undone at the end."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forks, "usable_cores", lambda: count)
        torch.set_num_threads(count)
        yield patch
        torch.set_num_threads(before)


@contextmanager
def two_forks_for_few_items() -> Iterator[None]:
    """Let two forks work however few items there are."""
    with threads_and_cores(2) as patch:
        patch.setattr(forks, "FEW", 2)
        yield
