"""`semask init-data FOLDER`: draft the YAML file of a dataset, to be completed by hand."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from semask_d2.config.checks import MAX_CHANNELS
from semask_d2.d2 import DatasetCatalog
from semask_d2.data.datasets.lists import list_line
from semask_d2.data.guessing import as_yaml, guess
from semask_d2.utils import foreign
from semask_d2.utils.errors import UserError, printable
from semask_d2.utils.files import atomic_write, folder_name

DEFAULT_NAME = "my_data"  # of the file and the dataset, if the folder's name is invalid


def run(args: argparse.Namespace) -> None:
    """Inspect the folder and write the YAML file; raise `UserError` if the file already exists."""
    folder = Path(args.folder)
    output = Path(args.output or f"{default_name(folder)}.yaml")
    if os.path.lexists(output):
        raise UserError(f"{output} already exists; remove it, or name another file with --output")
    if args.channels is not None and not 1 <= args.channels <= MAX_CHANNELS:
        raise UserError(f"--channels {args.channels}: expected a number from 1 to {MAX_CHANNELS}")
    guessed = guess(folder, images=args.images, labels=args.labels, channels=args.channels)
    lists = {split: output.with_name(f"{output.stem}_{split}.txt") for split, x in guessed.splits.items() if x.pairs}
    for path in lists.values():
        if os.path.lexists(path):
            raise UserError(f"{path} already exists; remove it, or name another file with --output")
    text = as_yaml(guessed, folder, free_name(output), lists)
    contents = {
        lists[split]: "".join(list_line(x, Path(os.path.abspath(folder))) for x in guessed.splits[split].pairs)
        for split in lists
    }
    try:
        "".join([text, *contents.values()]).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{printable(str(folder))}: it holds file names that are not UTF-8; rename them") from error
    for path, content in {**contents, output: text}.items():
        with atomic_write(path) as file:
            file.write(content)
    advice = "check the class names" if guessed.classes.are_named else "fill in the class names"
    contents_summary = f"{', '.join(guessed.splits)}; label files hold {guessed.held}"
    argument = f"./{output}" if str(output).startswith("-") else str(output)
    first_line = f"Wrote {output} ({contents_summary}): {advice}, then run semask check {shlex.quote(argument)}"
    list_lines = [
        f"Wrote {path}, pairs of images and labels, because one folder holds several splits" for path in lists.values()
    ]
    print(printable("\n".join([first_line, *list_lines, *guessed.remarks])))


def default_name(folder: Path) -> str:
    """Return a folder's name if it is a valid dataset name, else DEFAULT_NAME."""
    try:
        return foreign.text(folder_name(folder.resolve().name, "name"), "name")
    except UserError:
        return DEFAULT_NAME


def free_name(output: Path) -> str:
    """Return a dataset name to write into the file `output`, or "" if the file's own name can serve.

    It cannot if it is not a valid folder name, or if a registered dataset already has it.
    """
    try:
        name = foreign.text(folder_name(output.stem, "name"), "name")
    except UserError:
        return DEFAULT_NAME
    is_taken = any(f"{name}_{split}" in DatasetCatalog.list() for split in ("train", "val"))
    return f"my_{name}" if is_taken else ""
