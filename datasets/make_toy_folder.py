"""Generate an example folder of images and label files, to try the commands with.

    python datasets/make_toy_folder.py FOLDER [--images N]

It contains images/{training,validation}/NNNN.jpg and annotations/{training,validation}/NNNN.png of `toy_scenes`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from semask_d2.data.datasets.toy_scenes import generate
from semask_d2.utils.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, help="folder to write; it must not exist yet")
    parser.add_argument("--images", type=int, default=80, metavar="N", help="training images; N/4 for validation")
    options = parser.parse_args(arguments)
    if options.folder.exists():
        raise UserError(f"{options.folder} exists already; remove it, or name another folder")
    if options.images < 4:
        raise UserError(f"--images {options.images}: expected at least 4")
    sizes = {"training": options.images, "validation": options.images // 4}
    generate(options.folder, sizes)
    print(f"{options.folder}: {sizes['training']} training images, {sizes['validation']} validation images")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
