"""`semask check FILE`: find every fault in a custom dataset before training starts."""

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


def run(args: argparse.Namespace) -> None:
    """Check the dataset and print the result; raise `UserError` if there is any fault."""
    if args.workers is not None and args.workers < 0:
        raise UserError(f"--workers {args.workers}: expected 0 (use only this process) or more")
    cfg = get_cfg(data=args.file)
    dataset = CustomDataset.from_section(cfg.DATASETS.CUSTOM, cfg.INPUT.CHANNELS)
    reading = {"value_range": cfg.INPUT.VALUE_RANGE, "channels": cfg.INPUT.CHANNELS}
    check = check_data(dataset, **reading, workers=args.workers)
    print(printable(as_text(dataset, check)))
    if args.html is not None:
        with atomic_write(args.html) as file:
            file.write(as_page(dataset, check, **reading))
        print(printable(f"Wrote {args.html}"))
    if args.list is not None:
        write_lists(Path(args.list), dataset, check)
    if check.faults:
        has_good_pairs = bool(check.dicts) and all(map(check.good, check.dicts))
        advice = ", or train on the good pairs that --list writes" if has_good_pairs else ""
        raise UserError(f"{args.file}: {len(check.faults)} fault(s), listed above; fix them{advice}")


def write_lists(path: Path, dataset: CustomDataset, check: DataCheck) -> None:
    """Write the good pairs of each split to a text file, which a dataset's YAML file can name instead of patterns."""
    if not path.name:
        raise UserError(f"--list {path}: expected a file name such as good.txt")
    for split in check.dicts:
        is_stream = path.exists() and not path.is_dir() and is_written_through(path)  # a pipe, a device or the output
        target = path if is_stream else path.with_name(f"{path.stem}_{split}.txt")
        pairs = (check.dicts[split][place] for place in check.good(split))
        lines = [list_line((x["file_name"], x["sem_seg_file_name"]), dataset.root) for x in pairs]
        if not lines:
            raise UserError(f"--list {path}: split {split} has no good pair of files to write")
        with atomic_write(target) as file:
            file.writelines(lines)
        print(printable(f"Wrote {target}, {len(lines)} pairs; to use it: `{split}: {os.path.abspath(target)}`"))
