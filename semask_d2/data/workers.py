"""What a data-loading process does at its start and at its end, and how its batches travel."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import torch
from torch import Tensor

from semask_d2.utils.errors import UserError

Batch = list[dict[str, Any]]


def worker_settings(count: int, device: str) -> dict[str, Any]:
    """The arguments of a DataLoader with `count` processes, whose batches go to `device`.

    For a GPU they are in pinned memory, from which they cross while it computes.
    """
    collate: Callable[[Batch], Batch] = in_shared_memory if count else as_list
    start = partial(start_worker, parent=os.getpid())
    return {
        "num_workers": count,
        "collate_fn": collate,
        "worker_init_fn": start if count else None,
        "pin_memory": device.startswith("cuda") and torch.cuda.is_available(),
    }


def as_list(samples: Batch) -> Batch:
    """The samples as they are."""
    return samples


def in_shared_memory(samples: Batch) -> Batch:
    """The samples with their tensors in shared memory, from where the training process takes them.

    torch would move them in a thread of the queue, whose errors reach nobody: a full /dev/shm then hangs for ever. Here
    an error travels like any other.
    """
    try:
        for sample in samples:
            for value in sample.values() if isinstance(sample, dict) else ():
                if isinstance(value, Tensor):
                    value.share_memory_()
    except (RuntimeError, OSError) as error:
        full = UserError(f"no shared memory for a batch of {len(samples)} images ({' '.join(str(error).split())})")
        return [full]  # type: ignore[list-item] - Batches raises it in the training process
    return samples


def start_worker(_: int, *, parent: int) -> None:
    """Set up a data-loading process that the process `parent` started."""
    if os.getppid() != parent:  # which ended meanwhile: nobody would ever end this one
        os._exit(1)
    cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's threads on top of them would fight for the cores
    # Ctrl-C, and a signal to a whole job, reach every process of a group: this one is to serve the trainer until that
    # has written its checkpoint, and ends with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
