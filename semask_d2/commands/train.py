"""`semask train`, also run by train_net.py: train the model that a config describes."""

from __future__ import annotations

import argparse
from pathlib import Path

from semask_d2.checkpoint import read_checkpoint
from semask_d2.commands import evaluate
from semask_d2.config import get_cfg
from semask_d2.d2 import CfgNode, comm
from semask_d2.engine import launch
from semask_d2.engine.training import train_config
from semask_d2.inference.sources import find_source
from semask_d2.utils.errors import UserError, printable
from semask_d2.utils.foreign import Section
from semask_d2.utils.runs import PREFERRED, is_scalar


def run(args: argparse.Namespace) -> None:
    """Train in as many processes as the user asked for."""
    launch.start(evaluate.job if args.eval_only else job, args)


def job(args: argparse.Namespace) -> None:
    """Train in one process of the job."""
    evaluate.require_config_file(args)
    cfg = get_cfg(args.config_file, [*starting_weights(args), *args.opts], data=args.data)
    results = train_config(cfg, args.config_file, resume=args.resume)
    if results and comm.is_main_process():
        print_best(cfg)
    evaluate.print_results(cfg, results)


def print_best(cfg: CfgNode) -> None:
    """Print the result of the run's best checkpoint, before that of its last one."""
    path = Path(cfg.OUTPUT_DIR, PREFERRED[0])
    if not path.is_file():
        return
    best = Section.of(read_checkpoint(path), str(path))
    value, metric, last = best.get("best", None), best.get("metric", None), best.get("iteration", None)
    if is_scalar(value) and isinstance(metric, str) and type(last) is int:
        name = metric.rpartition("/")[2]
        print(f"best: {name} {value:.2f} after {last + 1} iterations ({printable(str(path))}); last:", flush=True)


def starting_weights(args: argparse.Namespace) -> list[str]:
    """Return the setting that `--weights` stands for; raise `UserError` if MODEL.WEIGHTS is set as well."""
    if args.weights is None:
        return []
    if "MODEL.WEIGHTS" in args.opts[::2]:
        raise UserError(f"{args.weights_option} {args.weights} and MODEL.WEIGHTS: give only one of them")
    return ["MODEL.WEIGHTS", find_source(args.weights, args.weights_option).weights]
