"""Setup of data-loading processes, and the transfer of their batches."""

from __future__ import annotations

import gc
import io
import multiprocessing
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
    """Return the arguments of a DataLoader with `count` processes, whose batches go to `device`.

    Batches for a GPU are put in pinned memory, so that copying overlaps with computing.
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
    """Return the samples unchanged."""
    return samples


def in_shared_memory(samples: Batch) -> Batch:
    """Move all tensors of the samples, nested ones too, to shared memory, from which the training process reads them.

    torch would move them in a thread of the queue, where errors are lost, so a full /dev/shm would hang forever. Here
    the error reaches the training process. NumPy arrays are left alone: they are copied through a pipe, which cannot
    run full.
    """
    try:
        _TensorSharer(_Nowhere()).dump(samples)
    except (RuntimeError, OSError) as error:
        full = UserError(f"no shared memory for a batch of {len(samples)} images ({' '.join(str(error).split())})")
        return [full]  # type: ignore[list-item] - Batches raises it in the training process
    return samples


class _Nowhere(io.RawIOBase):
    """A file that discards everything."""

    def write(self, data: Any) -> int:
        return len(data)


class _TensorSharer(pickle.Pickler):
    """Moves every tensor that pickling reaches to shared memory, and writes neither tensors nor arrays."""

    def persistent_id(self, obj: Any) -> str | None:
        if isinstance(obj, Tensor):
            obj.share_memory_()
        return "left out" if isinstance(obj, Tensor | np.ndarray) else None


def start_worker(_: int, *, parent: int) -> None:
    """Set up a data-loading process that the process `parent` started."""
    started_for = multiprocessing.parent_process()  # with "forkserver", another process than the one of `getppid`
    if os.getppid() != parent and (started_for is None or not started_for.is_alive()):
        os._exit(1)  # the parent has already ended, and nothing would ever stop this process
    gc.freeze()  # garbage collection would write to, and so copy, each page of the trainer's objects
    cv2.setNumThreads(0)  # the workers run in parallel already; OpenCV's threads would compete for the cores
    # Ctrl-C, and a signal to a whole job, reach every process of the group. A worker must serve the trainer until the
    # trainer has written its checkpoint, and ends with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
