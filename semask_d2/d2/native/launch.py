"""Replacement for `detectron2.engine.{default_argument_parser,launch}`: the command line and processes of a job."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from semask_d2.d2.native import comm

DEFAULT_TIMEOUT = timedelta(minutes=30)
_FIRST_PORT, _PORTS = 49152, 16384  # the port range reserved for private use


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Return a parser with Detectron2's options; the `KEY VALUE` pairs after them are stored in `opts`."""
    examples = f"""examples:
  one machine:        {sys.argv[0]} --config-file cfg.yaml --num-gpus 8
  changed settings:   {sys.argv[0]} --config-file cfg.yaml MODEL.WEIGHTS weights.pth SOLVER.BASE_LR 0.001
  machine 1 of 0, 1:  {sys.argv[0]} --config-file cfg.yaml --num-machines 2 --machine-rank 1 --dist-url tcp://HOST:PORT
"""
    parser = argparse.ArgumentParser(epilog=epilog or examples, formatter_class=argparse.RawDescriptionHelpFormatter)
    # Each user has one fixed port, so a process left over from an earlier run causes a "port in use" error.
    port = _FIRST_PORT + (os.getuid() if hasattr(os, "getuid") else 1) % _PORTS
    parser.add_argument("--config-file", default="", metavar="FILE", help="YAML config file")
    parser.add_argument("--resume", action="store_true", help="continue from the output folder's last checkpoint")
    parser.add_argument("--eval-only", action="store_true", help="evaluate only, without training")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes per machine, one per GPU if available")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="index of this machine, from 0")
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help="address of machine 0, or auto")
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=None, help="settings as KEY VALUE pairs, last")
    return parser


def launch(
    main_func: Callable[..., None],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call `main_func(*args)` in each process of a run, or in this process if there is only one.

    Call it on every machine. It starts `num_gpus_per_machine` processes that import `main_func` and communicate over
    NCCL with CUDA, else over gloo. `dist_url` is tcp://HOST:PORT of machine 0, or "auto" for a single machine.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size == 1:
        main_func(*args)
        return
    if dist_url == "auto":
        assert num_machines == 1, "dist_url=auto not supported in multi-machine jobs."
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    group = {"init_method": dist_url, "world_size": world_size, "timeout": timeout}
    start_processes(
        _worker,
        nprocs=num_gpus_per_machine,
        args=(machine_rank, num_gpus_per_machine, group, main_func, args),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def _worker(local_rank: int, machine_rank: int, per_machine: int, group: dict, main_func: Callable, args: tuple):
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        assert per_machine <= torch.cuda.device_count(), f"{per_machine} processes need as many GPUs"
        torch.cuda.set_device(local_rank)
    rank = machine_rank * per_machine + local_rank
    dist.init_process_group(backend="nccl" if on_gpu else "gloo", rank=rank, **group)
    comm.create_local_process_group(per_machine)
    comm.synchronize()
    main_func(*args)
