"""JSON files of label tools: reading them, and recognizing those in COCO format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from semask_d2.utils.errors import UserError
from semask_d2.utils.files import require_regular
from semask_d2.utils.foreign import shown

COCO_KEYS = ("images", "annotations", "categories")
# keys that identify the files of other tools, and advice on what to export instead
OTHER_FORMATS = {
    "_via_img_metadata": "a VGG Image Annotator project; export its annotations as COCO",
    "shapes": "a labelme file; convert the folder with labelme2coco, or with labelme2voc.py to label maps",
    "objects": "a Supervisely annotation; export masks, or convert the project to COCO",
    "data_row": "a Labelbox export; convert it to COCO",
    "schema_ref": "a V7 Darwin annotation; export as COCO, or as semantic masks",
    "items": "a Datumaro file; export as COCO 1.0",
    "instances": "a SuperAnnotate annotation; convert the project to COCO",
}
LIST_FORMATS = {
    "data": "a Label Studio export in its own JSON; export as COCO instead",
    "annotator": "a Label Studio export in its own JSON; export as COCO instead",
    "score": "a COCO results file; expected annotations, with images and categories",
    "data_row": OTHER_FORMATS["data_row"],
}


def read_json(path: Path) -> Any:
    """Return the content of a JSON file in any Unicode encoding, with or without a byte-order mark."""
    require_regular(path)
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: expected labels in COCO format there") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {' '.join(str(error).split())}") from error


def other_format(content: Any) -> str:
    """Return a description of a label tool's JSON content, with advice on what to export instead; "" if unknown."""
    if isinstance(content, list):
        first = content[0] if content and isinstance(content[0], dict) else {}
        return next((what for key, what in LIST_FORMATS.items() if key in first), "")
    keys = content if isinstance(content, dict) else {}
    if all(isinstance(keys.get(key), list) for key in COCO_KEYS):
        return ""
    first = next(iter(keys.values()), None)
    if isinstance(first, dict) and "regions" in first and "filename" in first:
        return OTHER_FORMATS["_via_img_metadata"]
    return next((what for key, what in OTHER_FORMATS.items() if key in keys), "")


def require_format(content: Any, kind: str, path: Path) -> None:
    """Raise `UserError` if `content` is not in COCO format with annotations of this `kind`."""
    known = other_format(content)
    values: dict[str, Any] = content if isinstance(content, dict) else {}
    if isinstance(content, dict) and not known:
        parts = [key for key in COCO_KEYS if not isinstance(values.get(key), list)]
        known = f"lists of {', '.join(parts)} are missing" if parts else ""
    elif not known:
        known = "a list" if isinstance(content, list) else f"it holds {shown(content)}"
    if known or not isinstance(content, dict):
        raise UserError(
            f"{path} is not in COCO format: expected images, annotations with {kind}, and categories; {known}"
        )
    annotations = [x for x in values["annotations"] if isinstance(x, dict)]
    other = {"segmentation": "segments_info", "segments_info": "segmentation"}[kind]
    if annotations and not any(kind in x for x in annotations) and any(other in x for x in annotations):
        is_panoptic = other == "segments_info"
        advice = (
            "a panoptic file; expected annotations with a segmentation, as in COCO's instances_*.json. In a dataset's "
            "YAML file, name the folder of label maps instead"
            if is_panoptic
            else "a file of instances; expected annotations with segments_info, as in COCO's panoptic_*.json"
        )
        raise UserError(f"{path}: it is {advice}")
