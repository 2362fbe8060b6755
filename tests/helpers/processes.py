"""A process of a job of several, on one machine and without a port."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


@contextmanager
def process_group(meeting: Path, rank: int, world_size: int) -> Iterator[None]:
    """Within it this process is one of a gloo group, which meets at a file; after it the process has ended.

    It ends at once: torch's own end of a process has now and then been SIGABRT ("terminate called without an active
    exception"), when all was done and written.
    """
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
    yield
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)
