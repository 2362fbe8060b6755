"""Checks of label maps: ids that belong to no class, and sizes that differ from the image's."""

from __future__ import annotations

import os

import cv2
import numpy as np

from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import few

Name = str | os.PathLike
Size = tuple[int, int]  # width, height

SHOWN = 8  # ids that a message names
STRETCHED = 257  # the factor by which tools stretch 8-bit ids 0..255 to 0..65535


def count_ids(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of a label map in ascending order, and their pixel counts; fast for uint8."""
    if labels.dtype != np.uint8:
        return np.unique(labels, return_counts=True)
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).reshape(-1)
    ids = np.flatnonzero(counts)
    return ids, counts[ids].astype(np.int64)


def wrong_pixels(labels: np.ndarray, num_classes: int, ignore_label: int) -> np.ndarray:
    """Return a mask (H, W) of pixels whose id is neither in 0..`num_classes` - 1 nor `ignore_label`."""
    wrong = labels >= num_classes
    if labels.dtype != np.uint8:
        wrong |= labels < 0
    wrong &= labels != ignore_label
    return wrong


def check_labels(labels: np.ndarray, *, num_classes: int, ignore_label: int, path: Name) -> None:
    """Raise `UserError`, naming the file and the ids, if there are `wrong_pixels`."""
    wrong = wrong_pixels(labels, num_classes, ignore_label)
    if not wrong.any():
        return
    ids = np.unique(labels[wrong])
    raise UserError(
        f"{path} holds label id{'s' if ids.size > 1 else ''} {few(ids, count=SHOWN)}, but "
        f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}: ids must lie in 0..{num_classes - 1} "
        f"or be the ignore label {ignore_label}"
    )


def describe_wrong_ids(labels: np.ndarray, num_classes: int, ignore_label: int) -> str:
    """Return a text with the invalid ids of `wrong_pixels`, their counts and first positions; "" if there are none."""
    places = np.flatnonzero(wrong_pixels(labels, num_classes, ignore_label))
    if not places.size:
        return ""
    wrong = labels.ravel()[places].astype(np.int64)
    ids, first, counts = np.unique(wrong, return_index=True, return_counts=True)
    rows, columns = np.divmod(places[first], labels.shape[1])
    facts = zip(ids, counts, columns, rows, strict=True)
    texts = [f"{i} ({count} pixels, first at x {x}, y {y})" for i, count, x, y in facts]
    hint = "; 8-bit ids stretched to 16 bits: divide them by 257" if not (ids % STRETCHED).any() else ""
    return f"ids outside 0..{num_classes - 1} and not {ignore_label}: {few(texts, count=SHOWN)}{hint}"


def size_mismatch(image: Name, size: Size, kind: str, file: Name, file_size: Size) -> str:
    """Return the error message for an image and a label file, described by `kind`, of different sizes."""
    is_turned = size == file_size[::-1]
    hint = " (does its EXIF tag rotate the image, or did the annotation tool ignore the tag?)" if is_turned else ""
    return (
        f"{image} is {size[0]} x {size[1]} but its {kind} {file} is {file_size[0]} x {file_size[1]}: they must have "
        f"the same size{hint}"
    )


def require_one_size(image: Name, shape: tuple[int, ...], kind: str, file: Name, file_shape: tuple[int, ...]) -> None:
    """Raise `UserError` if the shapes (H, W) of an image and of its label file, described by `kind`, differ."""
    if shape != file_shape:
        raise UserError(size_mismatch(image, (shape[1], shape[0]), kind, file, (file_shape[1], file_shape[0])))
