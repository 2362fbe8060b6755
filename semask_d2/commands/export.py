"""`semask export`: write a trained model as one verified file of standard operators, or as a folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from semask_d2.commands.parsers import FOLDER
from semask_d2.export.exporting import check_settings
from semask_d2.export.writing import GraphSettings, size_of
from semask_d2.factory import described
from semask_d2.inference import media
from semask_d2.inference.exporting import EXPORT_SETTINGS, write_export
from semask_d2.inference.predictor import Predictor
from semask_d2.inference.sources import choose_config
from semask_d2.inference.trained_model import trained_model
from semask_d2.modeling.meta_arch import SemanticSegmenter
from semask_d2.utils.choices import TRANSFORMERS
from semask_d2.utils.errors import UserError, printable


def run(args: argparse.Namespace) -> None:
    """Write the file; raise `UserError` if it cannot be written or if its outputs differ from the model's."""
    if args.batch != "any" and not args.batch.isdecimal():
        raise UserError(f"--batch {args.batch}: expected a whole number of at least 1, or any")
    settings = GraphSettings(
        size=None if args.size is None else tuple(args.size),
        batch=None if args.batch == "any" else int(args.batch),
        input_type=args.input,
        grid_sample=not args.no_grid_sample,
        half_weights=args.fp16,
        resize=args.resize,
        int8=args.int8,
    )
    images = image_files(args.images or [])
    if args.format in (TRANSFORMERS, FOLDER):
        precision = settings.half_weights and args.format == FOLDER
        is_plain = settings == GraphSettings(None, half_weights=precision) and args.outputs == "labels"
        if not is_plain or args.no_normalize or args.images:
            raise UserError(f"--format {args.format}: leave the options of files out; the folder holds the whole model")
        if os.path.lexists(args.output):
            raise UserError(f"--output {args.output}: exists already; name another folder, or remove it")
    else:
        check_settings(args.format, settings, args.outputs, normalize=not args.no_normalize, images=len(images))
    if args.format == FOLDER:
        write_folder(args)
    else:
        cfg = choose_config(args.config_file, args.weights, [*args.opts, *EXPORT_SETTINGS], option=args.weights_option)
        agreements = write_export(
            Predictor(cfg),
            args.output,
            args.format,
            settings,
            outputs=args.outputs,
            normalize=not args.no_normalize,
            images=images,
        )
        for agreement in agreements:
            print(agreement)
    output = Path(args.output)
    size = sum(map(os.path.getsize, output.iterdir())) if output.is_dir() else size_of(output)
    print(printable(f"Wrote {args.output}, {size / 2**20:.1f} MB"))


def write_folder(args: argparse.Namespace) -> None:
    """Write a model with its config and card, with adapters merged; `UserError` if it is not of this project."""
    cfg = choose_config(args.config_file, args.weights, args.opts, option=args.weights_option)
    model = described(cfg, trained_model(cfg))
    if not isinstance(model, SemanticSegmenter):
        raise UserError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE}: only this project's models are exported"
        )
    model.save_pretrained(args.output, half=args.fp16)


def image_files(words: Sequence[str]) -> list[str]:
    """Return the images named on a command line; `UserError` for a video."""
    files = media.find_inputs(words) if words else []
    for path in files:
        if media.is_video(path):
            raise UserError(f"--images {path}: expected images, not videos")
    return [os.fspath(path) for path in files]
