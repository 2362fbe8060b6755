#!/usr/bin/env python3
"""Train or evaluate: `train_net.py --config-file FILE [--num-gpus N] [--resume] [--eval-only] [KEY VALUE ...]`."""

import argparse
import sys
from collections.abc import Sequence

from semask_d2 import get_cfg
from semask_d2.d2 import comm
from semask_d2.data import require_data
from semask_d2.engine import Checkpointer, Trainer
from semask_d2.engine.launch import argument_parser, run, setup
from semask_d2.evaluation import MultiScaleFlip
from semask_d2.utils.errors import UserError


def main(args: argparse.Namespace) -> None:
    """What each process does."""
    if not args.config_file:
        raise UserError(
            "--config-file is missing: name a config, such as configs/toy_scenes/semask_swin_mini_msfapn_m2f.yaml"
        )
    cfg = get_cfg(args.config_file, args.opts)
    cfg.freeze()
    setup(cfg, args)
    if args.eval_only:
        if not (cfg.MODEL.WEIGHTS or args.resume):
            raise UserError(
                "--eval-only needs trained weights: add MODEL.WEIGHTS FILE, or --resume for the newest checkpoint "
                f"in OUTPUT_DIR ({cfg.OUTPUT_DIR})"
            )
        require_data(cfg, cfg.DATASETS.TEST)
        model = Trainer.build_model(cfg)
        Checkpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, MultiScaleFlip.from_config(cfg, model) if cfg.TEST.AUG.ENABLED else model)
    else:
        require_data(cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
    if comm.is_main_process() and results:
        for name in cfg.DATASETS.TEST:
            metrics = results.get(name, results)  # the results of a single set come without its name
            print(f"{name} mIoU {metrics['sem_seg']['mIoU'] / 100:.4f}", flush=True)


def command_line(arguments: Sequence[str] | None = None) -> int:
    """Run the words of a command line, by default this process's; returns the exit code."""
    return run(main, argument_parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(command_line())
