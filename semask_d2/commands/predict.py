"""`semask predict`, also run by demo/demo.py: segment images, videos or a camera stream and draw the results."""

from __future__ import annotations

import argparse

from semask_d2.commands import arguments
from semask_d2.config.checks import check_evaluation
from semask_d2.engine.setup import set_product_precision
from semask_d2.export.running import EXPORTED
from semask_d2.inference.drawing import TASKS, DrawingJob, set_task
from semask_d2.inference.predictor import Predictor
from semask_d2.inference.sources import choose_config
from semask_d2.utils.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments of the command."""
    parser.description = "Segment images and videos, and draw the results."
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", metavar="FILE", help="images, videos, folders, or quoted globs")
    source.add_argument(
        "--webcam", type=int, nargs="?", const=0, metavar="N", help="camera number (default: the first)"
    )
    parser.add_argument("--output", metavar="PATH", help="folder, or a .png, .jpg or .mp4 file for a single input")
    text = "run folder, checkpoint, transformers folder or exported file (default: newest run in output/)"
    arguments.add_weights(parser, text)
    arguments.add_config_file(parser)
    arguments.add_data(parser, "dataset file (YAML) with the names and colors of the classes")
    arguments.add_device(parser)
    parser.add_argument("--task", choices=TASKS, help="segmentation task (default: the config's)")
    parser.add_argument("--labels", action="store_true", help="also write the class ids as PNG files in labels/")
    parser.add_argument("--semantic-priors", action="store_true", help="also draw the backbone's semantic maps")
    parser.add_argument("--compare", metavar="DIR", help="draw ground truth and errors; DIR holds NAME.png label files")
    parser.add_argument("--opacity", type=float, default=0.6, help="opacity of the colors, from 0 to 1 (default: 0.6)")
    arguments.add_settings(parser)


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
