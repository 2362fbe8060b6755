"""Create coco_stuff10k/{images,annotations}/{train,test} from the public COCO-Stuff 10k release (version 1.1).

    python datasets/prepare_coco_stuff10k.py --source FOLDER [--root FOLDER]

SOURCE contains the release's images/, annotations/ (.mat) and imageLists/. The result is written below --root; the
default is DETECTRON2_DATASETS, or ./datasets if that is not set. An interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat

from semask_d2.data.datasets.coco_stuff10k import COCO_STUFF_10K, TRAIN_ID_OF_RELEASED
from semask_d2.data.datasets.folder import datasets_root
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write


def convert(path: Path) -> np.ndarray:
    """Return the label map of one released .mat file, in training ids (H, W) uint8."""
    try:
        labels = loadmat(path)["S"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: expected a .mat file with the label map S ({error})") from error
    table = np.full(256, COCO_STUFF_10K.classes.ignore_label, np.uint8)
    for released, train_id in TRAIN_ID_OF_RELEASED.items():
        table[released] = train_id
    if unknown := sorted(set(np.unique(labels).tolist()) - {0, *TRAIN_ID_OF_RELEASED}):
        raise UserError(f"{path} holds ids {unknown[:8]} that are not COCO-Stuff classes")
    return table[labels]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--source", type=Path, required=True, help="folder of the unpacked release")
    parser.add_argument("--root", type=Path, default=datasets_root(), help="folder that will hold coco_stuff10k")
    options = parser.parse_args(arguments)
    home = options.root / COCO_STUFF_10K.folder
    for split in ("train", "test"):
        names = options.source / "imageLists" / f"{split}.txt"
        if not names.is_file():
            raise UserError(f"{names} does not exist: --source must be the unpacked COCO-Stuff 10k release")
        for name in names.read_text().split():
            image = home / "images" / split / f"{name}.jpg"
            labels = home / "annotations" / split / f"{name}.png"
            if not labels.exists():
                with atomic_write(labels, "wb") as file:
                    Image.fromarray(convert(options.source / "annotations" / f"{name}.mat")).save(file, format="PNG")
            if not image.exists():
                with atomic_write(image, "wb") as file, open(options.source / "images" / f"{name}.jpg", "rb") as old:
                    shutil.copyfileobj(old, file)
        print(f"{home}: {split} is complete")


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
