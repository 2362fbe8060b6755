"""Reading COCO-format files: checking their values, and relating images, annotations and categories.

Each fault becomes a `Problem` with the id of its image or annotation. Annotations without a usable shape are left out
and counted. If the image or class of an annotation is unknown, training refuses the file.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from semask_d2.config.custom_data import plain_name
from semask_d2.data.annotations import EmptyAnnotation, UnusableAnnotation, checked_segmentation
from semask_d2.data.datasets.coco_boxes import Boxes, box_of, require_pixels
from semask_d2.data.datasets.json_formats import read_json, require_format
from semask_d2.data.datasets.pairing import Problem
from semask_d2.data.datasets.walking import composed
from semask_d2.data.opening import MAX_PIXELS
from semask_d2.utils import foreign
from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import few
from semask_d2.utils.foreign import Section, shown

MAX_SIDE = 2**20
MAX_ID = 2**128  # allows UUIDs and hashes written as numbers
WHOLE = re.compile(r"([+-]?[0-9]{1,39})(\.0*)?")
MAX_SEGMENT_ID = 2**24 - 1  # three bytes of a panoptic PNG


class FileCategory(NamedTuple):
    """A category: its id, and its name as a valid class name."""

    id: Any
    name: str


@dataclass
class CocoImage:
    """An image of a file with its usable annotations, or with the one annotation that holds its `segments_info`.

    `unknown` holds the boxes [x, y, width, height] of annotations whose shape is unknown, None if the box is also
    unknown.
    """

    id: Any
    file_name: str
    height: int | None
    width: int | None
    annotations: list[dict[str, Any]] = field(default_factory=list)
    unknown: list[list[float] | None] = field(default_factory=list)


@dataclass
class CocoFile:
    """The consistent content of a COCO-format file.

    `by_id` holds the images with unique ids, `shared_ids` the ids that several images share.
    """

    path: Path
    images: list[CocoImage] = field(default_factory=list)
    categories: list[FileCategory] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    by_id: dict[Any, CocoImage] = field(default_factory=dict)
    shared_ids: set[Any] = field(default_factory=set)

    def used(self) -> list[FileCategory]:
        """Return the categories of the annotations or segments."""
        annotations = [x for image in self.images for x in image.annotations]
        segments = [segment for x in annotations for segment in x.get("segments_info", [x])]
        ids = {x["category_id"] for x in segments}
        return [x for x in self.categories if x.id in ids]

    def source(self, image: str) -> str:
        """Return the name of an image of this file for messages."""
        return f"{self.path}: {image}"

    def add_problem(self, kind: str, text: str, *images: str, refused: bool = False) -> None:
        """Add a problem that concerns the `images` with these names."""
        sources = tuple(self.source(image) for image in images)
        self.problems.append(Problem(kind, f"{self.path}: {text}", refused, sources))


def read_coco(path: Path, kind: str = "segmentation") -> CocoFile:
    """Read the COCO-format file at `path`, whose annotations hold `kind`: "segmentation" or "segments_info".

    Raises `UserError` for any other file, naming its format if it is known.
    """
    return coco_file(read_json(path), path, kind)


def coco_file(content: Any, path: Path, kind: str = "segmentation") -> CocoFile:
    """Return the parsed `content` of the COCO-format file at `path`; raises the errors of `read_coco`."""
    require_format(content, kind, path)
    file = CocoFile(path)
    read_categories(file, content["categories"])
    read_images(file, content["images"])
    if kind == "segmentation":
        read_annotations(file, content["annotations"])
    else:
        read_panoptic(file, content["annotations"])
    return file


def identity(value: Any, source: str) -> Any:
    """Return an id in comparable form: an integer, also if it is written as a string or as 7.0, else a string."""
    if type(value) is int and abs(value) <= MAX_ID:
        return value
    if isinstance(value, str) and (whole := WHOLE.fullmatch(value.strip())):
        return int(whole[1])
    return foreign.text(value.strip(), source) if isinstance(value, str) else foreign.integer(value, source)


def repeated(values: Iterable[Any]) -> list[tuple[Any, int]]:
    """Return the values that occur more than once, with their counts."""
    return [(value, count) for value, count in Counter(values).items() if count > 1]


def read_categories(file: CocoFile, entries: Sequence[Any]) -> None:
    """Read the categories; one without a name is named after its id."""
    for number, value in enumerate(entries):
        category = Section.of(value, f"{file.path}: categories[{number}]")
        category_id = identity(category.get("id"), f"{category.source}: id")
        name = category.text("name", "")
        file.categories.append(FileCategory(category_id, plain_name(composed(name)) or f"category_{category_id}"))
    if twice := [category for category, _ in repeated(file.categories)]:
        file.add_problem("form", f"{len(twice)} categories are listed several times: {few(x.name for x in twice)}")
    file.categories = list(dict.fromkeys(file.categories))
    for category_id, count in repeated(x.id for x in file.categories):
        raise UserError(f"{file.path}: {count} categories have the id {category_id}; give each a different id")


def image_name(entry: Section) -> str:
    """Return the file name of an image, or its `coco_url` in files without one, such as LVIS."""
    return entry.text(
        "coco_url" if entry.get("file_name", None) is None and "coco_url" in entry.values else "file_name"
    )


def side_of(entry: Section, key: str) -> int | None:
    """Return the height or width of an image, also if written as a string; None if it is missing, 0 or -1."""
    value = entry.get(key, None)
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value) if len(value) < 20 else None
    return None if value in (None, 0, -1) else foreign.integer(value, f"{entry.source}: {key}", 1, MAX_SIDE)


def read_images(file: CocoFile, entries: Sequence[Any]) -> None:
    """Read the images, one per file name, and relate them to their ids."""
    by_name: dict[str, CocoImage] = {}
    names_of: dict[Any, set[str]] = defaultdict(set)
    ids_of: dict[str, list[Any]] = defaultdict(list)
    texts = []
    for number, value in enumerate(entries):
        entry = Section.of(value, f"{file.path}: images[{number}]")
        image_id = identity(entry.get("id"), f"{entry.source}: id")
        texts += [image_id] if isinstance(entry.get("id"), str) and isinstance(image_id, int) else []
        name = image_name(entry)
        height, width = (side_of(entry, side) for side in ("height", "width"))
        if (height or 1) * (width or 1) > MAX_PIXELS:
            file.add_problem(
                "size", f"image {name} is listed as {width} x {height}; at most {MAX_PIXELS} pixels are read", name
            )
        image = by_name.setdefault(name, CocoImage(image_id, name, height, width))
        if (image.height, image.width) != (height, width):
            file.add_problem("relation", f"image {name} is listed with two sizes", name, refused=True)
        ids_of[name].append(image_id)
        names_of[image_id].add(name)
    file.images = list(by_name.values())
    for name, ids in ids_of.items():
        if len(set(ids)) > 1:
            text = f"image {name} is listed with the ids {few(ids)}; the annotations of all of them are merged"
            file.add_problem("relation", text, name)
        elif len(ids) > 1:
            file.add_problem("form", f"image {name} (id {ids[0]}) is listed {len(ids)} times")
    for image_id, names in names_of.items():
        if len(names) > 1:
            text = (
                f"{len(names)} images share the id {image_id} ({few(sorted(names))}), so its annotations are ambiguous"
            )
            file.add_problem("relation", text, *names, refused=True)
            file.shared_ids.add(image_id)
        else:
            file.by_id[image_id] = by_name[next(iter(names))]
    if texts:
        file.add_problem("form", f"{len(texts)} image ids are strings, read as numbers: {few(texts)}")


def read_annotations(file: CocoFile, entries: Sequence[Any]) -> None:
    """Add each annotation with a usable segmentation to its image, with null values removed."""
    known = {x.id for x in file.categories}
    without_area, ids, boxes = [], [], Boxes()
    for number, value in enumerate(entries):
        annotation, image = relate(file, value, number)
        if annotation is None or image is None:
            continue
        name, annotation_id = image.file_name, annotation.get("id", number)
        source = f"annotation {annotation_id} ({name})"
        ids.append(annotation_id)
        try:
            annotation["category_id"] = identity(annotation.get("category_id"), f"{source}: category_id")
            if annotation["category_id"] not in known:
                text = f"{source}: an annotation with unknown category id {annotation['category_id']}"
                file.add_problem("relation", text, name, refused=True)
                continue
            if "iscrowd" in annotation:
                annotation["iscrowd"] = int(foreign.flag(annotation["iscrowd"], f"{source}: iscrowd"))
            check_shape(annotation, image, source, boxes)
        except UserError as error:
            is_empty = isinstance(error, EmptyAnnotation)
            file.add_problem("area" if is_empty else "annotation", str(error), name)
            box = box_of(annotation)
            image.unknown += [] if is_empty and box is None else [box]
            continue
        if not foreign.is_positive(annotation.get("area")):
            annotation.pop("area", None)
            without_area.append(annotation_id)
        if "bbox" in annotation and box_of(annotation) is None:
            del annotation["bbox"]
        image.annotations.append(annotation)
    if without_area:
        count = len(without_area)
        file.add_problem("form", f"{count} annotations have no area; their masks give it: {few(without_area)}")
    for text in boxes.remarks():
        file.add_problem("box", text)
    if twice := [annotation_id for annotation_id, _ in repeated(ids)]:
        file.add_problem("form", f"{len(twice)} ids are used by several annotations: {few(twice)}")


def relate(file: CocoFile, value: Any, number: int) -> tuple[dict[str, Any] | None, CocoImage | None]:
    """Return an annotation without null values, and its image; either is None, and reported, if it is missing."""
    if not isinstance(value, dict):
        file.add_problem("annotation", f"annotations[{number}] is not an annotation: {shown(value)}")
        return None, None
    annotation = {key: x for key, x in value.items() if x is not None}
    source = f"annotation {shown(annotation.get('id', number))}"
    try:
        if "id" in annotation:
            annotation["id"] = identity(annotation["id"], f"{source}: id")
        image_id = identity(annotation.get("image_id"), f"{source}: image_id")
    except UserError as error:
        file.add_problem("annotation", str(error))
        return None, None
    image = file.by_id.get(image_id)
    if image is None:
        why = "an id that several images share" if image_id in file.shared_ids else "which the file does not list"
        file.add_problem("relation", f"{source} belongs to the image {image_id}, {why}")
    return annotation, image


def check_shape(annotation: dict[str, Any], image: CocoImage, source: str, boxes: Boxes) -> None:
    """Check the segmentation of an annotation against its box and, if the file states it, its image's size.

    Polygons with too few points are removed. Raises the errors of `checked_segmentation` and `require_pixels`.
    """
    segmentation = annotation.get("segmentation")
    if not segmentation and not isinstance(segmentation, list):
        raise UnusableAnnotation(f"{source}: it has no segmentation, only a box; expected polygons or run lengths")
    height, width = image.height, image.width
    if height is None or width is None or height * width > MAX_PIXELS:
        return  # already reported, or compared with the image when that is read
    usable = checked_segmentation(segmentation, height, width, source)
    if not isinstance(usable, list):
        return
    xs, ys = ([x for polygon in usable for x in polygon[axis::2]] for axis in (0, 1))
    if min(xs) >= width or max(xs) <= 0 or min(ys) >= height or max(ys) <= 0:
        raise UnusableAnnotation(f"{source}: all of it lies outside the image of {width} x {height}")
    extent = min(xs), min(ys), max(xs), max(ys)
    require_pixels(extent, annotation, (width, height), source)
    boxes.add(extent, annotation, (width, height))
    if usable is not segmentation:
        annotation["segmentation"] = usable


def read_panoptic(file: CocoFile, entries: Sequence[Any]) -> None:
    """Add each annotation with `segments_info` to its image; raises `UserError` for a malformed one."""
    known = {x.id for x in file.categories}
    for number, value in enumerate(entries):
        annotation, image = relate(file, value, number)
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
