"""Unsupported exports of label tools, recognized by file name, with advice on what to export instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import few

BRUSH = re.compile(r"task-\d+-annotation-\d+-by-.*-tag-.+-\d+")  # Label Studio's names of masks, one per class
# name patterns of files and what these are; the first match counts
KINDS = (
    (re.compile(r"annotations\.xml"), "CVAT's own format; export as COCO 1.0 or Segmentation mask 1.1"),
    (re.compile(r".*\.xml"), "XML of Pascal VOC or labelme; export as COCO, or as masks"),
    (re.compile(r"via_.*\.csv"), "a VGG Image Annotator export; export its annotations as COCO"),
    (re.compile(r".*\.ndjson"), "a Labelbox export; convert it to COCO"),
    (re.compile(r".*\.(npy|npz|mat)"), "an array; write label maps as PNG"),
    (re.compile(r".*\.(dcm|nii|nii\.gz|mha|mhd|nrrd)"), "a medical volume; write its slices as PNG or TIFF"),
    (
        re.compile(r"data\.ya?ml"),
        "a YOLO dataset, whose .txt files hold polygons or boxes; export as COCO, or as masks",
    ),
)


def require_whole_labels(folder: Path, files: Sequence[Path]) -> None:
    """Raise `UserError` if a label tool wrote one mask per class, or one folder per image."""
    if brushes := [path.name for path in files if BRUSH.fullmatch(path.stem)]:
        raise UserError(
            f"{folder}: {few(brushes)} are Label Studio's brush masks, one per class and annotation; export the "
            "project as COCO instead, with images"
        )
    names = {path.name for path in files}
    if {"img.png", "label.png", "label_names.txt"} <= names:
        raise UserError(
            f"{folder}: folders of img.png and label.png come from labelme_json_to_dataset; convert the JSON files "
            "with labelme2voc.py instead, which numbers the classes equally in all images"
        )


def unsupported_files(files: Sequence[Path]) -> list[str]:
    """Return one line for each kind of unsupported file among `files`, with an example and advice."""
    examples = {}
    for path in files:
        kind = next((kind for pattern, kind in KINDS if pattern.fullmatch(path.name.lower())), "")
        examples.setdefault(kind, path)
    return [f"{path} is {kind}" for kind, path in examples.items() if kind]
