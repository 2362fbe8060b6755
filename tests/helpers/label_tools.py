"""Exports of label tools, in the form of each tool, of two photographs with one known square each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 64
SQUARES = {"a": (8, 8, 24, 24), "b": (30, 20, 50, 44)}  # left, top, right, bottom; its class is "cat"
COLORS = np.array([[0, 0, 0], [250, 50, 83]], np.uint8)


def photograph(name: str) -> np.ndarray:
    """Return an image (64, 64, 3) uint8 with smooth colors and noise."""
    rng = np.random.default_rng(list(name.encode()))
    y, x = np.mgrid[:SIDE, :SIDE] * 3
    base = np.stack([y, x, (x + y) // 2], -1)[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
    return np.clip(base + rng.integers(0, 60, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def ids(name: str) -> np.ndarray:
    """Return the ground truth ids (64, 64) uint8 of an image: 1 in its square, else 0."""
    left, top, right, bottom = SQUARES[name]
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[top:bottom, left:right] = 1
    return labels


def save(path: Path, pixels: np.ndarray, *, palette: bool = False) -> None:
    """Write an image, with `palette` as a palette PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if palette:
        picture = Image.fromarray(pixels, "P")
        picture.putpalette(COLORS.tobytes())
    picture.save(path, quality=95)


def polygon(name: str) -> list[float]:
    """Return the square of an image as a COCO annotation."""
    left, top, right, bottom = SQUARES[name]
    return [left, top, right, top, right, bottom, left, bottom]


