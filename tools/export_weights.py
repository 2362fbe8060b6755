#!/usr/bin/env python3
"""Write the weights of a checkpoint alone: `export_weights.py --weights FILE --output OUT.safetensors`."""

import argparse
import sys

from semask_d2.checkpoint.class_metadata import METADATA, metadata_of_file
from semask_d2.checkpoint.loading import tensors_of
from semask_d2.checkpoint.readers import read_checkpoint
from semask_d2.checkpoint.saving import write_safetensors
from semask_d2.checkpoint.semantic_windows import RECORD, windows_of_file
from semask_d2.engine.launch import guarded
from semask_d2.utils.errors import UserError


def main(args: argparse.Namespace) -> None:
    """Read, and write under the same names."""
    if not args.output.endswith(".safetensors"):
        raise UserError(f"--output {args.output}: expected a name that ends with .safetensors")
    data = read_checkpoint(args.weights)
    state = tensors_of(data, args.weights)
    header = {RECORD: windows_of_file(data), METADATA: metadata_of_file(data)}
    write_safetensors(args.output, state, {key: value for key, value in header.items() if value})
    print(f"{args.weights} -> {args.output}: {len(state)} tensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the weights of a checkpoint as safetensors.")
    parser.add_argument("--weights", required=True, metavar="FILE", help="what MODEL.WEIGHTS takes")
    parser.add_argument("--output", required=True, metavar="OUT", help="safetensors file")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args()
    sys.exit(guarded(main, arguments, debug=arguments.debug))
