"""`semask train`, which is also train_net.py: the training that a config describes."""

from __future__ import annotations

import argparse
import logging
from typing import Any

import torch

from semask_d2.commands import arguments, evaluate
from semask_d2.config import get_cfg
from semask_d2.config.checks import check_evaluation, check_training
from semask_d2.d2 import CfgNode
from semask_d2.data import register_custom, require_data
from semask_d2.data.quick_check import quick_check
from semask_d2.engine import Trainer, launch
from semask_d2.engine.setup import setup, summary
from semask_d2.inference.sources import find_source
from semask_d2.modeling.meta_arch import build_model
from semask_d2.utils import locking
from semask_d2.utils.errors import UserError

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line, which is Detectron2's with a few options more."""
    parser.description = "Train the model that a config describes."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"""examples:
  {parser.prog} --config-file toy_scenes/semask_swin_mini_msfapn_m2f.yaml
  {parser.prog} --config-file ade20k/semask_swin_l_m2f.yaml --num-gpus 8 SOLVER.BASE_LR 0.00005
  {parser.prog} --config-file camvid/semask_timm_lite0_m2f.yaml --data my.yaml --output output/mine
"""
    arguments.add_config_file(parser, "a path, or a name as ade20k/semask_swin_l_m2f.yaml")
    arguments.add_data(parser)
    arguments.add_weights(parser, "what to start from: checkpoint, run folder, folder of transformers (MODEL.WEIGHTS)")
    parser.add_argument("--output", dest="output_dir", metavar="DIR", help="run folder (OUTPUT_DIR)")
    parser.add_argument("--resume", action="store_true", help="go on after the run folder's last checkpoint")
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train (semask eval)")
    arguments.add_device(parser)
    launch.add_job_arguments(parser)
    arguments.add_settings(parser)


def run(args: argparse.Namespace) -> None:
    """Train, in as many processes as are asked for."""
    launch.start(evaluate.job if args.eval_only else job, args)


def job(args: argparse.Namespace) -> None:
    """Train in one process of the job."""
    evaluate.require_config_file(args)
    cfg = get_cfg(args.config_file, [*starting_weights(args), *args.opts], data=args.data)
    cfg.freeze()
    register_custom(cfg)
    check_evaluation(cfg)
    check_training(cfg)  # what is wrong with the config is said before an earlier run is moved aside
    without_memory = cfg.clone()
    without_memory.defrost()
    without_memory.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        build_model(without_memory)
    try:
        setup(cfg, training=True, resume=args.resume)
        results = train(cfg, args)
    finally:
        locking.release(cfg.OUTPUT_DIR)
    evaluate.print_results(cfg, results)


def starting_weights(args: argparse.Namespace) -> list[str]:
    """Return the setting that `--weights` stands for; `UserError` where MODEL.WEIGHTS is set as well."""
    if args.weights is None:
        return []
    if "MODEL.WEIGHTS" in args.opts[::2]:
        raise UserError(f"{args.weights_option} {args.weights} and MODEL.WEIGHTS: give one of them")
    return ["MODEL.WEIGHTS", find_source(args.weights, args.weights_option).weights]


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
