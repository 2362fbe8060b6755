"""Replacement for `detectron2.utils.comm`: communication between processes; without a process group there is one."""

from __future__ import annotations

import functools
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist

_local_group: dist.ProcessGroup | None = None


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Return the number of processes on all machines."""
    return dist.get_world_size() if _is_distributed() else 1


def get_rank() -> int:
    """Return this process's rank among all processes."""
    return dist.get_rank() if _is_distributed() else 0


def get_local_rank() -> int:
    """Return this process's rank on its machine; a distributed run calls `create_local_process_group` first."""
    if not _is_distributed():
        return 0
    assert _local_group is not None, "call comm.create_local_process_group after init_process_group"
    return dist.get_rank(group=_local_group)


def is_main_process() -> bool:
    """Return whether this is rank 0."""
    return get_rank() == 0


@functools.lru_cache
def create_local_process_group(num_workers_per_machine: int) -> None:
    """Group the ranks of each machine, numbered machine by machine; all processes must call it."""
    global _local_group
    assert get_world_size() % num_workers_per_machine == 0
    for start in range(0, get_world_size(), num_workers_per_machine):
        ranks = list(range(start, start + num_workers_per_machine))
        group = dist.new_group(ranks)
        if get_rank() in ranks:
            _local_group = cast("dist.ProcessGroup", group)  # ranks outside the group get a placeholder number


def synchronize() -> None:
    """Wait until all processes have reached this call."""
    if get_world_size() > 1:
        over_nccl = dist.get_backend() == dist.Backend.NCCL  # without device_ids it guesses the device and warns
        dist.barrier(device_ids=[torch.cuda.current_device()] if over_nccl else None)


@functools.lru_cache
def _cpu_group() -> dist.ProcessGroup:
    """Return a gloo group of all ranks, so that pickled objects do not pass through GPU memory."""
    group = dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else dist.group.WORLD
    return cast("dist.ProcessGroup", group)


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Return every rank's picklable `data`, in rank order, on every rank."""
    return _exchange(data, group, None)


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Return every rank's picklable `data`, in rank order, on rank `dst`, and an empty list on the others."""
    return _exchange(data, group, dst)


def _exchange(data: Any, group: dist.ProcessGroup | None, receiver: int | None) -> list[Any]:
    """Return the data of all ranks, only on rank `receiver` if one is given."""
    if not _is_distributed():
        return [data]
    members = group or _cpu_group()
    receives = receiver in (None, get_rank())
    parts: list[Any] = [None] * dist.get_world_size(members) if receives else []
    if receiver is None:
        dist.all_gather_object(parts, data, group=members)
    else:
        dist.gather_object(data, parts if receives else None, dst=receiver, group=members)
    return parts


def shared_random_seed() -> int:
    """Return the same random number on all ranks, drawn from NumPy's state on rank 0; all must call it."""
    return all_gather(np.random.randint(2**31))[0]  # noqa: NPY002 - `seed_all_rng` seeds this state
