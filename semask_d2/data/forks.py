"""Work of a model on a CPU, spread over processes of one thread that are forks of this one.

A model has many operators that are too small for several threads, and files are read, drawn and scored by one thread,
so that processes of one thread each handle more images per second than one process of as many threads. As forks, they
share the memory of the weights.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.data import DataLoader

from semask_d2.data.parallel import FEW, Mapped, usable_cores
from semask_d2.data.workers import worker_settings
from semask_d2.modeling.kernels.graphs import is_compiled
from semask_d2.utils.memory import available_memory, keep_freed_memory, peak_resident_memory, resident_memory

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

SHARE = 0.5  # of the available memory, which the forks may fill; other images may be larger than the first one


class Needed(Mapped[Item, int]):
    """A dataset of the bytes that a function needs beyond what its process shares with the main process."""

    def __getitem__(self, index: int) -> int:
        before = resident_memory()
        super().__getitem__(index)
        return peak_resident_memory() - before


def forked(model: nn.Module, function: Callable[[Item], Any], items: Sequence[Item]) -> DataLoader | None:
    """Return a loader of batches of one result, in order, or None if this process should do the work itself.

    `function` calls `model`, and returns its errors. There are as many forks as torch has threads, or as fit into
    memory if each needs as much as the first item does. There are none for a model on a GPU or a compiled one, for a
    few items, on one thread, and on systems other than Linux.
    """
    threads = min(torch.get_num_threads(), usable_cores())
    if sys.platform != "linux" or threads < 2 or len(items) < FEW or not runs_in_forks(model):
        return None
    ((needed,),) = loader_of(Needed(function, items[:1]), 1)
    available = available_memory()
    forks = min(threads, int(SHARE * available / max(needed, 1))) if available else threads
    if forks < 2:
        return None
    text = "%d processes of one thread, of %.0f MB beyond the model each; DATALOADER.NUM_WORKERS 0 works in one process"
    logger.info(text, forks, needed / 2**20)
    return loader_of(Mapped(function, items), forks)


def runs_in_forks(model: nn.Module) -> bool:
    """Return whether a fork of this process can call the model.

    It must be a model of torch on the CPU, not compiled; compiled code and other runtimes keep threads, which a fork
    does not have.
    """
    devices = {parameter.device.type for parameter in model.parameters()}
    return devices == {"cpu"} and not any(map(is_compiled, model.modules()))


def loader_of(results: Mapped, forks: int) -> DataLoader:
    """Return the loader of single results by `forks` forks of this process, which draws no random number."""
    settings = worker_settings(forks, "cpu")
    settings["worker_init_fn"] = partial(start_fork, start=settings["worker_init_fn"])
    return DataLoader(results, batch_size=1, multiprocessing_context="fork", generator=torch.Generator(), **settings)


def start_fork(number: int, *, start: Callable[[int], None]) -> None:
    """Set up a fork for a model; `start` sets it up as a data-loading process."""
    start(number)
    keep_freed_memory()
