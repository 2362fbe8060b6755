"""toy_scenes: a small procedural dataset in ADE20K's folder layout, generated on first use."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from semask_d2.data.datasets import toy_painter
from semask_d2.data.datasets.folder import FolderDataset
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError

SIZES = {"training": 200, "validation": 50}
COLORS = (
    (90, 170, 255), (0, 50, 200), (120, 220, 80), (0, 95, 20), (95, 95, 105), (200, 200, 205),
    (255, 30, 30), (255, 140, 0), (240, 220, 120), (130, 80, 20), (200, 0, 200), (255, 160, 255),
)  # fmt: skip


def ensure_generated(folder: Path) -> None:
    """Generate the dataset in `folder` unless it exists; raises `UserError` if it cannot be written."""
    if folder.exists():
        return
    logging.getLogger(__name__).info("generating toy_scenes in %s", folder)
    try:
        generate(folder, SIZES)
    except OSError as error:
        raise UserError(
            f"toy_scenes cannot be generated in {folder} ({error.strerror}): "
            "set DETECTRON2_DATASETS to a writable folder"
        ) from error


TOY_SCENES = FolderDataset(
    prefix="toy_scenes",
    folder="toy_scenes",
    labels="annotations",
    splits={"train": "training", "val": "validation"},
    classes=Classes(toy_painter.CLASSES, COLORS),
    how_to_get="remove the whole toy_scenes folder; it is generated again on the next use",
    prepare=ensure_generated,
)


def generate(folder: Path, sizes: dict[str, int]) -> None:
    """Write `sizes[split]` scenes per split to `folder`, which appears only when all of them are written.

    If several processes generate the dataset at once, the first to finish wins. All results are equal, because a scene
    depends only on its number.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for split_number, (split, count) in enumerate(sizes.items()):
            images, labels = temporary / "images" / split, temporary / "annotations" / split
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for number in range(count):
                image, label_map = toy_painter.paint_scene(split_number, number)
                Image.fromarray(image).save(images / f"{number:04d}.jpg", quality=95)
                Image.fromarray(label_map).save(labels / f"{number:04d}.png")
        temporary.chmod(0o755)  # mkdtemp's 0700 would hide the folder from the user's group
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
