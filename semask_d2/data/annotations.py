"""Masks of COCO's annotations: polygons and run lengths, checked before compiled code sees their numbers.

pycocotools trusts what it is given: one coordinate of 1e18 writes through a null pointer, one that is not a number
takes tens of gigabytes, and so do a million edges across an image. Here every coordinate is finite and near the image,
outlines have a bounded length, every run length is positive, and sizes agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from semask_d2.data.image_io import MAX_PIXELS
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import shown

MIN_POINTS = 3  # of a polygon; fewer enclose nothing
MAX_POINTS = 1_000_000  # of all polygons of an annotation
MAX_LENGTH = 2**22  # pixels of all edges of an annotation: compiled code takes some 100 bytes for each
MARGIN = 1.0  # how far outside the image points may lie, in widths and heights of it; what is outside is not painted
CONTINUES, SIGN, LETTER_BITS = 0x20, 0x10, 5  # of a letter of compressed run lengths
LETTERS = (48, 48 + 64)


class UnusableAnnotation(UserError):
    """An annotation whose shape is unknown, as its segmentation is none or is malformed."""


class EmptyAnnotation(UnusableAnnotation):
    """An annotation that encloses no area."""


def decoded_mask(segmentation: Any, height: int, width: int, source: str) -> np.ndarray:
    """Return the mask (H, W) bool of an annotation's `segmentation`, polygons or run lengths.

    Raises `UnusableAnnotation`, beginning with `source`, for one that is neither, or that does not fit the image;
    `EmptyAnnotation` where it holds no polygon of three points.
    """
    return flat_mask(run_length_counts(segmentation, height, width, source)).reshape(width, height).T


def run_length_counts(segmentation: Any, height: int, width: int, source: str) -> np.ndarray:
    """Return the run lengths (N,) int64 of a `segmentation` by columns: unset, set, unset, ...

    Errors are those of `decoded_mask`.
    """
    segmentation = checked_segmentation(segmentation, height, width, source)
    if isinstance(segmentation, np.ndarray):
        return segmentation
    encoded: Any = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return decompressed_counts(encoded["counts"], source)


def flat_mask(counts: np.ndarray) -> np.ndarray:
    """Return the mask (W * H,) bool by columns of run lengths (N,)."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def checked_segmentation(segmentation: Any, height: int, width: int, source: str) -> list[list[float]] | np.ndarray:
    """Return a `segmentation` as polygons [x, y, x, y, ...] of three points or more, or as run lengths (N,) int64.

    Errors are those of `decoded_mask`. A flat list of numbers, or of points, is one polygon, as some tools write it.
    Polygons of fewer points are left out.
    """
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise UnusableAnnotation(f"{source}: its image has {width} x {height} pixels; from 1 to {MAX_PIXELS} are read")
    if segmentation is None or (isinstance(segmentation, Mapping) and not segmentation):
        raise UnusableAnnotation(f"{source}: it has no segmentation, only a box; expected polygons or run lengths")
    if hasattr(segmentation, "__array__"):  # of NumPy or PyTorch: a mask of each pixel, or polygons
        array = np.asarray(segmentation)
        if array.shape == (height, width) and array.dtype.kind in "bui" and array.max(initial=0) <= 1:
            return mask_run_lengths(array)
        if array.ndim == 2 and array.dtype.kind == "b":
            raise UnusableAnnotation(f"{source}: its mask has the shape {array.shape}, its image {(height, width)}")
        is_one = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 2)
        segmentation = [array] if is_one else list(array) if array.ndim else segmentation
    if isinstance(segmentation, Mapping):
        return checked_run_lengths(segmentation, height, width, source)
    if not isinstance(segmentation, list | tuple):
        raise UnusableAnnotation(f"{source}: expected polygons or run lengths, got {shown(segmentation)}")
    if segmentation and all(type(x) in (int, float) for x in segmentation):
        segmentation = [segmentation]
    if len(segmentation) >= MIN_POINTS and all(isinstance(x, list | tuple) and len(x) == 2 for x in segmentation):
        segmentation = [segmentation]  # the points of one polygon
    longest = sum(len(x) for x in segmentation if isinstance(x, list)) // 2 * max(height, width)  # that edges can be
    is_short = longest <= MAX_LENGTH
    if segmentation and is_short and all(is_plain_polygon(polygon, height, width) for polygon in segmentation):
        return segmentation if isinstance(segmentation, list) else list(segmentation)
    polygons = [checked_polygon(polygon, height, width, source) for polygon in segmentation]
    if sum(map(len, polygons)) > 2 * MAX_POINTS:
        raise UnusableAnnotation(f"{source}: its polygons have more than {MAX_POINTS} points")
    if sum(map(length_of, polygons)) > MAX_LENGTH:
        raise UnusableAnnotation(f"{source}: the outlines of its polygons are longer than {MAX_LENGTH} pixels")
    if shares_of_sides(polygons, height, width):
        raise UnusableAnnotation(
            f"{source}: its coordinates lie between 0 and 1, as shares of the image's sides; expected pixels, so "
            "multiply them by width and height"
        )
    usable = [polygon.tolist() for polygon in polygons if len(polygon) >= 2 * MIN_POINTS]
    if not usable:
        raise EmptyAnnotation(f"{source}: it has no polygon of {MIN_POINTS} points or more")
    return usable


def is_plain_polygon(polygon: Any, height: int, width: int) -> bool:
    """Return whether a polygon is a list of coordinates in which nothing is to be mended; by far most are.

    A tenth of the time of `checked_polygon`, which says what is wrong with the others.
    """
    if not isinstance(polygon, list) or not 2 * MIN_POINTS <= len(polygon) <= 2 * MAX_POINTS or len(polygon) % 2:
        return False
    try:
        xs, ys = polygon[::2], polygon[1::2]
        inside = min(xs) >= 0 and max(xs) <= width and min(ys) >= 0 and max(ys) <= height
        return inside and max(xs) > 1 and math.isfinite(sum(polygon))  # not finite where one is no number
    except (TypeError, ValueError, OverflowError):
        return False


