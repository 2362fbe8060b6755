"""Command line of every command. It imports nothing heavy, so that help, mistakes and completion are immediate."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from semask_d2.commands import arguments
from semask_d2.utils.choices import EXPORT_FORMATS, REPORT_IMAGES, TASKS
from semask_d2.utils.runs import RUNS

FOLDER = "folder"  # a value of --format, beside those of `export_model`
PORT = 7860


def add_train(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `semask train`."""
    parser.description = "Train the model that a config describes."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"""examples:
  {parser.prog} --config-file toy_scenes/semask_swin_mini_msfapn_m2f.yaml
  {parser.prog} --config-file ade20k/semask_swin_l_m2f.yaml --num-gpus 8 SOLVER.BASE_LR 0.00005
  {parser.prog} --config-file camvid/semask_timm_lite0_m2f.yaml --data my.yaml --output output/mine
"""
    arguments.add_config_file(parser, "a path, or a name such as ade20k/semask_swin_l_m2f.yaml")
    arguments.add_data(parser)
    arguments.add_weights(parser, "initial weights: checkpoint, run folder or transformers folder (MODEL.WEIGHTS)")
    parser.add_argument("--output", dest="output_dir", metavar="DIR", help="run folder (OUTPUT_DIR)")
    parser.add_argument("--resume", action="store_true", help="continue from the run folder's last checkpoint")
    parser.add_argument("--eval-only", action="store_true", help="evaluate instead of training, as semask eval does")
    arguments.add_device(parser)
    arguments.add_job(parser)
    arguments.add_settings(parser)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `semask eval`."""
    parser.description = "Evaluate a trained model on the test sets of its config, or on the dataset of --data."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"""examples:
  {parser.prog} --weights output/run
  {parser.prog} --weights output/run --data my.yaml TEST.AUG.ENABLED True
  {parser.prog} --weights weights.pth --config-file ade20k/semask_swin_l_m2f.yaml --num-gpus 8
"""
    arguments.add_weights(parser, "run folder, checkpoint, or transformers folder", old_name="--run")
    arguments.add_config_file(parser)
    arguments.add_data(parser)
    parser.add_argument(
        "--output",
        dest="output_dir",
        metavar="DIR",
        help="folder for the results (default: the run folder, output/OWNER/NAME for a repository of the hub)",
    )
    arguments.add_device(parser)
    arguments.add_job(parser)
    arguments.add_settings(parser)
    for name in ("--resume", "--eval-only"):  # accepted because Detectron2's command line has them
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `semask compare`."""
    parser.description = "Evaluate several trained models and print one table."
    text = "run folders, checkpoints or transformers folders"
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help=text)
    parser.add_argument("--weights", nargs="+", default=[], metavar="SOURCE", help=f"more {text}")
    arguments.add_config_file(parser, "config for all models (default: the config saved with each)")
    arguments.add_data(parser)
    arguments.add_device(parser)
    parser.add_argument(
        "--output", metavar="DIR", default="output/compare", help="output folder (default: output/compare)"
    )
    parser.add_argument("--per-class", action="store_true", help="also print the metric of each class")
    arguments.add_settings(parser)


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `semask predict`."""
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


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `semask export`."""
    parser.description = "Write a trained model for other runtimes, and compare the outputs of the file and the model."
    text = "run folder, checkpoint, or transformers folder (default: newest run in output/)"
    arguments.add_weights(parser, text, old_name="--run")
    arguments.add_config_file(parser)
    text = "of a file of operators; or a folder: of transformers, or for --weights, with adapters (LoRA) merged"
    parser.add_argument("--format", choices=(*EXPORT_FORMATS, FOLDER), default="onnx", help=text)
    text = "output file: .onnx, .xml (OpenVINO) or .pt2; or the folder"
    parser.add_argument("--output", required=True, metavar="FILE", help=text)
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
    text = "8-bit products, calibrated on --images: a quarter of the file size, and faster where the processor has them"
    parser.add_argument("--int8", action="store_true", help=text)
    text = "compare on these images (default: random ones); with --int8, on every fifth, and calibrate on the others"
    parser.add_argument("--images", nargs="+", metavar="FILE", help=text)
    arguments.add_settings(parser)


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `semask report`."""
    parser.description = "Write one self-contained HTML page about a run and its evaluations."
    text = "evaluated run folder, or a checkpoint in it (default: newest run in output/)"
    arguments.add_weights(parser, text, old_name="--run")
    parser.add_argument("--output", metavar="FILE", help="file to write (default: report.html in the run folder)")
    parser.add_argument(
        "--images",
        type=int,
        default=REPORT_IMAGES,
        metavar="N",
        help=f"images per group (worst, best, ...) (default: {REPORT_IMAGES})",
    )
    arguments.add_device(parser)
    arguments.add_settings(parser)


def add_web(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `semask web`."""
    parser.description = "Serve a local page that segments images dropped on it. Press Ctrl-C to stop."
    text = f"run folder, checkpoint or transformers folder to show first (default: newest run in {RUNS}/)"
    arguments.add_weights(parser, text, old_name="--run")
    arguments.add_device(parser)
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help=f"port (default: {PORT})")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to serve at (default: this machine only)"
    )
    arguments.add_settings(parser)


