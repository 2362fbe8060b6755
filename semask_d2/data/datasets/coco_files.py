"""COCO-format files of others: their values checked, and their images, annotations and categories related.

What is wrong becomes a `Problem` with the id of its image or annotation. Annotations whose shape is unknown are left
out and counted; where it is unknown which image or class an annotation belongs to, a training refuses the file.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from semask_d2.data.annotations import EmptyAnnotation, UnusableAnnotation, checked_segmentation
from semask_d2.data.datasets.pairing import Problem
from semask_d2.data.image_io import MAX_PIXELS
from semask_d2.utils import foreign
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import require_regular
from semask_d2.utils.foreign import Section, shown

SHOWN = 3  # names or ids in a problem
MAX_SIDE = 2**20
MAX_SEGMENT_ID = 2**24 - 1  # three bytes of a panoptic PNG
# What other tools' files are known by, and what to export in their place
OTHER_FORMATS = {
    "_via_img_metadata": "a VGG Image Annotator project; export its annotations as COCO",
    "shapes": "a labelme file; convert the folder with labelme2coco, or with labelme2voc.py to label maps",
    "objects": "a Supervisely annotation; export masks, or convert the project to COCO",
    "data_row": "a Labelbox export; convert it to COCO",
}
LIST_FORMATS = {
    "data": "a Label Studio export in its own JSON; export as COCO instead",
    "score": "a COCO results file; expected annotations, with images and categories",
    "data_row": OTHER_FORMATS["data_row"],
}


class FileCategory(NamedTuple):
    """A category as the file has it."""

    id: Any
    name: str


@dataclass
class CocoImage:
    """An image of a file with its usable annotations, or with the one that holds its `segments_info`.

    `unknown` are the boxes [x, y, width, height] of the annotations whose shape is unknown; None where the box is, too.
    """

    id: Any
    file_name: str
    height: int | None
    width: int | None
    annotations: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[list[float] | None] = field(default_factory=list)


@dataclass
class CocoFile:
    """The content of a COCO-format file, as far as it holds together."""

    path: Path
    images: list[CocoImage] = field(default_factory=list)
    categories: list[FileCategory] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def used_categories(self) -> set[Any]:
        """Return the ids of the categories that annotations or segments are of."""
        annotations = [x for image in self.images for x in image.annotations]
        segments = [segment for x in annotations for segment in x.get("segments_info", [x])]
        return {x["category_id"] for x in segments}


def read_coco(path: Path, kind: str = "segmentation") -> CocoFile:
    """Read the COCO-format file at `path`, whose annotations hold `kind`: "segmentation" or "segments_info".

    Raises `UserError` where it is no such file, naming what it is where that is known.
    """
    content = read_json(path)
    require_format(content, kind, path)
    file = CocoFile(path)
    for number, value in enumerate(content["categories"]):
        category = Section.of(value, f"{path}: categories[{number}]")
        name = category.text("name")
        file.categories.append(FileCategory(identity(category.get("id"), f"{category.source}: id"), name))
    for number, name in ((x, name) for x, name in repeated(x.id for x in file.categories)):
        file.problems.append(Problem("relation", f"{path}: {name} categories have the id {number!r}", refused=True))
    by_id = read_images(file, content["images"])
    if kind == "segmentation":
        read_annotations(file, content["annotations"], by_id)
    else:
        read_panoptic(file, content["annotations"], by_id)
    return file


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, with or without a byte-order mark."""
    require_regular(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: expected labels in COCO format there") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {' '.join(str(error).split())}") from error


def require_format(content: Any, kind: str, path: Path) -> None:
    """Raise `UserError` where `content` is not that of a COCO-format file of this `kind`."""
    if isinstance(content, list):
        first = content[0] if content and isinstance(content[0], dict) else {}
        known = next((what for key, what in LIST_FORMATS.items() if key in first), "a list")
    else:
        keys = content if isinstance(content, dict) else {}
        known = next((what for key, what in OTHER_FORMATS.items() if key in keys), "")
        if isinstance(content, dict) and not known:
            parts = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
            known = f"lists of {', '.join(parts)} are missing" if parts else ""
        if not isinstance(content, dict):
            known = f"it holds {shown(content)}"
    if known:
        raise UserError(
            f"{path} is not in COCO format: expected images, annotations with {kind}, and categories; {known}"
        )
    annotations = [x for x in content["annotations"] if isinstance(x, dict)]
    other = {"segmentation": "segments_info", "segments_info": "segmentation"}[kind]
    if annotations and not any(kind in x for x in annotations) and any(other in x for x in annotations):
        is_panoptic = other == "segments_info"
        advice = (
            "a panoptic file; expected annotations with a segmentation, as COCO's instances_*.json. For labels of a "
            "data set's file, name the folder of label maps instead"
            if is_panoptic
            else "a file of instances; expected annotations with segments_info, as COCO's panoptic_*.json"
        )
        raise UserError(f"{path}: it is {advice}")


