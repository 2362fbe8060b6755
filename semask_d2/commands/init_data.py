"""`semask init-data FOLDER`: a first description of a data set, to be completed by hand."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from semask_d2.d2 import DatasetCatalog
from semask_d2.data.datasets.lists import list_line
from semask_d2.data.guessing import as_yaml, guess
from semask_d2.utils import foreign
from semask_d2.utils.errors import UserError, printable
from semask_d2.utils.files import atomic_write, folder_name

DEFAULT_NAME = "my_data"  # of the file, where the folder's own name can be none


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = (
        "Look at a folder of images and label files, and write the YAML file that --data takes. Where two "
        "folders could be the images, or the labels, it names both, and --images or --labels says which is meant. "
        "Negative ids and 65535 are proposed as ignored, 255 too where two other ids are left; `ignore` is 65535 for "
        "more than 255 classes."
    )
    parser.add_argument("folder", metavar="FOLDER", help="where images and label files are, in any folders in it")
    parser.add_argument("--images", metavar="PATTERN", default="", help='the images, below FOLDER, as "images/*.jpg"')
    parser.add_argument(
        "--labels", metavar="PATTERN", default="", help='the label files, as "masks/*_ids.png", or a COCO .json file'
    )
    parser.add_argument("--output", metavar="FILE", help="the file to write (default: the folder's name, as .yaml)")


def run(args: argparse.Namespace) -> None:
    """Look, and write a file that is not there yet."""
    folder = Path(args.folder)
    output = Path(args.output or f"{default_name(folder)}.yaml")
    if os.path.lexists(output):
        raise UserError(f"{output} is there already; remove it, or name another file with --output")
    guessed = guess(folder, images=args.images, labels=args.labels)
    lists = {split: output.with_name(f"{output.stem}_{split}.txt") for split, x in guessed.splits.items() if x.pairs}
    for path in lists.values():
        if os.path.lexists(path):
            raise UserError(f"{path} is there already; remove it, or name another file with --output")
    text = as_yaml(guessed, folder, free_name(output), lists)
    contents = {
        lists[split]: "".join(list_line(x, Path(os.path.abspath(folder))) for x in guessed.splits[split].pairs)
        for split in lists
    }
    try:
        "".join([text, *contents.values()]).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{printable(str(folder))}: names of files in it are not in UTF-8; rename them") from error
    for path, content in {**contents, output: text}.items():
        with atomic_write(path) as file:
            file.write(content)
    advice = "see that its names are right" if guessed.classes.are_named else "put the classes' names in"
    seen = f"{', '.join(guessed.splits)}; label files hold {guessed.held}"
    named = f"./{output}" if str(output).startswith("-") else str(output)
    written = f"Wrote {output} ({seen}): {advice}, then semask check {shlex.quote(named)}"
    listed = [
        f"Wrote {path}, pairs of images and labels, as one folder holds those of several splits"
        for path in lists.values()
    ]
    print(printable("\n".join([written, *listed, *guessed.remarks])))


def default_name(folder: Path) -> str:
    """Return the name of a folder, where it can be that of a data set."""
    try:
        return foreign.text(folder_name(folder.resolve().name, "name"), "name")
    except UserError:
        return DEFAULT_NAME


def free_name(output: Path) -> str:
    """Return a name for the data set of a file where the file's own cannot be it; "" where it can.

    The name can be none of a path's part, or be that of a data set that there is.
    """
    try:
        name = foreign.text(folder_name(output.stem, "name"), "name")
    except UserError:
        return DEFAULT_NAME
    is_taken = any(f"{name}_{split}" in DatasetCatalog.list() for split in ("train", "val"))
    return f"my_{name}" if is_taken else ""
