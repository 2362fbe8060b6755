"""A function over many files at once, in data-loading processes, and what the main process does for all others."""

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
    """The results of a function, each computed when it is asked for."""

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
    """The result of `function` for each of `items`, in their order, computed by `workers` processes.

    None takes as many as this process may use cores, 0 computes in this process. `what` stands before the progress bar,
    which only a terminal shows. An error of `function` ends the iteration: what is to be collected is to be returned.
    """
    if workers is None:
        workers = 0 if len(items) < FEW else usable_cores()
    loader: Any = DataLoader(Mapped(function, items), batch_size=1, **worker_settings(min(workers, len(items)), "cpu"))
    for (result,) in tqdm(loader, desc=what, unit="file", disable=None, leave=False):
        yield result


def on_main_process(function: Callable[[], Result]) -> Result:
    """The result of `function`, which the main process alone calls; each process has it, or raises its UserError."""
    result: Result | UserError | None = None
    if comm.is_main_process():
        try:
            result = function()
        except UserError as error:
            result = error
    if comm.get_world_size() > 1:
        comm.all_gather(None)  # the others wait here, where they do so longest: 30 minutes, on NCCL it is 10
        received = [result]
        torch.distributed.broadcast_object_list(received, src=0)
        (result,) = received
    if isinstance(result, UserError):
        raise result
    return cast("Result", result)


def usable_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
