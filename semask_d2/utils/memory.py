"""Recognizing out-of-memory errors, and the peak memory of a process."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cv2
import torch

# Messages of torch and the libraries below it. oneDNN calls an operator with its buffers a "primitive". An error of a
# "primitive descriptor" is another error: an unsupported operator.
MESSAGES = re.compile(
    "out of memory|not enough memory|DefaultCPUAllocator|STATUS_ALLOC_FAILED|bad_alloc|bad allocation"
    "|could not create a primitive(?! desc)|could not create a memory|[Ff]ailed to allocate memory"
)

STATUS = Path("/proc/self/status")


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, of the CPU or of a GPU."""
    if isinstance(error, cv2.error):
        return error.code == cv2.Error.StsNoMem
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and MESSAGES.search(str(error)) is not None


def peak_memory() -> int:
    """Return the peak memory in bytes: allocated on the GPU if there is one, else resident in this process.

    Returns 0 if the system does not report it (Windows).
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if STATUS.exists():  # preferred, since getrusage includes the memory of the parent process
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
