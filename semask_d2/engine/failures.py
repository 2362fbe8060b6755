"""One-line explanations of errors for the user: correctable mistakes, and failures of the machine."""

from __future__ import annotations

import errno
import re

import torch

from semask_d2.engine.roll_call import waited_in_vain
from semask_d2.utils.arguments import ArgumentError
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import FULL
from semask_d2.utils.memory import out_of_memory

LESS_MEMORY = (
    "in training lower SOLVER.IMS_PER_BATCH or INPUT.CROP.SIZE, raise SOLVER.GRADIENT_ACCUMULATION_STEPS (the same "
    "batch in smaller parts), or set MODEL.ACTIVATION_CHECKPOINTING to \"['res2', 'res3', 'res4', 'pixel_decoder']\"; "
    "in evaluation lower INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST"
)
MORE_SHARED_MEMORY = (
    "/dev/shm, through which data-loading processes pass their images, is too small (Docker's default is 64 MB): start "
    "the container with --shm-size 8g or --ipc host, or set DATALOADER.NUM_WORKERS 0"
)
# errors while a run writes a file: missing permission, a failing disk, a folder that is gone
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOENT, errno.ENOTDIR, errno.EFBIG)


def explain(error: Exception) -> str | None:
    """Return the line that explains `error` to the user, or None for an error in the program itself."""
    if isinstance(error, UserError):
        text = str(error)
        return f"{text}: {MORE_SHARED_MEMORY}" if text.startswith("no shared memory") else text
    if isinstance(error, ArgumentError):
        return f"{error.key}: {error.problem}"
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the disk is full{f' at {error.filename}' if error.filename else ''}; make room, continue with --resume"
    if isinstance(error, OSError) and error.errno in REFUSED and error.filename:
        return f"{error.filename}: {error.strerror}; fix this, and continue a run with --resume"
    text = " ".join(str(error).split())
    if out_of_memory(error):
        where = "GPU memory" if isinstance(error, torch.cuda.OutOfMemoryError) else "memory"
        return f"out of {where}: {LESS_MEMORY} ({text.partition('. ')[0] or 'no details'})"
    if isinstance(error, RuntimeError) and ("Bus error" in text or "shared memory" in text):
        return f"{MORE_SHARED_MEMORY} ({text})"
    if waited_in_vain(error):
        return "another process of this run did not answer"  # `roll_call` names it
    if isinstance(error, RuntimeError) and re.match("DataLoader worker .*(signal|exited unexpectedly)", text):
        advice = "lower DATALOADER.NUM_WORKERS, or set it to 0 to use only one process"
        return f"a data-loading process was killed, usually for lack of memory: {advice} ({text})"
    return None
