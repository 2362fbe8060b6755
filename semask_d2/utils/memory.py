"""Recognizing out-of-memory errors, the memory of a process, and what the machine has left."""

from __future__ import annotations

import ctypes
import re
import sys
from contextlib import suppress
from pathlib import Path

import cv2
import torch

# Messages of torch and the libraries below it. oneDNN calls an operator with its buffers a "primitive". An error of a
# "primitive descriptor" is another error: an unsupported operator.
MESSAGES = re.compile(
    "out of memory|not enough memory|DefaultCPUAllocator|STATUS_ALLOC_FAILED|bad_alloc|bad allocation"
    "|could not create a primitive(?! desc)|could not create a memory|[Ff]ailed to allocate memory"
)

STATUS, SYSTEM = Path("/proc/self/status"), Path("/proc/meminfo")
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of glibc's allocator
CONTROL_GROUP = Path("/sys/fs/cgroup")  # in a container, the one that limits its memory


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, of the CPU or of a GPU."""
    if isinstance(error, cv2.error):
        return error.code == cv2.Error.StsNoMem
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and MESSAGES.search(str(error)) is not None


def peak_memory() -> int:
    """Return the peak memory in bytes: allocated on the GPU if there is one, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_resident_memory()


def peak_resident_memory() -> int:
    """Return the peak of this process's resident memory in bytes; 0 if the system does not report it (Windows)."""
    if STATUS.exists():  # preferred, since getrusage includes the memory of the parent process
        return _kilobytes(STATUS, "VmHWM")
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees for what it allocates next, where the C library is glibc.

    A model on a CPU allocates the same large tensors again and again. By default glibc returns them to the system,
    which clears each page before it hands it out once more.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(library, "mallopt"):
        library.mallopt(MMAP_THRESHOLD, 32 * 2**20)  # the largest that all versions accept
        library.mallopt(TRIM_THRESHOLD, 2**31 - 1)


def resident_memory() -> int:
    """Return this process's resident memory in bytes; 0 if the system does not report it (only Linux does)."""
    return _kilobytes(STATUS, "VmRSS") if STATUS.exists() else 0


def available_memory() -> int:
    """Return the bytes that can still be allocated in this system or container; 0 if unknown (only Linux tells)."""
    if not SYSTEM.exists():
        return 0
    left = _kilobytes(SYSTEM, "MemAvailable")
    with suppress(OSError, ValueError, StopIteration):  # there is no control group, or it has no limit ("max")
        limit, used = (int((CONTROL_GROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        lines = (CONTROL_GROUP / "memory.stat").read_text().splitlines()
        files = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        left = min(left, max(1, limit - used + files))
    return left


def _kilobytes(file: Path, name: str) -> int:
    """Return the value of a line "NAME: N kB", in bytes."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
