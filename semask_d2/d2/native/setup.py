"""Stands for `detectron2.engine.default_argument_parser` and `default_setup`: the command line and the start of a job."""

from __future__ import annotations

import argparse
import os
import sys

import torch

from semask_d2.d2.native import comm
from semask_d2.d2.native.config import CfgNode
from semask_d2.d2.native.env import PathManager, collect_env_info, seed_all_rng
from semask_d2.d2.native.logger import setup_logger
from semask_d2.files import atomic_write

_FIRST_PORT, _PORTS = 49152, 16384  # the range that is free for private use


def default_argument_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Return a parser with Detectron2's options; what follows them are `KEY VALUE` pairs for the config, in `opts`."""
    program = sys.argv[0]
    parser = argparse.ArgumentParser(
        epilog=epilog
        or f"""examples:
  one machine:        {program} --config-file cfg.yaml --num-gpus 8
  changed settings:   {program} --config-file cfg.yaml MODEL.WEIGHTS weights.pth SOLVER.BASE_LR 0.001
  machine 1 of 0, 1:  {program} --config-file cfg.yaml --num-machines 2 --machine-rank 1 --dist-url tcp://HOST:PORT
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # A port per user, the same each time: a process left over from an earlier run shows as "port in use".
    port = _FIRST_PORT + (os.getuid() if hasattr(os, "getuid") else 1) % _PORTS
    parser.add_argument("--config-file", default="", metavar="FILE", help="YAML file with settings")
    parser.add_argument(
        "--resume", action="store_true", help="go on after the output folder's last checkpoint"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument(
        "--num-gpus", type=int, default=1, help="processes on each machine, a GPU each where there are"
    )
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine's number, from 0")
    parser.add_argument(
        "--dist-url",
        default=f"tcp://127.0.0.1:{port}",
        help='where the processes meet: tcp://HOST:PORT of machine 0, or "auto" for a free port on one machine',
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, default=None, help="settings as KEY VALUE pairs, last"
    )
    return parser


def default_setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Start a job: output folder, log, what runs where, `config.yaml` in the output folder, seeds, cudnn, precision.

    The seed of a rank is SEED plus its number; a negative SEED takes random ones.
    """
    folder, rank = cfg.OUTPUT_DIR, comm.get_rank()
    if comm.is_main_process() and folder:
        PathManager.mkdirs(folder)
    setup_logger(folder, distributed_rank=rank, name="fvcore")
    logger = setup_logger(folder, distributed_rank=rank)
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    if getattr(args, "config_file", ""):
        with PathManager.open(args.config_file, "r") as file:
            logger.info("Contents of args.config_file=%s:\n%s", args.config_file, file.read())
    if comm.is_main_process() and folder:
        logger.info("Running with full config:\n%s", cfg.dump())
        path = os.path.join(folder, "config.yaml")
        with atomic_write(path) as file:
            file.write(cfg.dump())
        logger.info("Full config saved to %s", path)

    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not getattr(
        args, "eval_only", False
    ):  # evaluation meets many sizes, each of which would be benchmarked
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    if cfg.FLOAT32_PRECISION and torch.cuda.is_available():
        torch.set_float32_matmul_precision(cfg.FLOAT32_PRECISION)
        torch.backends.cudnn.allow_tf32 = cfg.FLOAT32_PRECISION != "highest"