def coco(files: dict[str, str], *, first_id: int = 1, categories: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return the content of a COCO-format file for `files`, by image; the last category is the cat's."""
    categories = categories or [{"id": first_id, "name": "cat", "supercategory": ""}]
    images, annotations = [], []
    for number, (name, file) in enumerate(files.items(), start=first_id):
        left, top, right, bottom = SQUARES[name]
        images.append({"id": number, "file_name": file, "width": SIDE, "height": SIDE})
        annotations.append({"id": number, "image_id": number, "category_id": categories[-1]["id"],
                            "segmentation": [polygon(name)], "iscrowd": 0,
                            "bbox": [left, top, right - left, bottom - top],
                            "area": (right - left) * (bottom - top)})  # fmt: skip
    return {"images": images, "annotations": annotations, "categories": categories}


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def roboflow_coco(folder: Path) -> None:
    """Roboflow, COCO segmentation: an unused root category with the id 0, and the file beside the images."""
    categories = [{"id": 0, "name": "pets-Xyz1", "supercategory": "none"}, {"id": 1, "name": "cat"}]
    for split, name in (("train", "a"), ("valid", "b")):
        file = f"{name}_jpg.rf.0123456789abcdef.jpg"
        save(folder / split / file, photograph(name))
        write_json(folder / split / "_annotations.coco.json", coco({name: file}, first_id=0, categories=categories))


def roboflow_masks(folder: Path) -> None:
    """Roboflow, semantic segmentation masks: x.jpg and x_mask.png in a folder with _classes.csv."""
    for split, name in (("train", "a"), ("valid", "b")):
        save(folder / split / f"{name}_jpg.rf.01ab.jpg", photograph(name))
        save(folder / split / f"{name}_jpg.rf.01ab_mask.png", ids(name))
        (folder / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cat\n")


def labelme_voc(folder: Path) -> None:
    """labelme2voc.py."""
    for name in SQUARES:
        picture = photograph(name)
        save(folder / f"JPEGImages/{name}.jpg", picture)
        save(folder / f"SegmentationClass/{name}.png", ids(name), palette=True)
        np.save(folder / f"SegmentationClass/{name}.npy", ids(name))
        over = (picture * 0.5 + COLORS[ids(name)] * 0.5).astype(np.uint8)
        save(folder / f"SegmentationClassVisualization/{name}.jpg", over)
    (folder / "class_names.txt").write_text("_background_\ncat\n")


def labelme_voc_older(folder: Path) -> None:
    """labelme2voc.py, older version: arrays in SegmentationClass, images in SegmentationClassPNG."""
    for name in SQUARES:
        save(folder / f"JPEGImages/{name}.jpg", photograph(name))
        save(folder / f"SegmentationClassPNG/{name}.png", ids(name), palette=True)
        (folder / "SegmentationClass").mkdir(exist_ok=True)
        np.save(folder / f"SegmentationClass/{name}.npy", ids(name))
    (folder / "class_names.txt").write_text("_background_\ncat\n")


def labelme_coco(folder: Path) -> None:
    """labelme2coco.py: file names with JPEGImages, and _background_ and __ignore__ among the categories."""
    names = ("__ignore__", "_background_", "cat")
    categories = [{"supercategory": None, "id": number, "name": name} for number, name in enumerate(names)]
    for name in SQUARES:
        save(folder / f"JPEGImages/{name}.jpg", photograph(name))
    content = coco({name: f"JPEGImages/{name}.jpg" for name in SQUARES}, first_id=0, categories=categories)
    content["annotations"].append({"id": 9, "image_id": 0, "category_id": 0, "iscrowd": 0, "area": 4,
                                   "bbox": [0, 0, 2, 2], "segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]})  # fmt: skip
    write_json(folder / "annotations.json", {**content, "type": "instances", "licenses": [{"id": 0, "name": None}]})


def cvat_masks(folder: Path) -> None:
    """CVAT, segmentation mask 1.1, with images: colors, and the color table."""
    for name in SQUARES:
        save(folder / f"JPEGImages/{name}.jpg", photograph(name))
        save(folder / f"SegmentationClass/{name}.png", COLORS[ids(name)])
        save(folder / f"SegmentationObject/{name}.png", COLORS[ids(name)])
    lists = folder / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("a\nb\n")
    (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n")


def cvat_coco(folder: Path) -> None:
    """CVAT, COCO 1.0, with images."""
    for name in SQUARES:
        save(folder / f"images/{name}.jpg", photograph(name))
    write_json(folder / "annotations/instances_default.json", coco({name: f"{name}.jpg" for name in SQUARES}))


def label_studio_coco(folder: Path) -> None:
    """Label Studio, COCO: Windows paths, ids from 0."""
    for name in SQUARES:
        save(folder / f"images/1/{name}.jpg", photograph(name))
    files = {name: f"images\\1\\{name}.jpg" for name in SQUARES}
    write_json(folder / "result.json", {**coco(files, first_id=0), "info": {"contributor": "Label Studio"}})


def label_studio_uploads(folder: Path) -> None:
    """Label Studio, COCO of uploaded files: paths on the server, with a random prefix in the names."""
    for name in SQUARES:
        save(folder / f"images/{name}.jpg", photograph(name))
    upload = "../../label-studio/data/media/upload/1/0a1b2c3d-"
    write_json(folder / "result.json", coco({name: f"{upload}{name}.jpg" for name in SQUARES}, first_id=0))


def supervisely_masks(folder: Path) -> None:
    """Supervisely, masks: img/x.jpg with masks_machine/x.jpg.png, and a JSON file for each image."""
    for name in SQUARES:
        save(folder / f"ds/img/{name}.jpg", photograph(name))
        save(folder / f"ds/masks_machine/{name}.jpg.png", ids(name))
        write_json(folder / f"ds/ann/{name}.jpg.json", supervisely_annotation())


def via_coco(folder: Path) -> None:
    """VIA, COCO: ids as strings, a flat list of coordinates."""
    for name in SQUARES:
        save(folder / f"{name}.jpg", photograph(name))
    content = coco({name: f"{name}.jpg" for name in SQUARES})
    for image in content["images"]:
        image["id"] = str(image["id"])
    for annotation in content["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
        annotation["segmentation"] = annotation["segmentation"][0]
    write_json(folder / "via_project_coco.json", content)


def supervisely_annotation() -> dict[str, Any]:
    """Supervisely's native JSON of an image."""
    return {"description": "", "tags": [], "size": {"height": SIDE, "width": SIDE}, "objects": []}


def labelme_annotation(name: str) -> dict[str, Any]:
    """Labelme's native JSON of an image."""
    return {"version": "5.4.1", "flags": {}, "shapes": [{"label": "cat", "points": [[1, 1], [5, 1], [5, 5]]}],
            "imagePath": f"{name}.jpg", "imageData": None, "imageHeight": SIDE, "imageWidth": SIDE}  # fmt: skip
