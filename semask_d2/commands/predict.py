"""`semask predict`, also run by demo/demo.py: segment images, videos or a camera stream and draw the results."""

from __future__ import annotations

import argparse

from semask_d2.config.checks import check_evaluation
from semask_d2.engine.setup import set_product_precision
from semask_d2.export.running import EXPORTED
from semask_d2.inference.drawing import DrawingJob, set_task
from semask_d2.inference.predictor import Predictor
from semask_d2.inference.sources import choose_config
from semask_d2.utils.errors import UserError


def run(args: argparse.Namespace) -> None:
    """Draw each input; raise `UserError` that names the inputs that could not be drawn."""
    if not 0 <= args.opacity <= 1:
        raise UserError(f"--opacity {args.opacity}: expected a number from 0 to 1")
    job = DrawingJob(
        args.input if args.webcam is None else args.webcam,
        output=args.output,
        compare=args.compare,
        labels=args.labels,
        priors=args.semantic_priors,
        opacity=args.opacity,
    )
    if args.weights and args.weights.endswith(EXPORTED):
        if args.config_file or args.data or args.opts or args.task not in (None, "semantic"):
            raise UserError(
                f"--weights {args.weights}: an exported file has its own settings and predicts classes only; leave "
                "--config-file, --data, --device, --task and settings out"
            )
        job.run(Predictor.from_export(args.weights))
        return
    cfg = choose_config(args.config_file, args.weights, args.opts, data=args.data, packaged=args.data is None)
    job.draw_task(set_task(cfg, args.task))
    check_evaluation(cfg)
    set_product_precision(cfg)
    job.run(Predictor(cfg))
