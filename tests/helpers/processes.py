"""A process of a multi-process job, on one machine and without a port."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


@contextmanager
def process_group(meeting: Path, rank: int, world_size: int) -> Iterator[None]:
    """Make this process a member of a gloo group within the block, using a file store; afterwards the process ends.

    It ends immediately, because torch's normal shutdown has sometimes ended in SIGABRT ("terminate called without an
    active exception") after everything was done and written.
    """
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
    yield
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)
