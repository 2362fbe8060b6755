"""Stands for `detectron2.engine.launch`: starting the processes of a distributed run."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from semask_d2.d2.native import comm

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable[..., None],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call `main_func(*args)` in each of a run's processes, or here if there is only one.

    Each machine calls it and gets `num_gpus_per_machine` spawned processes, over NCCL where CUDA is available, else
    gloo; `main_func` must be importable. `dist_url` is tcp://HOST:PORT of machine 0, or "auto" for a free port on
    the only machine.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size == 1:
        main_func(*args)
        return
    if dist_url == "auto":
        assert num_machines == 1, "dist_url=auto not supported in multi-machine jobs."
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    mp.start_processes(
        _worker,
        nprocs=num_gpus_per_machine,
        args=(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _worker(
    local_rank: int,
    main_func: Callable[..., None],
    world_size: int,
    num_processes: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
    timeout: timedelta,
) -> None:
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        assert num_processes <= torch.cuda.device_count(), "fewer GPUs than processes on this machine"
        torch.cuda.set_device(local_rank)
    try:
        dist.init_process_group(
            backend="nccl" if on_gpu else "gloo",
            init_method=dist_url,
            world_size=world_size,
            rank=machine_rank * num_processes + local_rank,
            timeout=timeout,
        )
    except Exception:
        logging.getLogger("detectron2.engine.launch").error("Process group URL: %s", dist_url)
        raise
    comm.create_local_process_group(num_processes)
    comm.synchronize()
    main_func(*args)