def identity(value: Any, source: str) -> Any:
    """Return an id as it is compared: a whole number, also where it is written as text or as 7.0, else a text."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
        return int(value)
    return foreign.text(value, source) if isinstance(value, str) else foreign.integer(value, source)


def repeated(values: Iterable[Any]) -> list[tuple[Any, int]]:
    """Return the values that occur more than once, with how often."""
    return [(value, count) for value, count in Counter(values).items() if count > 1]


def read_images(file: CocoFile, entries: Sequence[Any]) -> dict[Any, CocoImage]:
    """Read the images into `file`, one for each file name, and return them by their ids; problems go to `file`."""
    path = file.path
    by_name: dict[str, CocoImage] = {}
    names_of: dict[Any, dict[str, CocoImage]] = defaultdict(dict)
    ids_of: dict[str, list[Any]] = defaultdict(list)
    as_text = []
    for number, value in enumerate(entries):
        entry = Section.of(value, f"{path}: images[{number}]")
        image_id = identity(entry.get("id"), f"{entry.source}: id")
        if isinstance(entry.get("id"), str) and isinstance(image_id, int):
            as_text.append(image_id)
        name = entry.text("file_name")
        height, width = (entry.integer(side, None, 1, MAX_SIDE) for side in ("height", "width"))
        if (height or 1) * (width or 1) > MAX_PIXELS:
            text = f"{path}: image {name} is said to be {width} x {height} pixels; at most {MAX_PIXELS} are read"
            file.problems.append(Problem("relation", text))
        image = by_name.setdefault(name, CocoImage(image_id, name, height, width))
        if (image.height, image.width) != (height, width):
            text = f"{path}: image {name} is listed twice, with two sizes"
            file.problems.append(Problem("relation", text, refused=True))
        ids_of[name].append(image_id)
        names_of[image_id][name] = image
    file.images = list(by_name.values())
    for name, ids in ids_of.items():
        if len(ids) > 1:
            listed = (
                f"with the ids {', '.join(map(str, ids[:SHOWN]))}" if len(set(ids)) > 1 else f"with the id {ids[0]}"
            )
            text = f"{path}: image {name} is listed {len(ids)} times, {listed}; its annotations are taken together"
            file.problems.append(Problem("relation" if len(set(ids)) > 1 else "form", text))
    for image_id, images in names_of.items():
        if len(images) > 1:
            names = ", ".join(list(images)[:SHOWN])
            text = f"{path}: the id {image_id} is that of {len(images)} images ({names}); their annotations are unknown"
            file.problems.append(Problem("relation", text, refused=True))
    if as_text:
        text = f"{path}: {len(as_text)} image ids are texts, read as numbers: {few_ids(as_text)}"
        file.problems.append(Problem("form", text))
    return {image_id: next(iter(images.values())) for image_id, images in names_of.items() if len(images) == 1}


def read_annotations(file: CocoFile, entries: Sequence[Any], by_id: dict[Any, CocoImage]) -> None:
    """Add each annotation with a segmentation to its image, without null values; problems go to `file`."""
    known = {x.id for x in file.categories}
    without_area, ids = [], []
    for number, value in enumerate(entries):
        annotation, image = relate(file, value, number, by_id)
        if annotation is None or image is None:
            continue
        source = f"{file.path}: annotation {annotation.get('id', number)} ({image.file_name})"
        ids.append(annotation.get("id", number))
        try:
            annotation["category_id"] = identity(annotation.get("category_id"), f"{source}: category_id")
            if annotation["category_id"] not in known:
                text = f"{source}: an annotation with unknown category id {annotation['category_id']}"
                file.problems.append(Problem("relation", text, refused=True))
                continue
            if "iscrowd" in annotation:
                annotation["iscrowd"] = int(foreign.flag(annotation["iscrowd"], f"{source}: iscrowd"))
            check_shape(annotation, image, source)
        except EmptyAnnotation as error:
            file.problems.append(Problem("area", str(error)))
            image.unknown += [box_of(annotation)] if box_of(annotation) else []
            continue
        except UserError as error:
            file.problems.append(Problem("annotation", str(error)))
            image.unknown.append(box_of(annotation))
            continue
        if not foreign.is_positive(annotation.get("area")):
            annotation.pop("area", None)
            without_area.append(annotation.get("id", number))
        if "bbox" in annotation and box_of(annotation) is None:
            del annotation["bbox"]
        image.annotations.append(annotation)
    if without_area:
        text = f"{file.path}: {len(without_area)} annotations have no area, and are ordered by their masks' areas: "
        file.problems.append(Problem("form", text + few_ids(without_area)))
    for annotation_id, count in repeated(ids)[:SHOWN]:
        file.problems.append(Problem("form", f"{file.path}: {count} annotations have the id {annotation_id}"))


def relate(
    file: CocoFile, value: Any, number: int, by_id: dict[Any, CocoImage]
) -> tuple[dict[str, Any] | None, CocoImage | None]:
    """Return an annotation without its null values, and its image; None for what there is not, told to `file`."""
    if not isinstance(value, dict):
        text = f"{file.path}: annotations[{number}] is no annotation: {shown(value)}"
        file.problems.append(Problem("annotation", text))
        return None, None
    annotation = {key: x for key, x in value.items() if x is not None}
    source = f"{file.path}: annotation {shown(annotation.get('id', number))}"
    try:
        if "id" in annotation:
            annotation["id"] = identity(annotation["id"], f"{source}: id")
        image_id = identity(annotation.get("image_id"), f"{source}: image_id")
    except UserError as error:
        file.problems.append(Problem("annotation", str(error)))
        return None, None
    image = by_id.get(image_id)
    if image is None:
        text = f"{source} is of the image {image_id}, which the file does not list"
        if any(problem.refused and f"the id {image_id} is" in problem.text for problem in file.problems):
            text = f"{source} is of the image {image_id}, an id that several images have"
        file.problems.append(Problem("relation", text))
    return annotation, image


def check_shape(annotation: dict[str, Any], image: CocoImage, source: str) -> None:
    """Check the segmentation of an annotation against its image, where the file says its size.

    Polygons of too few points are taken out. Errors are those of `checked_segmentation`.
    """
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        raise UnusableAnnotation(f"{source}: it has no segmentation, only a box; expected polygons or run lengths")
    height, width = image.height, image.width
    if height is None or width is None or height * width > MAX_PIXELS:
        return  # told of, or compared with the image when that is read
    usable = checked_segmentation(segmentation, height, width, source)
    if not isinstance(usable, list):
        return
    xs, ys = ([x for polygon in usable for x in polygon[axis::2]] for axis in (0, 1))
    if min(xs) >= width or max(xs) <= 0 or min(ys) >= height or max(ys) <= 0:
        raise UnusableAnnotation(f"{source}: all of it lies outside the image of {width} x {height}")
    if len(usable) != len(segmentation):
        annotation["segmentation"] = usable


def box_of(annotation: dict[str, Any]) -> list[float] | None:
    """Return the box [x, y, width, height] of an annotation; None where it has none with an area."""
    try:
        box = [foreign.number(x, "") for x in foreign.entries(annotation.get("bbox"), "", 4)]
    except UserError:
        return None
    return box if min(box[2:]) > 0 else None


def read_panoptic(file: CocoFile, entries: Sequence[Any], by_id: dict[Any, CocoImage]) -> None:
    """Add each annotation with `segments_info` to its image; problems go to `file`."""
    known = {x.id for x in file.categories}
    for number, value in enumerate(entries):
        annotation, image = relate(file, value, number, by_id)
        if annotation is None or image is None:
            continue
        section = Section(annotation, f"{file.path}: the annotation of {image.file_name}")
        segments = []
        for place, segment in enumerate(section.entries("segments_info")):
            values = Section.of(segment, f"{section.source}: segments_info[{place}]")
            clean = {key: x for key, x in values.values.items() if x is not None}
            clean["id"] = values.integer("id", low=0, high=MAX_SEGMENT_ID)
            clean["category_id"] = identity(values.get("category_id"), f"{values.source}: category_id")
            if clean["category_id"] not in known:
                raise UserError(f"{values.source}: a segment with unknown category id {clean['category_id']}")
            clean["iscrowd"] = int(values.flag("iscrowd", 0))
            segments.append(clean)
        image.annotations.append({"file_name": section.text("file_name"), "segments_info": segments})


def few_ids(ids: Sequence[Any]) -> str:
    """Return the first ids, and how many more there are."""
    more = f" and {len(ids) - 2 * SHOWN} more" if len(ids) > 2 * SHOWN else ""
    return ", ".join(map(str, ids[: 2 * SHOWN])) + more
