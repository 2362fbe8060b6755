"""Labels from a COCO-format file: polygons or run lengths, painted as one map of classes an image."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from semask_d2.data.datasets.pairing import few
from semask_d2.data.labels import CocoLabels
from semask_d2.utils.errors import UserError
from semask_d2.utils.registry import suggestion

BACKGROUND = "background"


def coco_labels(
    path: Path, *, names: Sequence[str], id_map: Mapping[int, int], ignore_label: int
) -> dict[str, CocoLabels]:
    """The labels of each image of the file at `path` by the image's `file_name`.

    Categories are the classes of their names, or those that `id_map` gives for their ids. Smaller segments lie on
    larger ones; pixels in none are of the class "background" where `names` has it, else ignored. Raises UserError for a
    file of another kind, and for a category that is no class.
    """
    status = path.stat() if path.is_file() else None
    if status is None:
        raise UserError(f"{path} does not exist: expected labels in COCO format there")
    content = read_coco(str(path), status.st_mtime_ns, status.st_size)
    classes = classes_of(content["categories"], names, id_map, path)
    unlabeled = names.index(BACKGROUND) if BACKGROUND in names else ignore_label
    found = defaultdict(list)
    for annotation in content["annotations"]:
        found[annotation["image_id"]].append(annotation)
    labels = {}
    for image in content["images"]:
        annotations = sorted(found[image["id"]], key=lambda x: -float(x.get("area", 0)))
        for annotation in (x for x in annotations if x["category_id"] not in classes):
            number = annotation["category_id"]
            raise UserError(f"{path}: {image['file_name']} has an annotation of a category that there is not: {number}")
        labels[image["file_name"]] = CocoLabels(
            f"{path}: {image['file_name']}",
            int(image["height"]),
            int(image["width"]),
            unlabeled,
            tuple((classes[x["category_id"]], x["segmentation"]) for x in annotations),
        )
    return labels


PARTS = {  # of a COCO-format file and of each of their entries, by what the annotations hold
    "segmentations": (
        ("images", ("id", "file_name", "height", "width")),
        ("annotations", ("image_id", "category_id", "segmentation")),
        ("categories", ("id", "name")),
    ),
    "segments_info": (
        ("images", ("id", "file_name")),
        ("annotations", ("image_id", "file_name", "segments_info")),
        ("categories", ("id", "name", "isthing")),
    ),
}


@lru_cache(maxsize=4)
def read_coco(path: str, _changed: int, _size: int, kind: str = "segmentations") -> dict[str, Any]:
    """The content of a COCO-format file, kept until it changes; UserError where it is none.

    `kind` is what its annotations hold: "segmentations", or "segments_info" as panoptic ones do.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        for key, needed in PARTS[kind]:
            for item in content[key]:
                for part in needed:
                    item[part]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {' '.join(str(error).split())}") from error
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not in COCO format: expected images, annotations with {kind}, and categories "
            f"({type(error).__name__}: {error})"
        ) from error
    return content


def classes_of(
    categories: Sequence[dict[str, Any]], names: Sequence[str], id_map: Mapping[int, int], path: Path
) -> dict[Any, int]:
    """The class of each category id."""
    if id_map:
        if missing := [f"{x['id']} ({x['name']})" for x in categories if x["id"] not in id_map]:
            raise UserError(f"{path}: `map` of the data set leaves out the categories {few(missing)}")
        return {x["id"]: id_map[x["id"]] for x in categories}
    for category in categories:
        if category["name"] not in names:
            near = suggestion(str(category["name"]), list(names))
            raise UserError(
                f'{path}: the category "{category["name"]}" (id {category["id"]}) is not in `names`.{near} Add it, or '
                "give `map` from the ids of categories to classes"
            )
    return {x["id"]: list(names).index(x["name"]) for x in categories}


def match_images(
    images: Mapping[str, Path], labels: Mapping[str, CocoLabels]
) -> tuple[dict[str, CocoLabels], list[str]]:
    """The labels of each image by its key, a path below the images' folder; also the file's images that are not there.

    The file's names are compared as they are, then by their last part alone.
    """
    by_place = {Path(name).as_posix(): name for name in labels}
    by_name = {os.path.basename(name): name for name in labels}
    matched = {}
    for key, path in images.items():
        name = by_place.get(key + path.suffix) or by_name.get(path.name)
        if name is not None:
            matched[key] = name
    missing = sorted(labels.keys() - set(matched.values()))
    return {key: labels[name] for key, name in matched.items()}, missing
