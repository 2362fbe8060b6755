"""From a command line to a running job: processes, logs, seeds, and errors in one line."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch.multiprocessing import ProcessExitedException

from semask_d2 import d2
from semask_d2.d2 import CfgNode, collect_env_info, comm, default_argument_parser, seed_all_rng, setup_logger
from semask_d2.engine.failures import explain
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write, require_writable

logger = logging.getLogger(__name__)

RUN_FILES = (
    *("model_*.pth", "last_checkpoint", "config.yaml", "metrics.json", "log.txt*", "events.out.tfevents.*"),
    *("pictures", "non_finite_batch*.pth"),
)


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's command line, with --debug."""
    parser = default_argument_parser()
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def run(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Call `main(args)` in every process of the job, and return the exit code.

    The processes are torchrun's where it started this one, else those that --num-gpus, --num-machines,
    --machine-rank and --dist-url describe. A `UserError` is printed as one line.
    """
    return guarded(_start, main, args, debug=args.debug)


def guarded(function: Callable[..., None], *args: object, debug: bool) -> int:
    """Call `function(*args)` and return an exit code: 0, or 1 after a user's mistake, printed as one line.

    What the machine refuses (memory, mostly) counts as a user's mistake too.
    """
    # Detectron2's training loop logs the traceback of whatever ends it
    loop = logging.getLogger("detectron2.engine.train_loop")
    if not debug:
        loop.addFilter(_is_unexplained)
    try:
        function(*args)
    except ProcessExitedException as error:  # the process has said why
        return error.exit_code or 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        if debug:
            traceback.print_exc()
        sys.stdout.flush()
        print(f"error: {message}", file=sys.stderr, flush=True)
        return 1
    finally:
        loop.removeFilter(_is_unexplained)
    return 0


def _is_unexplained(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, Exception) and explain(error))


def _start(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _join_torchrun()
        try:
            main(args)
        finally:
            torch.distributed.destroy_process_group()
        return
    _check_processes(args.num_gpus)
    if args.num_gpus * args.num_machines > 1:
        _check_port(args)
        d2.launch(_worker, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(main, args))
    else:
        main(args)


def _worker(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """One process of several on this machine; on a CPU they share its cores."""
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, torch.get_num_threads() // args.num_gpus))
    code = guarded(main, args, debug=args.debug)
    if code:
        sys.exit(code)


def _check_processes(num_gpus: int) -> None:
    if num_gpus < 1:
        raise UserError(f"--num-gpus: expected at least 1, got {num_gpus}")
    if torch.cuda.is_available() and num_gpus > torch.cuda.device_count():
        have = torch.cuda.device_count()
        raise UserError(f"--num-gpus {num_gpus}: this machine has {have} GPU{'s' if have > 1 else ''}; ask for {have}")


def _check_port(args: argparse.Namespace) -> None:
    """Raise `UserError` where the port at which this machine's processes shall meet is taken."""
    if args.machine_rank or not args.dist_url.startswith("tcp:"):
        return
    try:
        port = urlsplit(args.dist_url).port
    except ValueError:
        port = None
    if port is None:
        raise UserError(f"--dist-url {args.dist_url}: expected tcp://HOST:PORT, or auto on a single machine")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as a port just given back can be taken
        try:
            probe.bind(("", port))
        except OSError as error:
            raise UserError(
                f"--dist-url {args.dist_url}: port {port} cannot be used ({error.strerror}), perhaps by an earlier run "
                "that still goes on; name another port, or auto on a single machine"
            ) from error


def _join_torchrun() -> None:
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if torch.cuda.is_available():
        _check_processes(local_size)
        torch.cuda.set_device(local_rank)
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    comm.create_local_process_group(local_size)


def setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Start a job's output folder, log and seeds; for a training, keep an earlier run's files and write config.yaml.

    A rank's seed is SEED plus its number; a negative SEED takes random ones.
    """
    folder, rank = cfg.OUTPUT_DIR, comm.get_rank()
    training = not args.eval_only
    if comm.is_main_process():
        require_writable(folder, "OUTPUT_DIR")
        if training and not args.resume:
            set_aside(folder)
    comm.synchronize()
    for name in ("fvcore", "detectron2", "semask_d2"):
        setup_logger(folder, distributed_rank=rank, name=name)
    logger.info("semask_d2 on the %s backend, %s", d2.BACKEND, d2.BACKEND_VERSION)
    logger.info("Process %d of %d\n%s", rank, comm.get_world_size(), collect_env_info())
    logger.info("Command line: %s", " ".join(sys.argv))
    if comm.is_main_process() and training:
        logger.info("Config:\n%s", cfg.dump())
        with atomic_write(os.path.join(folder, "config.yaml")) as file:
            file.write(cfg.dump())
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if training:  # evaluation meets many sizes, each of which would be benchmarked
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION:
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)


def set_aside(folder: str) -> None:
    """Move the files of an earlier run in `folder` to `folder/previous_N`, so that a new one overwrites nothing."""
    old = [path for pattern in RUN_FILES for path in Path(folder).glob(pattern)]
    if not any(path.name.startswith("model_") for path in old):
        return  # nothing that took work to make
    number = 1
    while (target := Path(folder, f"previous_{number}")).exists():
        number += 1
    target.mkdir()
    for path in old:
        path.rename(target / path.name)
    print(f"{folder} held an earlier run: moved to {target} (use --resume to continue one)")
