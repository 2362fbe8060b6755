"""Want of memory, as it shows in errors, and how much a process has taken."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cv2
import torch

# What torch and the libraries beneath it say. A "primitive" is oneDNN's word for an operator with its buffers; an error
# of a primitive descriptor is another, of an operator that it lacks.
MESSAGES = re.compile(
    "out of memory|not enough memory|DefaultCPUAllocator|STATUS_ALLOC_FAILED|bad_alloc|bad allocation"
    "|could not create a primitive(?! desc)|could not create a memory|[Ff]ailed to allocate memory"
)

STATUS = Path("/proc/self/status")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is for want of memory, the processor's or a GPU's."""
    if isinstance(error, cv2.error):
        return error.code == cv2.Error.StsNoMem
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and MESSAGES.search(str(error)) is not None


def peak_memory() -> int:
    """The largest memory so far, in bytes: allocated on the GPU if there is one, else resident in this process.

    0 where the system does not tell (Windows).
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if STATUS.exists():  # getrusage starts from the memory of the process that started this one
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
