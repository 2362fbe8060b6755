#!/usr/bin/env python3
"""Write only the weights of a checkpoint: `export_weights.py --weights FILE --output OUT.safetensors`.

With `--format transformers`, write a Mask2Former or MaskFormer without semantic layers as a folder that transformers'
`from_pretrained` loads. The model's config is the `config.yaml` beside the weights, or `--config-file`.
"""

import argparse
import os
import sys
from pathlib import Path

from semask_d2.checkpoint.backbone_training import RECORD as TRAINING
from semask_d2.checkpoint.backbone_training import require_no_adapters
from semask_d2.checkpoint.class_metadata import METADATA, classes_of_file
from semask_d2.checkpoint.kinds import recognize
from semask_d2.checkpoint.loading import tensors_of
from semask_d2.checkpoint.readers import read_checkpoint
from semask_d2.checkpoint.saving import write_safetensors
from semask_d2.checkpoint.semantic_windows import RECORD, windows_of_file
from semask_d2.checkpoint.transformers_folder import write_folder
from semask_d2.config import get_cfg
from semask_d2.config.transformers_config import config_for_transformers, processor_for_transformers
from semask_d2.engine.launch import guarded
from semask_d2.utils.errors import UserError
from semask_d2.utils.runs import CONFIG_NAME


def main(args: argparse.Namespace) -> None:
    """Write the weights in the requested format."""
    if args.format == "transformers":
        count = export_to_transformers(args)
    else:
        count = export_safetensors(args)
    print(f"{args.weights} -> {args.output}: {count} tensors")


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


def export_to_transformers(args: argparse.Namespace) -> int:
    """Write a model folder of transformers and return the number of tensors."""
    if Path(args.output).exists():
        raise UserError(f"--output {args.output}: exists already; name another folder, or remove it")
    weights = Path(args.weights)
    config_file = args.config_file or (weights if weights.is_dir() else weights.parent) / CONFIG_NAME
    if not os.path.exists(config_file) and not args.config_file:
        raise UserError(f"{args.weights}: no {CONFIG_NAME} beside it; add --config-file FILE, the model's config")
    cfg = get_cfg(config_file, fit=False)
    data = read_checkpoint(weights)
    state = tensors_of(data, weights)
    require_no_adapters(data, state, args.weights)
    state, _ = recognize(state, {}).convert(state, {})
    classes = classes_of_file(data)
    names = None if classes is None else classes.names
    return write_folder(args.output, state, config_for_transformers(cfg, names), processor_for_transformers(cfg))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the weights of a checkpoint for other programs.")
    parser.add_argument("--weights", required=True, metavar="FILE", help="weight file, as for MODEL.WEIGHTS")
    parser.add_argument("--output", required=True, metavar="OUT", help="safetensors file; for transformers, a folder")
    parser.add_argument("--format", choices=["safetensors", "transformers"], default="safetensors")
    parser.add_argument(
        "--config-file", metavar="FILE", help="config, for transformers only; default: beside the weights"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args()
    sys.exit(guarded(main, arguments, debug=arguments.debug))
