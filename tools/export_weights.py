#!/usr/bin/env python3
"""Write only the weights of a checkpoint: `export_weights.py --weights FILE --output OUT.safetensors`.

`--format transformers` is `semask export --format transformers`, which also works without a clone.
"""

import argparse
import sys

from semask_d2.__main__ import parse_arguments
from semask_d2.checkpoint.backbone_training import RECORD as TRAINING
from semask_d2.checkpoint.backbone_training import require_no_adapters
from semask_d2.checkpoint.class_metadata import METADATA, classes_of_file
from semask_d2.checkpoint.loading import tensors_of
from semask_d2.checkpoint.readers import read_checkpoint
from semask_d2.checkpoint.saving import write_safetensors
from semask_d2.checkpoint.semantic_windows import RECORD, windows_of_file
from semask_d2.commands import export
from semask_d2.engine.launch import guarded
from semask_d2.utils.errors import UserError

FORMAT = ("--format", "transformers")


def main(args: argparse.Namespace) -> None:
    """Write the weights in the requested format."""
    if args.format == "transformers":
        words = ["--config-file", args.config_file] if args.config_file else []
        export.run(parse_arguments("export", ["--weights", args.weights, "--output", args.output, *FORMAT, *words]))
    else:
        print(f"{args.weights} -> {args.output}: {export_safetensors(args)} tensors")


def export_safetensors(args: argparse.Namespace) -> int:
    """Write a safetensors file and return the number of tensors."""
    if not args.output.endswith(".safetensors"):
        raise UserError(f"--output {args.output}: expected a name that ends with .safetensors")
    data = read_checkpoint(args.weights)
    state = tensors_of(data, args.weights)
    require_no_adapters(data, state, args.weights)
    classes = classes_of_file(data)
    header = {RECORD: windows_of_file(data), METADATA: None if classes is None else classes.as_dict()}
    header[TRAINING] = data.get(TRAINING)
    write_safetensors(args.output, state, {key: value for key, value in header.items() if value})
    return len(state)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Write the weights of a checkpoint for other programs.", allow_abbrev=False
    )
    parser.add_argument("--weights", required=True, metavar="FILE", help="weight file, as for MODEL.WEIGHTS")
    parser.add_argument("--output", required=True, metavar="OUT", help="safetensors file; for transformers, a folder")
    parser.add_argument("--format", choices=["safetensors", "transformers"], default="safetensors")
    parser.add_argument(
        "--config-file", metavar="FILE", help="config, for transformers only; default: beside the weights"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args()
    sys.exit(guarded(main, arguments, debug=arguments.debug))
