"""The label map of a sample, whatever its data set's files hold: the one way to it for every reader."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from semask_d2.data.annotations import EmptyAnnotation, UnusableAnnotation, flat_mask, run_length_counts
from semask_d2.data.image_io import picture_size, read_colors, read_labels, warn_once
from semask_d2.data.label_checks import size_mismatch
from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import few

NO_CLASS = -1
SHOWN = 8  # ids or colors that a message names


@dataclass(frozen=True)
class LabelFormat:
    """What the label files of a data set hold: ids as they are, ids to be mapped, or colors of a table.

    `id_map` are pairs (id in the file, class), `colors` pairs (0xRRGGBB, class); at most one of the three is set. The
    classes may be the `ignore_label`, which also stands for itself where a file holds it.
    """

    ignore_label: int = 255
    id_map: tuple[tuple[int, int], ...] = ()
    colors: tuple[tuple[int, int], ...] = ()
    reduce_zero_label: bool = False

    def read(self, path: str | os.PathLike) -> np.ndarray:
        """The class ids (H, W) of a label file, uint8 or int64.

        Raises UnreadableFile as `read_labels`, and UserError naming file, ids or colors, and a pixel, where the table
        leaves some out.
        """
        if self.colors:
            return self._by_table(read_colors(path), self.colors, path, "rgb", partial("#{:06x}".format))
        labels = read_labels(path)
        if self.reduce_zero_label:
            wide = labels.astype(np.int64)
            reduced = np.where((wide == 0) | (wide == self.ignore_label), self.ignore_label, wide - 1)
            return reduced.astype(self._dtype(reduced.max(initial=0)))
        if self.id_map:
            own = () if self.ignore_label in dict(self.id_map) else ((self.ignore_label, self.ignore_label),)
            return self._by_table(labels, (*self.id_map, *own), path, "map", str)
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
        if values.dtype == np.uint8:  # by far the quickest way
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
            found = [spelled(int(value)) for value in np.unique(values[wrong])]
            what, shown = "color" if key == "rgb" else "id", few(found, count=SHOWN)
            raise UserError(
                f"{path} holds the {what}{'s' if len(found) > 1 else ''} {shown} ({int(wrong.sum())} pixels, the first "
                f"{spelled(int(values[y, x]))} at x {x}, y {y}), which `{key}` of the data set leaves out: add "
                f"{'them' if len(found) > 1 else 'it'}, with {self.ignore_label} where such pixels are to be ignored"
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
    """The segments of one image of a COCO-format file, of which smaller ones lie on larger ones.

    `unlabeled` is the class of pixels in no segment; `unknown` are the boxes [x, y, width, height] of annotations whose
    shape is unknown, None for one without a box: what they may cover is ignored. `source` names file and image in
    messages. A `height` or `width` of None is the image's.
    """

    source: str
    height: int | None
    width: int | None
    unlabeled: int
    segments: tuple[CocoSegment, ...]
    ignore_label: int = 255
    unknown: tuple[list[float] | None, ...] = ()

    def stated_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the width and height that the file says, where it says none those of the image's `size`."""
        return self.width or size[0], self.height or size[1]

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether the file says no other size (width, height)."""
        return self.stated_size(size) == size

    def paint(self, size: tuple[int, int]) -> tuple[np.ndarray, list[UnusableAnnotation]]:
        """Return the class ids (H, W) at the image's `size` (width, height), uint8 or int64, and what was left out.

        Raises `UserError` where the file says another size. Annotations that cannot be used are left out.
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
            left, top, right, bottom = (0, 0, width, height) if box is None else pixels_of_box(box, width, height)
            by_column[left:right, top:bottom] = self.ignore_label
        flat = by_column.reshape(-1)
        for _, category, runs in sorted(counts, key=lambda x: -x[0]):
            flat[flat_mask(runs)] = category
        return np.ascontiguousarray(by_column.T), problems


def pixels_of_box(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Return the left, top, right and bottom of the pixels that a box [x, y, width, height] touches."""
    corners = np.array([box[0], box[1], box[0] + box[2], box[1] + box[3]])
    corners[:2], corners[2:] = np.floor(corners[:2]), np.ceil(corners[2:])
    left, top, right, bottom = np.clip(corners, 0, [width, height, width, height]).astype(int).tolist()
    return left, top, right, bottom


def read_sample_labels(sample: dict[str, Any]) -> np.ndarray:
    """The class ids (H, W) of a data set's dict; uint8, or int64 where they may be larger.

    The dict has `sem_seg_file_name` and, where its data set needs them, `label_format` or `coco_labels`. Raises
    UnreadableFile and UserError as their readers do. Annotations that are left out are told of once a file.
    """
    if (segments := sample.get("coco_labels")) is not None:
        labels, problems = segments.paint(picture_size(sample["file_name"]))
        for problem in problems:
            warn_once(f"{problem}; left out")
        return labels
    label_format = sample.get("label_format")
    path = sample["sem_seg_file_name"]
    return read_labels(path) if label_format is None else label_format.read(path)
