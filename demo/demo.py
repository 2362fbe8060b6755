#!/usr/bin/env python3
"""Draw what a model sees: `demo.py --config-file FILE --input IMAGE... --output DIR --opts MODEL.WEIGHTS FILE`."""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone works without being installed

from semask_d2 import Predictor, get_cfg
from semask_d2.data.image_io import read_image
from semask_d2.engine.launch import guarded
from semask_d2.files import atomic_write
from semask_d2.visualization import draw_segmentation


def argument_parser() -> argparse.ArgumentParser:
    """The demo's command line."""
    parser = argparse.ArgumentParser(description="Segment images and draw the result.")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the model")
    parser.add_argument("--input", required=True, nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--opacity", type=float, default=0.6, help="of the colours, from 0 to 1 (default 0.6)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config options as KEY VALUE pairs, last")
    return parser


def save_png(path: Path, image: np.ndarray) -> None:
    """Write an RGB (H, W, 3) or id (H, W) array as PNG, whole or not at all."""
    with atomic_write(path, "wb") as file:
        Image.fromarray(image).save(file, format="PNG")


def main(args: argparse.Namespace) -> None:
    """Draw each input into the output folder, as NAME.png."""
    predictor = Predictor(get_cfg(args.config_file, args.opts))
    for path in map(Path, args.input):
        image = read_image(path)
        picture = draw_segmentation(
            image,
            predictor(image).labels,
            names=predictor.class_names,
            colors=predictor.class_colors,
            opacity=args.opacity,
        )
        target = Path(args.output, f"{path.stem}.png")
        save_png(target, picture)
        print(f"{path} -> {target}")


if __name__ == "__main__":
    arguments = argument_parser().parse_args()
    sys.exit(guarded(main, arguments, debug=arguments.debug))