def checked_polygon(polygon: Any, height: int, width: int, source: str) -> np.ndarray:
    """Return a polygon's coordinates x, y, x, y, ... as float64; also takes points (N, 2)."""
    numbers = as_numbers(polygon)
    if numbers is None or not (numbers.ndim == 1 or (numbers.ndim == 2 and numbers.shape[1] == 2)):
        raise UnusableAnnotation(f"{source}: a polygon is no list of numbers x, y, x, y, ...: {shown(polygon)}")
    numbers = numbers.astype(np.float64).ravel()
    if len(numbers) % 2:
        raise UnusableAnnotation(f"{source}: a polygon has {len(numbers)} coordinates; expected an x and a y a point")
    if not np.isfinite(numbers).all():
        raise UnusableAnnotation(f"{source}: a polygon has a coordinate that is no finite number")
    for values, side, axis in ((numbers[::2], width, "x"), (numbers[1::2], height, "y")):
        far = (values < -MARGIN * side) | (values > (1 + MARGIN) * side)
        if far.any():
            raise UnusableAnnotation(
                f"{source}: a polygon has the {axis} {values[far][0]:g}, far outside the image of {width} x {height}"
            )
    return numbers


def length_of(polygon: np.ndarray) -> float:
    """Return the length of a polygon's closed outline, of each edge the longer of its width and height."""
    points = polygon.reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(1, initial=0).sum())


def as_numbers(values: Any) -> np.ndarray | None:
    """Return lists of numbers as an array; None where they are none, or are lists of several lengths."""
    try:
        numbers = np.asarray(values)
    except (ValueError, OverflowError):  # integers of thousands of digits, too
        return None
    return numbers if numbers.dtype.kind in "iuf" or not numbers.size else None


def shares_of_sides(polygons: Sequence[np.ndarray], height: int, width: int) -> bool:
    """Return whether all coordinates lie from 0 to 1 in an image of many pixels, and some are fractions."""
    numbers = np.concatenate(polygons) if polygons else np.empty(0)
    inside = len(numbers) > 0 and numbers.min() >= 0 and numbers.max() <= 1
    return bool(inside and min(height, width) > 2 and (numbers % 1 != 0).any())


def checked_run_lengths(encoded: Mapping[str, Any], height: int, width: int, source: str) -> np.ndarray:
    """Return COCO's run lengths {size, counts} as numbers (N,) int64, of columns from 0 on: unset, set, unset, ...

    Raises `UnusableAnnotation` where they do not fill height x width.
    """
    size, counts = encoded.get("size"), encoded.get("counts")
    if hasattr(size, "__array__"):
        size = np.asarray(size).tolist()
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise UnusableAnnotation(
            f"{source}: its run lengths are of the size {shown(size)}; expected [{height}, {width}]"
        )
    if isinstance(counts, str | bytes):
        numbers = decompressed_counts(counts, source)
    else:
        numbers = as_numbers(counts)
        if numbers is None or numbers.ndim != 1 or not (numbers == np.floor(numbers)).all():
            raise UnusableAnnotation(f"{source}: `counts` are no run lengths: {shown(counts)}")
    pixels = height * width
    if ((numbers < 0) | (numbers > pixels)).any() or int(numbers.sum(dtype=np.float64)) != pixels:
        raise UnusableAnnotation(f"{source}: its run lengths do not add up to {height} x {width} pixels")
    return numbers.astype(np.int64)


def mask_run_lengths(mask: np.ndarray) -> np.ndarray:
    """Return the run lengths (N,) int64 of a mask (H, W) by columns: unset, set, unset, ..."""
    flat = np.concatenate([[False], mask.T.ravel() != 0])
    ends = np.flatnonzero(np.append(flat[1:] != flat[:-1], True))
    return np.diff(ends, prepend=0)


def decompressed_counts(text: str | bytes, source: str) -> np.ndarray:
    """Return the run lengths (N,) int64 that COCO's letters stand for, each a difference from the last but one.

    A letter holds five bits from 48 on and whether the number goes on; the highest bit of the last letter is its sign.
    """
    try:
        letters = np.frombuffer(text.encode("ascii") if isinstance(text, str) else text, np.uint8).astype(np.int64)
    except UnicodeEncodeError:
        letters = np.array([0])
    if ((letters < LETTERS[0]) | (letters >= LETTERS[1])).any():
        raise UnusableAnnotation(f"{source}: `counts` are no compressed run lengths: {shown(text)}")
    letters -= LETTERS[0]
    ends = np.flatnonzero(~(letters & CONTINUES).astype(bool))
    if len(letters) and (not len(ends) or ends[-1] != len(letters) - 1):
        raise UnusableAnnotation(f"{source}: `counts` end in the middle of a number")
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    places = np.arange(len(letters)) - np.repeat(starts, ends - starts + 1)
    if places.max(initial=0) > 7:
        raise UnusableAnnotation(f"{source}: `counts` hold a number of more than 35 bits")
    bits = (letters & (CONTINUES - 1)) << (LETTER_BITS * places)
    numbers = np.add.reduceat(bits, starts) if len(starts) else bits
    negative = (letters[ends] & SIGN) != 0
    numbers = numbers - (negative.astype(np.int64) << (LETTER_BITS * (places[ends] + 1)))
    for first in (1, 2):  # the first three stand for themselves
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Return COCO's compressed run lengths of a mask (H, W), as they stand in a file."""
    encoded: Any = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}
