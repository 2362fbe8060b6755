"""`semask train` and `semask eval`, which are also train_net.py: a config's training or evaluation."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

import torch

from semask_d2.checkpoint import Checkpointer
from semask_d2.config import get_cfg
from semask_d2.config.checks import check_evaluation, check_training
from semask_d2.d2 import CfgNode, comm
from semask_d2.data import register_custom, require_data
from semask_d2.data.datasets import config_classes
from semask_d2.data.quick_check import quick_check
from semask_d2.engine import Trainer, launch
from semask_d2.engine.setup import setup, summary
from semask_d2.evaluation import EvaluatedModel, MultiScaleFlip, main_metric
from semask_d2.evaluation.results import AVERAGED
from semask_d2.modeling.meta_arch import build_model
from semask_d2.utils import locking
from semask_d2.utils.errors import UserError
from semask_d2.utils.runs import require_config, require_run

logger = logging.getLogger(__name__)

EXAMPLE = "toy_scenes/semask_swin_mini_msfapn_m2f.yaml"


def main(args: argparse.Namespace) -> None:
    """What each process does."""
    if args.run:
        take_run(args)
    if not args.config_file:
        given = next((word for word in args.opts if word.endswith((".yaml", ".yml"))), None)
        hint = f"write --config-file {given}" if given else f"name a config, such as configs/{EXAMPLE}"
        raise UserError(f"--config-file is missing: {hint}")
    cfg = get_cfg(args.config_file, args.opts, data=args.data)
    cfg.freeze()
    register_custom(cfg)
    check_evaluation(cfg)
    if not args.eval_only:  # what is wrong with the config is said before an earlier run is moved aside
        check_training(cfg)
        without_memory = cfg.clone()
        without_memory.defrost()
        without_memory.MODEL.DEVICE = "meta"
        with torch.device("meta"):
            build_model(without_memory)
    try:
        setup(cfg, training=not args.eval_only, resume=args.resume)
        results = evaluate(cfg, resume=args.resume) if args.eval_only else train(cfg, args)
    finally:
        locking.release(cfg.OUTPUT_DIR)
    if comm.is_main_process() and results:
        for kind, of_kind in ((f" {AVERAGED}", results.get(AVERAGED, {})), ("", results)):
            for name in cfg.DATASETS.TEST if of_kind else ():
                metrics = of_kind.get(name, of_kind)  # the results of a single set come without its name
                group, metric = main_metric(name)
                print(f"{name}{kind} {metric} {metrics[group][metric]:.2f}", flush=True)


def take_run(args: argparse.Namespace) -> None:
    """Let `--run DIR` stand for the run's config, its best weights, and the run as the folder of what is written."""
    if args.config_file:
        raise UserError(f"--run {args.run} and --config-file {args.config_file}: give one; a run has its own config")
    weights = require_run(args.run)
    args.config_file = str(require_config(args.run))
    args.opts = ["MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", args.run, *args.opts]


def train(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any]:
    """Train, from the start or with `args.resume` from the last checkpoint; the last evaluation's results."""
    counts = require_data(cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    quick_check(cfg)
    trainer = Trainer(cfg)
    logger.info("Training:\n%s", summary(cfg, trainer.model, counts, training=True, resume=args.resume))
    warn_of_long_warmup(cfg)
    trainer.resume_or_load(resume=args.resume)
    named = get_cfg(args.config_file, fit=False).MODEL.WEIGHTS
    if named and not cfg.MODEL.WEIGHTS and not trainer.start_iter:
        logger.warning(
            "THE MODEL STARTS FROM RANDOM WEIGHTS, where the config names %s: it will stay far below the accuracy of "
            "its recipe",
            named,
        )
    return trainer.train()


def warn_of_long_warmup(cfg: CfgNode) -> None:
    """Warn where a shortened run is mostly warm-up."""
    warmup, iterations = cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.MAX_ITER
    if warmup > iterations / 2:
        logger.warning(
            "SOLVER.WARMUP_ITERS %d is more than half of SOLVER.MAX_ITER %d: the rate hardly reaches SOLVER.BASE_LR, "
            "and little is learned; set SOLVER.WARMUP_ITERS %d",
            warmup,
            iterations,
            iterations // 10,
        )


def evaluate(cfg: CfgNode, *, resume: bool) -> dict[str, Any]:
    """Evaluate MODEL.WEIGHTS, or with `resume` the newest checkpoint of OUTPUT_DIR, on the config's test sets."""
    if not (cfg.MODEL.WEIGHTS or resume):
        raise UserError(
            "an evaluation needs trained weights: add MODEL.WEIGHTS FILE, or --resume for the newest checkpoint "
            f"in OUTPUT_DIR ({cfg.OUTPUT_DIR})"
        )
    if not cfg.DATASETS.TEST:
        raise UserError(
            "DATASETS.TEST is empty: there is nothing to evaluate on; name a data set there, or `val` in the file that "
            "--data takes"
        )
    counts = require_data(cfg, cfg.DATASETS.TEST)
    model = Trainer.build_model(cfg)
    logger.info("Evaluation:\n%s", summary(cfg, model, counts, training=False))
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, classes=config_classes(cfg))
    file = checkpointer.get_checkpoint_file() if resume else ""
    iteration = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume).get("iteration")
    done = min(iteration + 1, cfg.SOLVER.MAX_ITER) if isinstance(iteration, int) else None
    evaluated = EvaluatedModel(file or cfg.MODEL.WEIGHTS, done)
    tested = MultiScaleFlip.from_config(cfg, model) if cfg.TEST.AUG.ENABLED else model
    return Trainer.test(cfg, tested, evaluated=evaluated)


def argument_parser(prog: str | None = None, *, eval_only: bool = False) -> argparse.ArgumentParser:
    """The command line of `semask train`, and with `eval_only` of `semask eval`."""
    parser = launch.argument_parser(prog)
    parser.set_defaults(run=None)
    if eval_only:
        parser.set_defaults(eval_only=True)
        parser.epilog = f"""examples:
  {parser.prog} --run output/run
  {parser.prog} --run output/run --data my.yaml TEST.AUG.ENABLED True
  {parser.prog} --config-file ade20k/semask_swin_l_m2f.yaml --num-gpus 8 MODEL.WEIGHTS weights.pth
"""
        parser.add_argument("--run", metavar="DIR", help="run folder: its config.yaml and its best weights")
    return parser


def command_line(arguments: Sequence[str] | None = None, *, prog: str | None = None, eval_only: bool = False) -> int:
    """Run the words of a command line, by default this process's; returns the exit code."""
    return launch.run(main, argument_parser(prog, eval_only=eval_only).parse_args(arguments))
