"""`semask export`: write a trained model as a verified file of standard operators, or as a folder for this project."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from semask_d2.commands import arguments
from semask_d2.data.augmentation import image_tensor
from semask_d2.export.exporting import check_settings, export_model
from semask_d2.export.writing import GraphSettings, size_of
from semask_d2.factory import described
from semask_d2.inference import media
from semask_d2.inference.predictor import Predictor, trained_model
from semask_d2.inference.sources import choose_config
from semask_d2.modeling.meta_arch.base import SemanticSegmenter
from semask_d2.utils.errors import UserError, printable
from semask_d2.utils.runs import WEIGHTS_NAME

FOLDER = "folder"  # a value of --format
# exporting needs a single graph in full precision
EXPORT_SETTINGS = (
    "MODEL.DEVICE",
    "cpu",
    "MODEL.PRECISION",
    "fp32",
    "MODEL.COMPILE",
    "",
    "TEST.SLIDING.ENABLED",
    "False",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments of the command."""
    parser.description = "Write a trained model for other runtimes, and compare the outputs of the file and the model."
    text = "run folder, checkpoint, or transformers folder (default: newest run in output/)"
    arguments.add_weights(parser, text, old_name="--run")
    arguments.add_config_file(parser)
    parser.add_argument(
        "--format",
        choices=("onnx", "openvino", "torch_export", FOLDER),
        default="onnx",
        help="of a file of operators, or a folder for --weights of other commands, with adapters (LoRA) merged",
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="output file: .onnx, .xml (OpenVINO) or .pt2; or the folder"
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="fixed input size")
    sizes.add_argument("--dynamic", action="store_true", help="inputs of any size (the default)")
    parser.add_argument("--batch", default="1", metavar="N", help="batch size, or any (default: 1)")
    parser.add_argument("--outputs", choices=("labels", "scores", "logits"), default="labels")
    parser.add_argument(
        "--input", choices=("uint8", "float"), default="uint8", help="type of the input images, 0 to 255"
    )
    parser.add_argument(
        "--resize",
        action="store_true",
        help="resize in the graph, by INPUT.MIN_SIZE_TEST (default: the caller resizes)",
    )
    parser.add_argument("--no-normalize", action="store_true", help="expect normalized images (needs --input float)")
    parser.add_argument("--no-grid-sample", action="store_true", help="use gathers and products instead of GridSample")
    parser.add_argument("--fp16", action="store_true", help="half-precision weights: half the file size")
    parser.add_argument("--images", nargs="+", metavar="FILE", help="compare on these images (default: random ones)")
    arguments.add_settings(parser)


def run(args: argparse.Namespace) -> None:
    """Write the file or folder; raise `UserError` if it cannot be written or if outputs differ from the model's."""
    if args.batch != "any" and not args.batch.isdecimal():
        raise UserError(f"--batch {args.batch}: expected a whole number of at least 1, or any")
    settings = GraphSettings(
        size=None if args.size is None else tuple(args.size),
        batch=None if args.batch == "any" else int(args.batch),
        input_type=args.input,
        grid_sample=not args.no_grid_sample,
        half_weights=args.fp16,
        resize=args.resize,
    )
    if args.format == FOLDER:
        graph = settings._replace(half_weights=False) != GraphSettings(None) or args.outputs != "labels"
        if graph or args.no_normalize or args.images or args.dynamic:
            raise UserError(f"--format {FOLDER}: leave the options of graphs out; the folder holds the whole model")
        write_folder(args)
        return
    check_settings(args.format, settings, args.outputs, normalize=not args.no_normalize)
    predictor = Predictor(
        choose_config(args.config_file, args.weights, [*args.opts, *EXPORT_SETTINGS], option=args.weights_option)
    )
    if not isinstance(predictor.model, SemanticSegmenter):
        raise UserError(
            f"MODEL.META_ARCHITECTURE {predictor.cfg.MODEL.META_ARCHITECTURE}: only this project's models are exported"
        )
    agreements = export_model(
        predictor.model,
        predictor.cfg,
        predictor.classes,
        args.format,
        args.output,
        settings,
        outputs=args.outputs,
        normalize=not args.no_normalize,
        images=image_batches(predictor, args.images or [], settings),
    )
    for agreement in agreements:
        print(agreement)
    print(printable(f"Wrote {args.output}, {size_of(Path(args.output)) / 2**20:.1f} MB"))


def write_folder(args: argparse.Namespace) -> None:
    """Write a model with its config and card, with adapters merged; `UserError` if it is not of this project."""
    cfg = choose_config(args.config_file, args.weights, args.opts, option=args.weights_option)
    model, recorded = trained_model(cfg)
    if not isinstance(model, SemanticSegmenter):
        raise UserError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}: only this project's models are exported"
        )
    described(model, cfg, recorded)
    model.save_pretrained(args.output, half=args.fp16)
    print(printable(f"Wrote {args.output}, {size_of(Path(args.output, WEIGHTS_NAME)) / 2**20:.1f} MB"))


def image_batches(predictor: Predictor, words: Sequence[str], settings: GraphSettings) -> list[np.ndarray]:
    """Return the images named on a command line as batches (B, 3, H, W), ready for the graph."""
    batches = []
    for path in media.find_inputs(words) if words else []:
        if media.is_video(path):
            raise UserError(f"--images {path}: expected images, not videos")
        pixels = predictor.read_image(path)
        if settings.resize:
            image, when = image_tensor(pixels, predictor.cfg.INPUT.FORMAT).numpy(), ""
        else:
            image, when = predictor.prepare(pixels)["image"].numpy(), " after resizing by INPUT.MIN_SIZE_TEST"
        if settings.size is not None and image.shape[1:] != settings.size:
            raise UserError(
                f"--images {path}: it is {image.shape[1]} x {image.shape[2]}{when}, but --size is {settings.size[0]} x "
                f"{settings.size[1]}; give images of that size, or leave --images out"
            )
        batches.append(np.repeat(image[None], settings.batch or 1, axis=0))
    return batches
