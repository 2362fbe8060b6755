"""The label map of a sample, whatever its data set's files hold: the one way to it for every reader."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from semask_d2.data.image_io import read_colors, read_labels
from semask_d2.utils.errors import UserError

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
            fits = keys < 256
            lookup[keys[fits]] = classes[fits]
            result = lookup[values]
        else:
            places = np.searchsorted(keys, values).clip(max=len(keys) - 1)
            result = np.where(keys[places] == values, classes[places], NO_CLASS)
        wrong = result == NO_CLASS
        if wrong.any():
            y, x = np.argwhere(wrong)[0]
            found = [spelled(int(value)) for value in np.unique(values[wrong])]
            what = "color" if key == "rgb" else "id"
            shown = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
            raise UserError(
                f"{path} holds the {what}{'s' if len(found) > 1 else ''} {shown} ({int(wrong.sum())} pixels, the first "
                f"{spelled(int(values[y, x]))} at x {x}, y {y}), which `{key}` of the data set leaves out: add "
                f"{'them' if len(found) > 1 else 'it'}, with {self.ignore_label} where such pixels are to be ignored"
            )
        return result.astype(self._dtype(int(classes.max())))

    def _dtype(self, highest: int) -> type[np.generic]:
        return np.uint8 if max(highest, self.ignore_label) < 256 else np.int64


@dataclass(frozen=True)
class CocoLabels:
    """The segments of one image of a COCO-format file, as (class, segmentation) with the topmost last.

    `unlabeled` is the class of pixels in no segment; `source` names file and image in messages.
    """

    source: str
    height: int
    width: int
    unlabeled: int
    segments: tuple[tuple[int, Any], ...]

    def paint(self) -> np.ndarray:
        """The class ids (H, W), uint8 or int64. Raises UserError for a segmentation that is none."""
        highest = max((self.unlabeled, *(number for number, _ in self.segments)))
        labels = np.full((self.height, self.width), self.unlabeled, np.uint8 if highest < 256 else np.int64)
        for number, segmentation in self.segments:
            labels[decoded_mask(segmentation, self.height, self.width, self.source)] = number
        return labels


def decoded_mask(segmentation: Any, height: int, width: int, source: str) -> np.ndarray:
    """The mask (H, W) bool of COCO's polygons or run lengths; UserError that begins with `source` for what is none."""
    try:
        encoded: Any = segmentation
        if isinstance(segmentation, list):
            encoded = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            if sum(segmentation["counts"]) != height * width:
                raise ValueError(f"its runs are {sum(segmentation['counts'])} pixels long")
            encoded = coco_mask.frPyObjects(segmentation, height, width)
        mask = coco_mask.decode(encoded).astype(bool)
    except Exception as error:  # whatever the library makes of values that are no polygon and no run lengths
        raise UserError(f"{source}: a segmentation is neither polygons nor RLE: {error}") from error
    if mask.shape != (height, width):
        raise UserError(
            f"{source}: an RLE is for {mask.shape[1]} x {mask.shape[0]} pixels, its image is {width} x {height}"
        )
    return mask


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask (H, W), as they stand in a file."""
    encoded: Any = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def read_sample_labels(sample: dict[str, Any]) -> np.ndarray:
    """The class ids (H, W) of a data set's dict; uint8, or int64 where they may be larger.

    The dict has `sem_seg_file_name` and, where its data set needs them, `label_format` or `coco_labels`. Raises
    UnreadableFile and UserError as their readers do.
    """
    if (segments := sample.get("coco_labels")) is not None:
        return segments.paint()
    label_format = sample.get("label_format")
    path = sample["sem_seg_file_name"]
    return read_labels(path) if label_format is None else label_format.read(path)


def size_mismatch(image: str, size: tuple[int, int], kind: str, file: str, file_size: tuple[int, int]) -> str:
    """What is wrong where an image and its file of labels, of a `kind`, have other sizes (width, height)."""
    return (
        f"{image} is {size[0]} x {size[1]} but its {kind} {file} is {file_size[0]} x {file_size[1]}: they must be of "
        "one size"
    )
