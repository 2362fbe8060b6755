"""Parallel work on files in data-loading processes, and functions that run on the main process for all others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, cast

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from semask_d2.d2 import comm
from semask_d2.data.workers import worker_settings
from semask_d2.utils.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

FEW = 16  # items below which processes take longer to start than to work


class Mapped(Dataset, Generic[Item, Result]):
    """A dataset of function results, each computed on access."""

    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]):
        self.function = function
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Result:
        return self.function(self.items[index])


def map_files(
    function: Callable[[Item], Result], items: Sequence[Item], *, what: str, workers: int | None = None
) -> Iterator[Result]:
    """Yield the result of `function` for each of `items`, in order, computed by `workers` processes.

    `workers` None means one per usable core, 0 this process. `what` labels the progress bar, which appears only on a
    terminal. An error raised by `function` ends the iteration; to collect errors, return them instead.
    """
    if workers is None:
        workers = 0 if len(items) < FEW else usable_cores()
    loader: Any = DataLoader(Mapped(function, items), batch_size=1, **worker_settings(min(workers, len(items)), "cpu"))
    for (result,) in tqdm(loader, desc=what, unit="file", disable=None, leave=False):
        yield result


def on_main_process(function: Callable[[], Result]) -> Result:
    """Call `function` on the main process only; every process returns its result or raises its UserError."""
    result: Result | UserError | None = None
    if comm.is_main_process():
        try:
            result = function()
        except UserError as error:
            result = error
    if comm.get_world_size() > 1:
        comm.all_gather(None)  # the others wait here, since its timeout is longest: 30 minutes, against 10 on NCCL
        received = [result]
        torch.distributed.broadcast_object_list(received, src=0)
        (result,) = received
    if isinstance(result, UserError):
        raise result
    return cast("Result", result)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
