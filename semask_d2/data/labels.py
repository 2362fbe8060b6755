"""Label maps of samples in any label format; all code that needs labels reads them through this module."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from semask_d2.data.annotations import EmptyAnnotation, UnusableAnnotation, flat_mask, run_length_counts
from semask_d2.data.image_io import picture_size, read_colors, read_labels
from semask_d2.data.label_checks import size_mismatch
from semask_d2.data.opening import warn_once
from semask_d2.data.picture import RGB
from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import few

NO_CLASS = -1
SHOWN = 8  # ids or colors that a message names


@dataclass(frozen=True)
class LabelFormat:
    """The format of a dataset's label files: class ids, ids to be mapped to classes, or colors of a table.

    `id_map` holds pairs (id in the file, class), `colors` pairs (0xRRGGBB, class); at most one of `id_map`, `colors`
    and `reduce_zero_label` is set. A class may be the `ignore_label`; an `ignore_label` in a file is kept.
    """

    ignore_label: int = 255
    id_map: tuple[tuple[int, int], ...] = ()
    colors: tuple[tuple[int, int], ...] = ()
    reduce_zero_label: bool = False

    def read(self, path: str | os.PathLike) -> np.ndarray:
        """Return the class ids (H, W) of a label file, uint8 or int64.

        Raises UnreadableFile as `read_labels` does, and UserError naming the file, the ids or colors and a pixel if
        the table lacks some of them.
        """
        if self.colors:
            return self._by_table(read_colors(path), self.colors, path, "rgb", partial("#{:06x}".format))
        labels = read_labels(path)
        if self.reduce_zero_label:
            wide = labels.astype(np.int64)
            reduced = np.where((wide == 0) | (wide == self.ignore_label), self.ignore_label, wide - 1)
            return reduced.astype(self._dtype(reduced.max(initial=0)))
        if self.id_map:
            ignored = () if self.ignore_label in dict(self.id_map) else ((self.ignore_label, self.ignore_label),)
            return self._by_table(labels, (*self.id_map, *ignored), path, "map", str)
        return labels

    def _by_table(
        self,
        values: np.ndarray,
        table: tuple[tuple[int, int], ...],
        path: str | os.PathLike,
        key: str,
        spelled: Callable[[int], str],
    ) -> np.ndarray:
        keys, classes = np.array(sorted(table), np.int64).T
        if values.dtype == np.uint8:  # a table is by far the fastest
            lookup = np.full(256, NO_CLASS)
            fits = (keys >= 0) & (keys < 256)
            lookup[keys[fits]] = classes[fits]
            result = lookup[values]
        else:
            places = np.searchsorted(keys, values).clip(max=len(keys) - 1)
            result = np.where(keys[places] == values, classes[places], NO_CLASS)
        wrong = result == NO_CLASS
        if wrong.any():
            y, x = np.argwhere(wrong)[0]
            unknown = [spelled(int(value)) for value in np.unique(values[wrong])]
            what, shown = "color" if key == "rgb" else "id", few(unknown, count=SHOWN)
            raise UserError(
                f"{path} holds the {what}{'s' if len(unknown) > 1 else ''} {shown} ({int(wrong.sum())} pixels, the "
                f"first {spelled(int(values[y, x]))} at x {x}, y {y}), which `{key}` of the dataset lacks: add "
                f"{'them' if len(unknown) > 1 else 'it'}, with {self.ignore_label} to ignore such pixels"
            )
        return result.astype(self._dtype(int(classes.max())))

    def _dtype(self, highest: int) -> type[np.generic]:
        return np.uint8 if max(highest, self.ignore_label) < 256 else np.int64


class CocoSegment(NamedTuple):
    """An annotation of a COCO-format file: its id, its class, and its polygons or run lengths."""

    id: Any
    category: int
    segmentation: Any


@dataclass(frozen=True)
class CocoLabels:
    """The segments of one image in a COCO-format file; where they overlap, smaller ones lie on top.

    `unlabeled` is the class of pixels in no segment. `unknown` holds the boxes [x, y, width, height] of annotations
    whose shape is unknown, None for one without a box; all pixels that they may cover are ignored. `source` names the
    file and the image in messages. `height` and `width` are None if the file does not state them.
    """

    source: str
    height: int | None
    width: int | None
    unlabeled: int
    segments: tuple[CocoSegment, ...]
    ignore_label: int = 255
    unknown: tuple[list[float] | None, ...] = ()

    def stated_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the width and height that the file states, or those of the image's `size` if it states none."""
        return self.width or size[0], self.height or size[1]

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether the file states `size` (width, height) or no size."""
        return self.stated_size(size) == size

    def paint(self, size: tuple[int, int]) -> tuple[np.ndarray, list[UnusableAnnotation]]:
        """Return the class ids (H, W) at the image's `size` (width, height), uint8 or int64, and the problems.

        Unusable annotations are left out, and each is one of the problems. Raises `UserError` if the file states
        another size.
        """
        width, height = size
        if not self.fits(size):
            raise UserError(size_mismatch("the image", size, "entry", self.source, self.stated_size(size)))
        counts, problems, unknown = [], [], list(self.unknown)
        for segment in self.segments:
            try:
                runs = run_length_counts(segment.segmentation, height, width, f"{self.source}: annotation {segment.id}")
            except UnusableAnnotation as error:
                problems.append(error)
                unknown += [] if isinstance(error, EmptyAnnotation) else [None]
            else:
                counts.append((int(runs[1::2].sum()), segment.category, runs))
        highest = max((self.unlabeled, self.ignore_label, *(category for _, category, _ in counts)))
        by_column = np.full((width, height), self.unlabeled, np.uint8 if highest < 256 else np.int64)
        for box in unknown:
            left, top, right, bottom = (0, 0, width, height) if box is None else box_pixels(box, width, height)
            by_column[left:right, top:bottom] = self.ignore_label
        flat = by_column.reshape(-1)
        for _, category, runs in sorted(counts, key=lambda x: -x[0]):
            flat[flat_mask(runs)] = category
        return np.ascontiguousarray(by_column.T), problems


def box_pixels(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Return the left, top, right and bottom of the pixels that a box [x, y, width, height] touches."""
    corners = np.array([box[0], box[1], box[0] + box[2], box[1] + box[3]])
    corners[:2], corners[2:] = np.floor(corners[:2]), np.ceil(corners[2:])
    left, top, right, bottom = np.clip(corners, 0, [width, height, width, height]).astype(int).tolist()
    return left, top, right, bottom


def read_sample_labels(sample: dict[str, Any]) -> np.ndarray:
    """Return the class ids (H, W) of a dataset's dict: uint8, or int64 if they may be larger.

    The dict has `sem_seg_file_name` and, if its dataset needs them, `label_format` or `coco_labels`, and with these
    `channels` of an image that is not RGB. Raises
    UnreadableFile and UserError as their readers do. Logs each annotation that is left out, once.
    """
    if (segments := sample.get("coco_labels")) is not None:
        labels, problems = segments.paint(picture_size(sample["file_name"], channels=sample.get("channels", RGB)))
        for problem in problems:
            warn_once(f"{problem}; left out")
        return labels
    label_format = sample.get("label_format")
    path = sample["sem_seg_file_name"]
    return read_labels(path) if label_format is None else label_format.read(path)
