"""`semask report`: write the evaluations of a run as one HTML page."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from semask_d2.config.transformers_folders import is_transformers_folder
from semask_d2.inference.sources import choose_run, find_source
from semask_d2.report import write_report
from semask_d2.utils.errors import UserError, printable


def run(args: argparse.Namespace) -> None:
    """Write the page and print its path."""
    if args.images < 0:
        raise UserError(f"--images {args.images}: expected 0 or more")
    folder = choose_run() if args.weights is None else evaluated_folder(args.weights, args.weights_option)
    print(printable(str(write_report(folder, args.output, images=args.images, opts=args.opts))))


def evaluated_folder(source: str, option: str) -> Path:
    """Return the folder into which `semask eval` writes the results of the model `source`."""
    if os.path.isdir(source) and not is_transformers_folder(source):
        return Path(source)
    if os.path.isfile(source):
        return Path(source).parent
    results = find_source(source, option).results
    if results is None:
        raise UserError(f"{option} {source}: expected an evaluated run folder")
    return Path(results)
