"""Write ADEChallengeData2016/annotations_detectron2: the labels of `annotations` minus 1, and 255 for "other" (0).

    python datasets/prepare_ade20k.py [--root FOLDER]

FOLDER contains ADEChallengeData2016. The default is DETECTRON2_DATASETS, or ./datasets if that is not set. An
interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from semask_d2.data.datasets.ade20k import ADE20K
from semask_d2.data.datasets.convert import convert_labels
from semask_d2.data.datasets.folder import datasets_root
from semask_d2.utils.errors import UserError

NEW_IDS = {0: ADE20K.classes.ignore_label} | {i: i - 1 for i in range(1, len(ADE20K.classes) + 1)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--root", type=Path, default=datasets_root(), help="folder that contains ADEChallengeData2016")
    home = parser.parse_args(arguments).root / ADE20K.folder
    for split in ADE20K.splits.values():
        written = convert_labels(home / "annotations" / split, home / ADE20K.labels / split, NEW_IDS)
        print(f"{home / ADE20K.labels / split}: {written} label files written")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