def add_init_data(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `semask init-data`."""
    parser.description = (
        "Inspect a folder of images and label files, and draft the YAML file that --data takes. If two folders could "
        "hold the images or the labels, the command names both; choose one with --images or --labels. Negative ids "
        "and 65535 are proposed as ignored, and so is 255 if at least two other ids remain; `ignore` is 65535 for "
        "more than 255 classes."
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder with images and label files, also in its subfolders")
    parser.add_argument(
        "--images", metavar="PATTERN", default="", help='images, relative to FOLDER, such as "images/*.jpg"'
    )
    parser.add_argument(
        "--labels", metavar="PATTERN", default="", help='label files, such as "masks/*_ids.png", or a COCO .json file'
    )
    parser.add_argument(
        "--channels",
        type=int,
        metavar="N",
        help="channels of the images (default: those of multi-channel TIFF files, else 3)",
    )
    parser.add_argument("--output", metavar="FILE", help="file to write (default: the folder's name with .yaml)")


def add_check(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `semask check`."""
    parser.description = "Read every image and label file of a dataset, and list everything that is wrong with them."
    parser.add_argument("file", metavar="FILE", help="the dataset's YAML file")
    parser.add_argument("--html", metavar="PAGE", help="also write a page with a class histogram and sample images")
    parser.add_argument(
        "--list", metavar="TXT", help="write the good pairs of each split to NAME_train.txt and NAME_val.txt"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="number of processes (default: one per core)")


def add_show_config(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `semask config`."""
    parser.description = "Print every setting of a config with the file that set it; nothing is trained."
    parser.add_argument("--set", action="store_true", help="omit settings that still have their default")
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="a path, or a name such as ade20k/semask_swin_l_m2f.yaml"
    )
    arguments.add_config_file(parser, "another way to give FILE")
    arguments.add_device(parser)
    arguments.add_settings(parser)


class Command(NamedTuple):
    """A command: the module in `commands` with its `run(args)`, one line of help, and the function of its arguments."""

    module: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]


COMMANDS = {
    "train": Command("train", "train the model that a config describes", add_train),
    "eval": Command("evaluate", "evaluate a trained model", add_evaluate),
    "compare": Command("compare", "evaluate several trained models and print one table", add_compare),
    "predict": Command("predict", "segment images, videos or a camera stream and draw the results", add_predict),
    "export": Command("export", "write a trained model for other runtimes and verify the file", add_export),
    "report": Command("report", "write one HTML page about a run and its evaluations", add_report),
    "web": Command("web", "serve a local drag-and-drop demo page", add_web),
    "init-data": Command("init_data", "draft the YAML file of a folder of images and labels", add_init_data),
    "check": Command("check", "find every fault in your own dataset", add_check),
    "config": Command("show_config", "print every setting of a config with the file that set it", add_show_config),
}
