"""How many pixels each class has in each image of a data set."""

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
    """The pixels (images, K) int64 of each class in each image of a data set, without ignored ones.

    `workers` processes read the label files (None: as many as there are cores); of a job's processes one is to call it
    (`class_counts`). Raises UserError naming the first file
    that cannot be read or holds other ids.
    """
    counts = np.zeros((len(dicts), num_classes), np.int64)
    count = partial(_count, num_classes=num_classes, ignore_label=ignore_label)
    for row, found in enumerate(map_files(count, dicts, what="class pixels", workers=workers)):
        if isinstance(found, UserError):
            raise found
        counts[row] = found
    return counts


def only_class(pixels: np.ndarray) -> int | None:
    """Return the class that has all of the pixels (K,) by class; None where several have, or none."""
    present = np.flatnonzero(pixels)
    return int(present[0]) if len(present) == 1 else None


def class_pixels_of(sample: dict[str, Any], num_classes: int, ignore_label: int) -> np.ndarray:
    """Return the pixels (K,) int64 of each class in a dict's labels; errors are those of their readers."""
    labels = read_sample_labels(sample)
    check_labels(labels, num_classes=num_classes, ignore_label=ignore_label, path=sample["sem_seg_file_name"])
    return pixels_by_class(labels, num_classes, ignore_label)


def _count(sample: dict[str, Any], *, num_classes: int, ignore_label: int) -> np.ndarray | UserError:
    try:
        return class_pixels_of(sample, num_classes, ignore_label)
    except UserError as error:
        return error


def pixels_by_class(labels: np.ndarray, num_classes: int, ignore_label: int) -> np.ndarray:
    """The pixels (K,) int64 of each class in a label map (H, W); ignored ones and ids that are no class's are not."""
    counts = np.zeros(num_classes, np.int64)
    ids, pixels = count_ids(labels)
    counted = (ids >= 0) & (ids < num_classes) & (ids != ignore_label)
    counts[ids[counted]] = pixels[counted]
    return counts
