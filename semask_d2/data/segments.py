"""Ground-truth segments of a dataset's dict, panoptic or instances, in Detectron2's format.

Any optional key may be missing or None: `iscrowd`, `area`, `bbox`, `height`, `width`. A segment's id may be 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from semask_d2.data.annotations import UnusableAnnotation, decoded_mask
from semask_d2.data.image_io import picture_size, read_colors
from semask_d2.data.opening import warn_once
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section


class Instance(NamedTuple):
    """An annotated object: its mask (H, W) bool, class, whether it is a crowd, and its dict."""

    mask: np.ndarray
    category_id: int
    is_crowd: bool
    annotation: Mapping[str, Any]


def image_size(sample: dict[str, Any]) -> tuple[int, int]:
    """Return the width and height of a dict's image, from the file's header if the dict does not state them."""
    width, height = stated_size(sample)
    return picture_size(sample["file_name"]) if width is None or height is None else (width, height)


def stated_size(sample: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return the width and height that a dict states, each None if missing."""
    section = Section(sample, sample["file_name"])
    width, height = (section.integer(key, None, 1) for key in ("width", "height"))
    return width, height


def check_image_size(sample: dict[str, Any], size: tuple[int, int]) -> None:
    """Raise `UserError` if the size in a dict differs from its image's `size` (width, height)."""
    width, height = stated_size(sample)
    if (width is not None and width != size[0]) or (height is not None and height != size[1]):
        raise UserError(
            f"{sample['file_name']} is {size[0]} x {size[1]}, but its annotations are for {width} x {height}: resize "
            "the image or the annotations, so that both have the same size"
        )


def true_instances(sample: dict[str, Any], size: tuple[int, int] | None = None) -> list[Instance]:
    """Return the instances of a dict's `annotations` at its image's `size` (width, height; default: `image_size`).

    Annotations without area, or without a usable segmentation, are left out, each with one warning.
    """
    annotations = sample.get("annotations")
    if annotations is None:
        raise UserError(f"{sample['file_name']} has no annotations, which INPUT.DATASET_MAPPER_NAME requires")
    width, height = size or image_size(sample)
    instances = []
    for number, annotation in enumerate(annotations):
        section = Section.of(annotation, f"{sample['file_name']}: annotations[{number}]")
        source = f"{sample['file_name']}: annotation {annotation.get('id', number)}"
        section = Section(section.values, source)
        category, is_crowd = section.integer("category_id", low=0), section.flag("iscrowd", False)
        try:
            mask = decoded_mask(annotation.get("segmentation"), height, width, source)
        except UnusableAnnotation as error:
            warn_once(f"{error}; left out")
            continue
        if mask.any():
            instances.append(Instance(mask, category, bool(is_crowd), annotation))
        else:
            warn_once(f"{source}: covers no pixel; left out")
    return instances


def panoptic_segments(sample: dict[str, Any]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the segment ids (H, W) of a dict's panoptic file, 0 for none, and `id`, `category_id`, `iscrowd` of each.

    Where the dict names a segment 0, all ids are one higher here. Segments without a pixel are left out, each with one
    warning. Raises `UserError` for ids that no segment names.
    """
    path = sample.get("pan_seg_file_name")
    if path is None:
        raise UserError(f"{sample['file_name']} has no pan_seg_file_name, which INPUT.DATASET_MAPPER_NAME requires")
    if sample.get("segments_info") is None:
        raise UserError(f"{sample['file_name']} has no segments_info, which holds the classes of {path}")
    ids = read_segment_ids(path)
    sections = [Section.of(x, f"{path}: segments_info[{i}]") for i, x in enumerate(sample["segments_info"])]
    numbers = [section.integer("id", low=0) for section in sections]
    if len(set(numbers)) < len(numbers):
        twice = sorted({number for number in numbers if numbers.count(number) > 1})
        raise UserError(f"{path}: several segments of its annotations have the id {twice[0]}")
    present = set(np.unique(ids).tolist())
    if unnamed := sorted(present - {0, *numbers}):
        raise UserError(f"{path} holds the segment ids {unnamed[:8]}, which no annotation names")
    shift = int(0 in numbers)
    segments = []
    for number, section in zip(numbers, sections, strict=True):
        if number not in present:
            warn_once(f"{path} has no pixel of segment {number}, which its annotations name; left out")
            continue
        facts = {
            "id": number + shift,
            "category_id": section.integer("category_id", low=0),
            "iscrowd": int(section.flag("iscrowd", 0)),
        }
        segments.append({**section.values, **facts})
    return ids + shift, segments


def read_true_segments(sample: dict[str, Any]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the segment ids (H, W) of a dict, 0 outside segments, and `id`, `category_id` and `iscrowd` of each.

    They come from its panoptic file, else from its instance annotations, of which smaller ones lie on larger ones.
    """
    if sample.get("pan_seg_file_name") is not None:
        return panoptic_segments(sample)
    size = image_size(sample)
    instances = true_instances(sample, size)
    ids = np.zeros(size[::-1], np.int64)
    for i in sorted(range(len(instances)), key=lambda i: -int(instances[i].mask.sum())):
        ids[instances[i].mask] = i + 1
    segments = [
        {**x.annotation, "id": i, "category_id": x.category_id, "iscrowd": int(x.is_crowd)}
        for i, x in enumerate(instances, start=1)
    ]
    return ids, segments


def read_segment_ids(path: str) -> np.ndarray:
    """Return the segment ids (H, W) int64 of COCO's panoptic PNG: R + 256 G + 65536 B."""
    colors = read_colors(path)
    return colors >> 16 | colors & 0xFF00 | (colors & 0xFF) << 16
