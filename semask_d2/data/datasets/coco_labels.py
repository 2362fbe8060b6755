"""Semantic labels from a COCO-format file: polygons or run lengths, drawn as one class map per image."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from semask_d2.config.custom_data import plain_name
from semask_d2.data.datasets.coco_files import CocoFile
from semask_d2.data.datasets.pairing import Problem
from semask_d2.data.datasets.walking import composed, small_suffix, stem_of
from semask_d2.data.labels import CocoLabels, CocoSegment
from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import few
from semask_d2.utils.registry import suggestion

BACKGROUND, IGNORED = "background", "ignore"  # with or without the underscores of labelme
LABEL_STUDIO = re.compile(r"[0-9a-f]{8}-(?=.)")  # prefix that it adds to the names of uploaded files


def coco_labels(
    file: CocoFile, *, names: Sequence[str], id_map: Mapping[int, int], ignore_label: int
) -> dict[str, CocoLabels]:
    """Return the labels of each image in a file, by the image's `file_name`.

    A category's class has its name, or is given by `id_map` for its id. Pixels outside of all segments belong to the
    class "background" if `names` has it, else they are ignored. Raises `UserError` for a category without a class.
    """
    classes = classes_of(file, names, id_map, ignore_label)
    background = [i for i, name in enumerate(names) if is_background(name)]
    return {
        image.file_name: CocoLabels(
            f"{file.path}: {image.file_name}",
            image.height,
            image.width,
            unlabeled=background[0] if background else ignore_label,
            ignore_label=ignore_label,
            segments=tuple(
                CocoSegment(x.get("id"), classes[x["category_id"]], x["segmentation"]) for x in image.annotations
            ),
            unknown=tuple(image.unknown),
        )
        for image in file.images
    }


def is_background(name: str) -> bool:
    """Return whether a class or category is named "background", in any spelling that tools use."""
    return name.strip("_").lower() == BACKGROUND


def is_ignored_name(name: str) -> bool:
    """Return whether a category is labelme's __ignore__."""
    return name.lower() == f"__{IGNORED}__"


def classes_of(file: CocoFile, names: Sequence[str], id_map: Mapping[int, int], ignore_label: int) -> dict[Any, int]:
    """Return the class of each category id; categories without annotations need no class.

    Unless `names` contains these words, labelme's __ignore__ is ignored and its _background_ means "background".
    """
    categories = file.used()
    if id_map:
        if missing := [f"{x.id} ({x.name})" for x in categories if x.id not in id_map]:
            raise UserError(f"{file.path}: `map` of the dataset is missing the categories {few(missing)}")
        return {x.id: id_map[x.id] for x in categories}
    numbers = {plain_name(composed(name)): number for number, name in enumerate(names)}
    background = next((number for number, name in enumerate(names) if is_background(name)), None)
    classes = {}
    for category in categories:
        number = numbers.get(category.name)
        if number is None and is_background(category.name):
            number = background
        if number is None and is_ignored_name(category.name):
            number = ignore_label
        if number is None:
            near = suggestion(category.name, list(names))
            raise UserError(
                f'{file.path}: the category "{category.name}" (id {category.id}) is not in `names`.{near} Add it, or '
                "use `map` to map category ids to classes"
            )
        classes[category.id] = number
    return classes


class Matching(NamedTuple):
    """Labels by image key, keys with ambiguous labels, names without an image, and problems."""

    labels: dict[str, CocoLabels]
    unclear: set[str]
    missing: list[str]
    problems: list[Problem]


def match_images(images: Mapping[str, Path], labels: Mapping[str, CocoLabels], source: str) -> Matching:
    """Match a file's labels, by `file_name`, with images, by their paths below the images' folder.

    Paths are compared from their end, and the longest match counts: images/a/1.jpg matches a/1.jpg, else 1.jpg, else
    that name with another suffix. If several names match an image, the one with the fewest ignored folders counts. If a
    name matches several images, or several names match an image equally well, training refuses these images, because
    their labels are unknown.
    """
    by_ending: dict[str, list[str]] = defaultdict(list)
    by_stem: dict[str, list[str]] = defaultdict(list)
    for key, path in images.items():
        for ending in endings(key + path.suffix if key else path.name):
            by_ending[ending].append(key)
            by_stem[stem_of(ending)].append(key)
    other_suffix = []
    fitting: dict[str, list[tuple[int, str]]] = defaultdict(list)  # by image: ignored folders, name
    result = Matching({}, set(), [], [])

    def complain(text: str, keys: Iterable[str]) -> None:
        result.unclear.update(keys)
        problem = f"{source}: {text}; include the folders in file_name"
        result.problems.append(Problem("relation", problem, refused=True))

    for name in labels:
        parts = endings(name)
        left_out, keys = next(((i, by_ending[x]) for i, x in enumerate(parts) if x in by_ending), (0, []))
        if not keys:
            stems = [stem_of(x) for x in parts]
            left_out, keys = next(((i, by_stem[x]) for i, x in enumerate(stems) if x in by_stem), (0, []))
            other_suffix += [name] * bool(keys)
        if len(keys) == 1:
            fitting[keys[0]].append((left_out, name))
        elif keys:
            complain(f"{name} matches several images: {few(images[key] for key in keys)}", keys)
        else:
            result.missing.append(name)
    for key, names in fitting.items():
        least, _ = min(names)
        result.missing.extend(name for left_out, name in names if left_out > least)
        nearest = [name for left_out, name in names if left_out == least]
        if len(nearest) > 1:
            complain(f"{few(nearest)} all match {images[key]}", [key])
        elif key not in result.unclear:
            result.labels[key] = labels[nearest[0]]
    if other_suffix:
        text = f"{len(other_suffix)} names have another suffix than their images: {few(other_suffix)}"
        result.problems.append(Problem("form", f"{source}: {text}"))
    result.missing.sort()
    return result


def endings(name: str) -> list[str]:
    """Return a path and its shorter forms without leading folders, the longest first, in one normalized spelling.

    Backslashes become slashes, image suffixes lower case, and letters are composed (macOS stores file names
    decomposed). Of a URL only the path is used. The last forms are the file name with URL escapes decoded, and without
    Label Studio's prefix.
    """
    name = urlsplit(name).path if "://" in name else name
    parts = [x for x in small_suffix(composed(name.replace("\\", "/"))).split("/") if x not in ("", ".")]
    result = ["/".join(parts[start:]) for start in range(len(parts))]
    if parts and "%" in parts[-1]:
        result.append(composed(unquote(parts[-1])))
    if parts and LABEL_STUDIO.match(parts[-1]):
        result.append(LABEL_STUDIO.sub("", parts[-1], count=1))
    return result
