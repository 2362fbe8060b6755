"""Want of memory, as it shows in errors, and how much a process has taken."""

from __future__ import annotations

import sys

import cv2
import torch

TEXTS = ("out of memory", "not enough memory", "DefaultCPUAllocator", "STATUS_ALLOC_FAILED")  # of torch and its parts


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is for want of memory, the processor's or a GPU's."""
    if isinstance(error, cv2.error):
        return error.code == cv2.Error.StsNoMem
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS)


def peak_memory() -> int:
    """The largest memory so far, in bytes: allocated on the GPU if there is one, else resident in this process.

    0 where the system does not tell (Windows).
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
