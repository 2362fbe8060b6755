"""What a data-loading process does at its start and at its end, and how its batches travel."""

from __future__ import annotations

import gc
import io
import os
import pickle
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
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
    """The samples with their tensors, however deep in them, in shared memory, from where the training takes them.

    torch would move them in a thread of the queue, whose errors reach nobody: a full /dev/shm then hangs for ever. Here
    an error travels like any other. NumPy's arrays stay, as they are copied through a pipe, which cannot be full.
    """
    try:
        _TensorSharer(_Nowhere()).dump(samples)
    except (RuntimeError, OSError) as error:
        full = UserError(f"no shared memory for a batch of {len(samples)} images ({' '.join(str(error).split())})")
        return [full]  # type: ignore[list-item] - Batches raises it in the training process
    return samples


class _Nowhere(io.RawIOBase):
    """A file that keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)


class _TensorSharer(pickle.Pickler):
    """Shares every tensor that pickling meets, whatever objects it is in, and writes neither these nor arrays."""

    def persistent_id(self, obj: Any) -> str | None:
        if isinstance(obj, Tensor):
            obj.share_memory_()
        return "left out" if isinstance(obj, Tensor | np.ndarray) else None


def start_worker(_: int, *, parent: int) -> None:
    """Set up a data-loading process that the process `parent` started."""
    if os.getppid() != parent:  # which ended meanwhile: nobody would ever end this one
        os._exit(1)
    gc.freeze()  # a collection would write to, and so copy, each page of the trainer's objects
    cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's threads on top of them would fight for the cores
    # Ctrl-C, and a signal to a whole job, reach every process of a group: this one is to serve the trainer until that
    # has written its checkpoint, and ends with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
