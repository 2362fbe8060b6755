"""`semask check FILE`: all that is wrong with a data set of one's own, before a training meets it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from semask_d2.config import get_cfg
from semask_d2.data.check_page import as_page, as_text
from semask_d2.data.checking import DataCheck, check_data
from semask_d2.data.datasets.custom import CustomDataset
from semask_d2.data.datasets.lists import list_line
from semask_d2.utils.errors import UserError, printable
from semask_d2.utils.files import atomic_write, is_written_through


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.description = "Read every image and label file of a data set, and tell all that is wrong with them."
    parser.add_argument("file", metavar="FILE", help="the data set's YAML file")
    parser.add_argument("--html", metavar="PAGE", help="also write a page with class histogram and sample pictures")
    parser.add_argument(
        "--list", metavar="TXT", help="write the good pairs of each split, as NAME_train.txt and NAME_val.txt"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")


def run(args: argparse.Namespace) -> None:
    """Check, print and write; raise `UserError` where there is any fault."""
    if args.workers is not None and args.workers < 0:
        raise UserError(f"--workers {args.workers}: expected 0, to use this process alone, or more")
    cfg = get_cfg(data=args.file)
    dataset = CustomDataset.from_section(cfg.DATASETS.CUSTOM)
    check = check_data(dataset, value_range=cfg.INPUT.VALUE_RANGE, workers=args.workers)
    print(printable(as_text(dataset, check)))
    if args.html is not None:
        with atomic_write(args.html) as file:
            file.write(as_page(dataset, check, cfg.INPUT.VALUE_RANGE))
        print(printable(f"Wrote {args.html}"))
    if args.list is not None:
        write_lists(Path(args.list), dataset, check)
    if check.faults:
        goes_on = bool(check.dicts) and all(map(check.good, check.dicts))
        advice = ", or go on with the good pairs that --list writes" if goes_on else ""
        raise UserError(f"{args.file}: {len(check.faults)} fault(s), listed above; mend them{advice}")


def write_lists(path: Path, dataset: CustomDataset, check: DataCheck) -> None:
    """Write the good pairs of each split to a text file, which a data set's file can name in the place of patterns."""
    if not path.name:
        raise UserError(f"--list {path}: expected a file's name, as good.txt")
    for split in check.dicts:
        to_device = path.exists() and not path.is_dir() and is_written_through(path)  # a pipe or device, or the output
        target = path if to_device else path.with_name(f"{path.stem}_{split}.txt")
        lines = [list_line((x["file_name"], x["sem_seg_file_name"]), dataset.root) for x in check.good(split)]
        if not lines:
            raise UserError(f"--list {path}: no good pair of files in {split} to write")
        with atomic_write(target) as file:
            file.writelines(lines)
        print(printable(f"Wrote {target}, {len(lines)} pairs: `{split}: {os.path.abspath(target)}` uses it"))
