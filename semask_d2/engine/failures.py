"""What to tell the user of an error: of mistakes that they can correct, and of what the machine refused."""

from __future__ import annotations

import torch

from semask_d2.utils.arguments import ArgumentError
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import FULL

LESS_MEMORY = (
    "in training lower SOLVER.IMS_PER_BATCH or INPUT.CROP.SIZE, raise SOLVER.GRADIENT_ACCUMULATION_STEPS (the same "
    "batch in more parts), or set MODEL.SWIN.USE_CHECKPOINT True; in evaluation lower INPUT.MIN_SIZE_TEST and "
    "INPUT.MAX_SIZE_TEST"
)
MORE_SHARED_MEMORY = (
    "/dev/shm, through which data-loading processes hand over their images, is too small (Docker gives 64 MB): start "
    "the container with --shm-size 8g or --ipc host, or set DATALOADER.NUM_WORKERS 0"
)
CPU_ALLOCATOR = ("DefaultCPUAllocator", "not enough memory")


def explain(error: Exception) -> str | None:
    """The line that tells a user of `error`, or None for an error that is the program's own."""
    if isinstance(error, UserError):
        text = str(error)
        return f"{text}: {MORE_SHARED_MEMORY}" if text.startswith("no shared memory") else text
    if isinstance(error, ArgumentError):
        return f"{error.key}: {error.problem}"
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the disk is full{f' at {error.filename}' if error.filename else ''}; make room, continue with --resume"
    text = " ".join(str(error).split())
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return f"out of GPU memory: {LESS_MEMORY} ({text.partition('. ')[0]})"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(t in text for t in CPU_ALLOCATOR)):
        return f"out of memory: {LESS_MEMORY} ({text or 'no details'})"
    if isinstance(error, RuntimeError) and ("Bus error" in text or "shared memory" in text):
        return f"{MORE_SHARED_MEMORY} ({text})"
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker") and "signal" in text:
        return f"a data-loading process was ended, mostly for want of memory: lower DATALOADER.NUM_WORKERS ({text})"
    return None
