"""A complete training, from a config to a run folder, for `semask train` and `semask_d2.train`."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from semask_d2.config import get_cfg
from semask_d2.config.checks import check_evaluation, check_pretrained, check_training
from semask_d2.d2 import CfgNode
from semask_d2.data import register_custom, require_data
from semask_d2.data.quick_check import quick_check
from semask_d2.engine.setup import setup, summary
from semask_d2.engine.trainer import Trainer
from semask_d2.factory import full_model_name, settings_words
from semask_d2.inference.sources import find_source
from semask_d2.modeling.meta_arch import build_model
from semask_d2.utils import locking
from semask_d2.utils.errors import user_errors_alone

logger = logging.getLogger(__name__)


@user_errors_alone()
def train(
    config: str | os.PathLike,
    *,
    data: str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    weights: str | os.PathLike | None = None,
    device: str | None = None,
    resume: bool = False,
    **settings: Any,
) -> Path:
    """Train in this process and return the run folder, for `Predictor` and `from_pretrained`.

    `config` is a YAML file or a model's name, `data` the YAML file of your dataset, `output` the run folder. `weights`
    replaces the config's MODEL.WEIGHTS as the start of training, and `settings` are config keys, given as
    `**{"SOLVER.MAX_ITER": 1000}`. Raises `UserError` with the message that `semask train` prints.
    """
    is_file = os.path.lexists(config) or os.fspath(config).endswith((".yaml", ".yml"))
    config_file = os.fspath(config) if is_file else f"{full_model_name(os.fspath(config))}.yaml"
    words = settings_words(settings, device)
    words += ["OUTPUT_DIR", os.fspath(output)] if output is not None else []
    words += ["MODEL.WEIGHTS", find_source(os.fspath(weights), None).weights] if weights is not None else []
    cfg = get_cfg(config_file, words, data=data)
    train_config(cfg, config_file, resume=resume)
    return Path(cfg.OUTPUT_DIR)


def train_config(cfg: CfgNode, config_file: str | os.PathLike, *, resume: bool) -> dict[str, Any]:
    """Train in one process of a job, from the start or, with `resume`, from the last checkpoint.

    Returns the results of the last evaluation. `config_file` is the file that `cfg` was read from. Raises `UserError`
    for errors in the config, before an earlier run is moved aside, and for errors in the data.
    """
    cfg.freeze()
    register_custom(cfg)
    check_evaluation(cfg)
    check_training(cfg)
    if not resume:
        check_pretrained(cfg)
    require_buildable(cfg)
    try:
        setup(cfg, training=True, resume=resume)
        counts = require_data(cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
        quick_check(cfg)
        trainer = Trainer(cfg)
        logger.info("Training:\n%s", summary(cfg, trainer.model, counts, training=True, resume=resume))
        warn_of_long_warmup(cfg)
        trainer.resume_or_load(resume=resume)
        if not trainer.start_iter:
            warn_of_random_start(cfg, config_file)
        return trainer.train()
    finally:
        locking.release(cfg.OUTPUT_DIR)


def require_buildable(cfg: CfgNode) -> None:
    """Raise `UserError` if a config's model cannot be built; tries it on the meta device, which takes no memory."""
    without_memory = cfg.clone()
    without_memory.defrost()
    without_memory.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        build_model(without_memory)


def warn_of_random_start(cfg: CfgNode, config_file: str | os.PathLike) -> None:
    """Warn if training starts from random weights although its config file names weights."""
    named = get_cfg(config_file, fit=False).MODEL.WEIGHTS
    if named and not cfg.MODEL.WEIGHTS:
        logger.warning(
            "THE MODEL STARTS FROM RANDOM WEIGHTS, but its config names %s: it will stay far below the accuracy of "
            "the recipe",
            named,
        )


def warn_of_long_warmup(cfg: CfgNode) -> None:
    """Warn if a shortened run is mostly warm-up."""
    warmup, iterations = cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.MAX_ITER
    if warmup > iterations / 2:
        logger.warning(
            "SOLVER.WARMUP_ITERS %d is more than half of SOLVER.MAX_ITER %d: the learning rate hardly reaches "
            "SOLVER.BASE_LR, so the model learns little; set SOLVER.WARMUP_ITERS %d",
            warmup,
            iterations,
            iterations // 10,
        )
