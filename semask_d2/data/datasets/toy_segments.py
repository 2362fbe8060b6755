"""toy_scenes with segments: panoptic maps and instances of its scenes in COCO's formats, generated on first use."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semask_d2.data.annotations import run_lengths
from semask_d2.data.datasets import toy_painter, toy_scenes
from semask_d2.data.datasets.coco_segments import Category, SegmentDataset, SegmentFiles
from semask_d2.utils.errors import UserError

FOLDER = "toy_scenes"
SPLITS = {"train": "training", "val": "validation"}
FIRST_OBJECT = 20  # smaller segment ids belong to the ground and are class + 1
CATEGORIES = tuple(
    Category(i + 1, name, i in toy_painter.THINGS, color)
    for i, (name, color) in enumerate(zip(toy_painter.CLASSES, toy_scenes.COLORS, strict=True))
)


def ensure_segments(root: Path) -> None:
    """Generate toy_scenes in `root`, and its segments, unless they exist."""
    home = root / FOLDER
    toy_scenes.ensure_generated(home)
    if (home / "segments").exists():
        return
    logging.getLogger(__name__).info("adding segments to toy_scenes in %s", home)
    try:
        generate(home)
    except OSError as error:
        raise UserError(
            f"the segments of toy_scenes cannot be generated in {home} ({error.strerror}): "
            "set DETECTRON2_DATASETS to a writable folder"
        ) from error


def generate(home: Path) -> None:
    """Write the folder `segments` for the scenes in `home`; it appears only when it is complete."""
    temporary = Path(tempfile.mkdtemp(dir=home, prefix=".segments."))
    try:
        for split_number, split in enumerate(toy_scenes.SIZES):
            (temporary / split).mkdir()
            panoptic: list[dict[str, Any]] = []
            instances: list[dict[str, Any]] = []
            images: list[dict[str, Any]] = []
            for file in sorted((home / "images" / split).glob("*.jpg")):
                number = int(file.stem)
                ids, segments = paint_segments(split_number, number)
                image = {"id": number, "file_name": file.name, "height": ids.shape[0], "width": ids.shape[1]}
                images.append(image)
                colors = np.stack([ids, np.zeros_like(ids), np.zeros_like(ids)], axis=-1)  # id = R + 256 G + 65536 B
                Image.fromarray(colors).save(temporary / split / f"{file.stem}.png")
                panoptic.append({"image_id": number, "file_name": f"{file.stem}.png", "segments_info": segments})
                things = [x for x in segments if x["id"] >= FIRST_OBJECT]
                instances += [
                    instance(ids, x, image_id=number, number=len(instances) + i) for i, x in enumerate(things)
                ]
            categories = [{**x._asdict(), "isthing": int(x.is_thing)} for x in CATEGORIES]
            for name, annotations in (("panoptic", panoptic), ("instances", instances)):
                content = {"images": images, "annotations": annotations, "categories": categories}
                (temporary / f"{name}_{split}.json").write_text(json.dumps(content), encoding="utf-8")
        temporary.chmod(0o755)
        try:
            temporary.rename(home / "segments")
        except OSError:
            if not (home / "segments").exists():  # another process may have been faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def paint_segments(*seed: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return a scene's segment ids (H, W) uint8, 0 for unlabeled pixels, and their `segments_info` as in COCO."""
    _, labels, objects = toy_painter.paint_objects(*seed)
    is_thing = np.isin(labels, toy_painter.THINGS)
    ids = np.where(is_thing, FIRST_OBJECT + objects, labels + 1)
    ids[labels == toy_painter.IGNORE] = 0
    segments = []
    for number in np.unique(ids[ids > 0]):
        mask = ids == number
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        left, top = int(columns[0]), int(rows[0])
        segments.append(
            {
                "id": int(number),
                "category_id": int(labels[mask][0]) + 1,
                "area": int(mask.sum()),
                "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
                "iscrowd": 0,
            }
        )
    return ids.astype(np.uint8), segments


def instance(ids: np.ndarray, segment: dict[str, Any], *, image_id: int, number: int) -> dict[str, Any]:
    """Return COCO's annotation of a segment as an instance, with its mask as RLE."""
    return {**segment, "id": number + 1, "image_id": image_id, "segmentation": run_lengths(ids == segment["id"])}


def _files(split: str, kind: str) -> SegmentFiles:
    maps = f"{FOLDER}/segments/{split}" if kind == "panoptic" else ""
    return SegmentFiles(f"{FOLDER}/images/{split}", f"{FOLDER}/segments/{kind}_{split}.json", maps)


HOW = "remove the whole folder toy_scenes/segments; it is generated again on the next use"
TOY_SCENES_PANOPTIC, TOY_SCENES_INSTANCE = (
    SegmentDataset(
        splits={f"toy_scenes_{name}_{split}": _files(folder, kind) for split, folder in SPLITS.items()},
        categories=CATEGORIES,
        how_to_get=HOW,
        prepare=ensure_segments,
    )
    for name, kind in (("panoptic", "panoptic"), ("instance", "instances"))
)
