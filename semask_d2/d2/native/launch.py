"""Stands for `detectron2.engine.{default_argument_parser,launch}`: the command line and the processes of a job."""

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
_FIRST_PORT, _PORTS = 49152, 16384  # the range that is free for private use


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Return a parser with Detectron2's options; `KEY VALUE` pairs after them go to `opts`."""
    examples = f"""examples:
  one machine:        {sys.argv[0]} --config-file cfg.yaml --num-gpus 8
  changed settings:   {sys.argv[0]} --config-file cfg.yaml MODEL.WEIGHTS weights.pth SOLVER.BASE_LR 0.001
  machine 1 of 0, 1:  {sys.argv[0]} --config-file cfg.yaml --num-machines 2 --machine-rank 1 --dist-url tcp://HOST:PORT
"""
    parser = argparse.ArgumentParser(epilog=epilog or examples, formatter_class=argparse.RawDescriptionHelpFormatter)
    # A port per user, the same each time: a process left over from an earlier run shows as "port in use".
    port = _FIRST_PORT + (os.getuid() if hasattr(os, "getuid") else 1) % _PORTS
    parser.add_argument("--config-file", default="", metavar="FILE", help="YAML file with settings")
    parser.add_argument("--resume", action="store_true", help="go on after the output folder's last checkpoint")
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes per machine, each with a GPU if there are")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine's number, from 0")
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where machine 0 listens, or auto")
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
    """Call `main_func(*args)` in each of a run's processes, or here if there is only one.

    Every machine calls it and gets `num_gpus_per_machine` processes, over NCCL where there is CUDA, else gloo;
    they import `main_func`. `dist_url` is tcp://HOST:PORT of machine 0, or "auto" if there is one machine.
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
