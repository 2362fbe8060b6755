"""Files of label tools that hold no label maps: known by their names, each with what to export in its place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import few

BRUSH = re.compile(r"task-\d+-annotation-\d+-by-.*-tag-.+-\d+")  # Label Studio's names of masks, one a class
# What files of a name are, the first that fits
KINDS = (
    (re.compile(r"annotations\.xml"), "CVAT's own format; export as COCO 1.0 or Segmentation mask 1.1"),
    (re.compile(r".*\.xml"), "XML of Pascal VOC or labelme; export as COCO, or as masks"),
    (re.compile(r"via_.*\.csv"), "a VGG Image Annotator export; export its annotations as COCO"),
    (re.compile(r".*\.ndjson"), "a Labelbox export; convert it to COCO"),
    (re.compile(r".*\.(npy|npz|mat)"), "an array; write label maps as PNG"),
    (re.compile(r".*\.(dcm|nii|nii\.gz|mha|mhd|nrrd)"), "a medical volume; write its slices as PNG or TIFF"),
    (
        re.compile(r"data\.ya?ml"),
        "a YOLO data set, whose .txt files hold polygons or boxes; export as COCO, or as masks",
    ),
)


def require_whole_labels(folder: Path, files: Sequence[Path]) -> None:
    """Raise `UserError` where a tool wrote a mask for each class, or a folder for each image."""
    if brushes := [path.name for path in files if BRUSH.fullmatch(path.stem)]:
        raise UserError(
            f"{folder}: {few(brushes)} are Label Studio's brush masks, one for each class and annotation; export the "
            "project as COCO instead, with images"
        )
    names = {path.name for path in files}
    if {"img.png", "label.png", "label_names.txt"} <= names:
        raise UserError(
            f"{folder}: folders of img.png and label.png are labelme_json_to_dataset's; convert the JSON files with "
            "labelme2voc.py instead, which gives all images one numbering of classes"
        )


def files_of_tools(files: Sequence[Path]) -> list[str]:
    """Return what is known of files by their names, a line for each kind."""
    known = {}
    for path in files:
        what = next((what for pattern, what in KINDS if pattern.fullmatch(path.name.lower())), "")
        known.setdefault(what, path)
    return [f"{path} is {what}" for what, path in known.items() if what]
