"""Pixel counts of each class in each image of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from semask_d2.data.label_checks import check_labels, count_ids
from semask_d2.data.labels import read_sample_labels
from semask_d2.data.parallel import map_files
from semask_d2.utils.errors import UserError


def class_pixels(
    dicts: Sequence[dict[str, Any]], num_classes: int, ignore_label: int, *, workers: int | None = None
) -> np.ndarray:
    """Count the pixels (images, K) int64 of each class in each image of a dataset, without ignored pixels.

    `workers` processes read the label files (None: one per core). In distributed training only one process should
    call this (see `class_counts`). Raises UserError naming the first file that is unreadable or holds invalid ids.
    """
    counts = np.zeros((len(dicts), num_classes), np.int64)
    count = partial(_count, num_classes=num_classes, ignore_label=ignore_label)
    for row, result in enumerate(map_files(count, dicts, what="class pixels", workers=workers)):
        if isinstance(result, UserError):
            raise result
        counts[row] = result
    return counts


def only_class(pixels: np.ndarray) -> int | None:
    """Return the class that has all pixels (K,); None if several classes have pixels, or none has."""
    present = np.flatnonzero(pixels)
    return int(present[0]) if len(present) == 1 else None


def class_pixels_of(sample: dict[str, Any], num_classes: int, ignore_label: int) -> np.ndarray:
    """Count the pixels (K,) int64 of each class in a dict's labels; raises the errors of the label readers."""
    labels = read_sample_labels(sample)
    check_labels(labels, num_classes=num_classes, ignore_label=ignore_label, path=sample["sem_seg_file_name"])
    return pixels_by_class(labels, num_classes, ignore_label)


def _count(sample: dict[str, Any], *, num_classes: int, ignore_label: int) -> np.ndarray | UserError:
    try:
        return class_pixels_of(sample, num_classes, ignore_label)
    except UserError as error:
        return error


def pixels_by_class(labels: np.ndarray, num_classes: int, ignore_label: int) -> np.ndarray:
    """Count the pixels (K,) int64 of each class in a label map (H, W), without ignored and invalid ids."""
    counts = np.zeros(num_classes, np.int64)
    ids, pixels = count_ids(labels)
    counted = (ids >= 0) & (ids < num_classes) & (ids != ignore_label)
    counts[ids[counted]] = pixels[counted]
    return counts
