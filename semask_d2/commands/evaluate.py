"""`semask eval`, also run by `train_net.py --eval-only`: evaluate a trained model on the test sets of its config."""

from __future__ import annotations

import argparse
import logging
import os
from typing import Any

from semask_d2.checkpoint import Checkpointer
from semask_d2.config import get_cfg
from semask_d2.config.checks import check_evaluation
from semask_d2.d2 import CfgNode, comm
from semask_d2.data import register_custom, require_data
from semask_d2.data.datasets import config_classes
from semask_d2.engine import Trainer, launch
from semask_d2.engine.run_folder import write_config
from semask_d2.engine.setup import setup, summary
from semask_d2.evaluation import EvaluatedModel, MultiScaleFlip, main_metric, sizes_in_words
from semask_d2.evaluation.results import AVERAGED
from semask_d2.inference.sources import choose_config, find_source, is_trained
from semask_d2.utils.errors import UserError
from semask_d2.utils.runs import CONFIG_NAME

logger = logging.getLogger(__name__)

ADD_DATA = "add --data my.yaml, the file that describes your images and labels (semask init-data drafts it)"


def run(args: argparse.Namespace) -> None:
    """Evaluate in as many processes as the user asked for."""
    launch.start(job, args)


def job(args: argparse.Namespace) -> None:
    """Evaluate in one process of the job."""
    cfg = evaluation_config(args)
    cfg.freeze()
    register_custom(cfg)
    check_evaluation(cfg)
    setup(cfg, training=False, resume=args.resume)
    if comm.is_main_process() and not os.path.lexists(os.path.join(cfg.OUTPUT_DIR, CONFIG_NAME)):
        write_config(cfg)  # for `semask report`
    print_results(cfg, evaluate(cfg, resume=args.resume))


def evaluation_config(args: argparse.Namespace) -> CfgNode:
    """Return the config of the chosen model; without a config file of the user, the results go to its own folder."""
    if args.weights is None:
        require_config_file(args)
        return get_cfg(args.config_file, args.opts, data=args.data, trained=is_trained(args.config_file))
    source = find_source(args.weights, args.weights_option)
    output_dir = ["OUTPUT_DIR", source.results] if source.results and not args.config_file else []
    opts = [*output_dir, *args.opts]
    return choose_config(args.config_file, args.weights, opts, data=args.data, option=args.weights_option)


def require_config_file(args: argparse.Namespace) -> None:
    """Raise `UserError` if `--config-file` is missing."""
    if not args.config_file:
        raise UserError("--config-file is missing: name a config, such as toy_scenes/semask_swin_mini_msfapn_m2f.yaml")


def evaluate(cfg: CfgNode, *, resume: bool) -> dict[str, Any]:
    """Evaluate MODEL.WEIGHTS, or with `resume` the newest checkpoint in OUTPUT_DIR, on the config's test sets."""
    if not (cfg.MODEL.WEIGHTS or resume):
        raise UserError(
            "an evaluation needs trained weights: add --weights SOURCE (a run folder or file) or MODEL.WEIGHTS FILE, "
            f"or --resume for the newest checkpoint in OUTPUT_DIR ({cfg.OUTPUT_DIR})"
        )
    if not cfg.DATASETS.TEST:
        name = cfg.DATASETS.CUSTOM.NAME
        advice = f"add `val` to the file of the dataset {name} (--data)" if name else ADD_DATA
        raise UserError(f"no dataset to evaluate on: {advice}, or name a registered one with DATASETS.TEST")
    counts = require_data(cfg, cfg.DATASETS.TEST)
    model = Trainer.build_model(cfg)
    logger.info("Evaluation:\n%s", summary(cfg, model, counts, training=False))
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, classes=config_classes(cfg))
    file = checkpointer.get_checkpoint_file() if resume else ""
    iteration = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume).get("iteration")
    done = min(iteration + 1, cfg.SOLVER.MAX_ITER) if isinstance(iteration, int) else None
    evaluated = EvaluatedModel(file or cfg.MODEL.WEIGHTS, done)
    tested = MultiScaleFlip.from_config(cfg, model) if cfg.TEST.AUG.ENABLED else model
    if isinstance(tested, MultiScaleFlip):
        logger.info("Test-time augmentation: %s, %d passes per image", sizes_in_words(cfg, tested), tested.passes())
    return Trainer.test(cfg, tested, evaluated=evaluated)


def print_results(cfg: CfgNode, results: dict[str, Any]) -> None:
    """Print the main metric of each test set, in the main process only."""
    if not (comm.is_main_process() and results):
        return
    for suffix, model_results in ((f" {AVERAGED}", results.get(AVERAGED, {})), ("", results)):
        for name in cfg.DATASETS.TEST if model_results else ():
            metrics = model_results.get(name, model_results)  # with a single test set, its name is left out
            group, metric = main_metric(name)
            print(f"{name}{suffix} {metric} {metrics[group][metric]:.2f}", flush=True)
