"""Masks of COCO annotations: polygons and run lengths, validated before compiled code sees their numbers.

pycocotools trusts its input: a coordinate of 1e18 writes through a null pointer, and a coordinate that is NaN or a
million edges across an image take tens of gigabytes. This module makes sure that every coordinate is finite and near
the image, that outlines have a bounded length, that run lengths are not negative, and that sizes agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from semask_d2.data.opening import MAX_PIXELS
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import shown

MIN_POINTS = 3  # per polygon; fewer enclose no area
MAX_POINTS = 1_000_000  # over all polygons of an annotation
MAX_LENGTH = 2**22  # in pixels, over all edges of an annotation: compiled code takes about 100 bytes per pixel
MARGIN = 1.0  # how far outside the image points may lie, in image widths and heights; the outside is not painted
CONTINUES, SIGN, LETTER_BITS = 0x20, 0x10, 5  # bits of a letter of compressed run lengths
LETTERS = (48, 48 + 64)


class UnusableAnnotation(UserError):
    """An annotation whose shape is unknown because its segmentation is missing or malformed."""


class EmptyAnnotation(UnusableAnnotation):
    """An annotation that encloses no area."""


def decoded_mask(segmentation: Any, height: int, width: int, source: str) -> np.ndarray:
    """Return the mask (H, W) bool of an annotation's `segmentation`, polygons or run lengths.

    Raises `UnusableAnnotation`, with a message that starts with `source`, if it is neither or does not fit the image,
    and `EmptyAnnotation` if it holds no polygon of at least three points.
    """
    return flat_mask(run_length_counts(segmentation, height, width, source)).reshape(width, height).T


def run_length_counts(segmentation: Any, height: int, width: int, source: str) -> np.ndarray:
    """Return the run lengths (N,) int64 of a `segmentation` in column order: unset, set, unset, ...

    Raises the errors of `decoded_mask`.
    """
    segmentation = checked_segmentation(segmentation, height, width, source)
    if isinstance(segmentation, np.ndarray):
        return segmentation
    encoded: Any = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return decompressed_counts(encoded["counts"], source)


def flat_mask(counts: np.ndarray) -> np.ndarray:
    """Return the mask (W * H,) bool, in column order, of run lengths (N,)."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts)


def checked_segmentation(segmentation: Any, height: int, width: int, source: str) -> list[list[float]] | np.ndarray:
    """Return a `segmentation` as polygons [x, y, x, y, ...] of three points or more, or as run lengths (N,) int64.

    Raises the errors of `decoded_mask`. A flat list of numbers or of points counts as one polygon, since some tools
    write it that way. Polygons of fewer than three points are left out.
    """
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise UnusableAnnotation(f"{source}: its image has {width} x {height} pixels; expected 1 to {MAX_PIXELS}")
    if segmentation is None or (isinstance(segmentation, Mapping) and not segmentation):
        raise UnusableAnnotation(f"{source}: it has no segmentation, only a box; expected polygons or run lengths")
    if hasattr(segmentation, "__array__"):  # a NumPy or PyTorch array: a pixel mask, or polygons
        array = np.asarray(segmentation)
        if array.shape == (height, width) and array.dtype.kind in "bui" and array.max(initial=0) <= 1:
            return mask_run_lengths(array)
        if array.ndim == 2 and array.dtype.kind == "b":
            raise UnusableAnnotation(f"{source}: its mask has the shape {array.shape}, its image {(height, width)}")
        is_single_polygon = array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 2)
        segmentation = [array] if is_single_polygon else list(array) if array.ndim else segmentation
    if isinstance(segmentation, Mapping):
        return checked_run_lengths(segmentation, height, width, source)
    if not isinstance(segmentation, list | tuple):
        raise UnusableAnnotation(f"{source}: expected polygons or run lengths, got {shown(segmentation)}")
    if segmentation and all(type(x) in (int, float) for x in segmentation):
        segmentation = [segmentation]
    if len(segmentation) >= MIN_POINTS and all(isinstance(x, list | tuple) and len(x) == 2 for x in segmentation):
        segmentation = [segmentation]  # the points of one polygon
    longest = sum(len(x) for x in segmentation if isinstance(x, list)) // 2 * max(height, width)  # bound of all edges
    is_short = longest <= MAX_LENGTH
    if segmentation and is_short and all(is_plain_polygon(polygon, height, width) for polygon in segmentation):
        return segmentation if isinstance(segmentation, list) else list(segmentation)
    polygons = [checked_polygon(polygon, height, width, source) for polygon in segmentation]
    if sum(map(len, polygons)) > 2 * MAX_POINTS:
        raise UnusableAnnotation(f"{source}: its polygons have more than {MAX_POINTS} points")
    if sum(map(outline_length, polygons)) > MAX_LENGTH:
        raise UnusableAnnotation(f"{source}: the outlines of its polygons are longer than {MAX_LENGTH} pixels")
    if are_fractions(polygons, height, width):
        raise UnusableAnnotation(
            f"{source}: its coordinates lie between 0 and 1, as fractions of the image's sides; expected pixels: "
            "multiply them by width and height"
        )
    usable = [polygon.tolist() for polygon in polygons if len(polygon) >= 2 * MIN_POINTS]
    if not usable:
        raise EmptyAnnotation(f"{source}: it has no polygon of {MIN_POINTS} points or more")
    return usable


def is_plain_polygon(polygon: Any, height: int, width: int) -> bool:
    """Return whether a polygon is a list of valid coordinates that can be used unchanged; nearly all are.

    Takes a tenth of the time of `checked_polygon`, which explains what is wrong with the others.
    """
    if not isinstance(polygon, list) or not 2 * MIN_POINTS <= len(polygon) <= 2 * MAX_POINTS or len(polygon) % 2:
        return False
    try:
        xs, ys = polygon[::2], polygon[1::2]
        inside = min(xs) >= 0 and max(xs) <= width and min(ys) >= 0 and max(ys) <= height
        return inside and max(xs) > 1 and math.isfinite(sum(polygon))  # not finite if any coordinate is NaN
    except (TypeError, ValueError, OverflowError):
        return False


def checked_polygon(polygon: Any, height: int, width: int, source: str) -> np.ndarray:
    """Return a polygon's coordinates x, y, x, y, ... as float64; also takes points (N, 2)."""
    numbers = as_numbers(polygon)
    if numbers is None or not (numbers.ndim == 1 or (numbers.ndim == 2 and numbers.shape[1] == 2)):
        raise UnusableAnnotation(f"{source}: a polygon is not a list of numbers x, y, x, y, ...: {shown(polygon)}")
    numbers = numbers.astype(np.float64).ravel()
    if len(numbers) % 2:
        raise UnusableAnnotation(f"{source}: a polygon has {len(numbers)} coordinates; expected an even number")
    if not np.isfinite(numbers).all():
        raise UnusableAnnotation(f"{source}: a polygon has a coordinate that is not a finite number")
    for values, side, axis in ((numbers[::2], width, "x"), (numbers[1::2], height, "y")):
        far = (values < -MARGIN * side) | (values > (1 + MARGIN) * side)
        if far.any():
            raise UnusableAnnotation(
                f"{source}: a polygon has {axis} = {values[far][0]:g}, far outside the image of {width} x {height}"
            )
    return numbers


def outline_length(polygon: np.ndarray) -> float:
    """Return the length of a polygon's closed outline, counting the longer of each edge's width and height."""
    points = polygon.reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(1, initial=0).sum())


def as_numbers(values: Any) -> np.ndarray | None:
    """Return lists of numbers as an array; None if they are not numbers or the lists differ in length."""
    try:
        numbers = np.asarray(values)
    except (ValueError, OverflowError):  # OverflowError: integers of thousands of digits
        return None
    return numbers if numbers.dtype.kind in "iuf" or not numbers.size else None


def are_fractions(polygons: Sequence[np.ndarray], height: int, width: int) -> bool:
    """Return whether the coordinates look like fractions of the sides: all within 0 to 1, and not all whole."""
    numbers = np.concatenate(polygons) if polygons else np.empty(0)
    inside = len(numbers) > 0 and numbers.min() >= 0 and numbers.max() <= 1
    return bool(inside and min(height, width) > 2 and (numbers % 1 != 0).any())


def checked_run_lengths(encoded: Mapping[str, Any], height: int, width: int, source: str) -> np.ndarray:
    """Return COCO's run lengths {size, counts} as numbers (N,) int64, in column order: unset, set, unset, ...

    Raises `UnusableAnnotation` if they do not fill height x width.
    """
    size, counts = encoded.get("size"), encoded.get("counts")
    if hasattr(size, "__array__"):
        size = np.asarray(size).tolist()
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise UnusableAnnotation(f"{source}: its run lengths have the size {shown(size)}; expected [{height}, {width}]")
    if isinstance(counts, str | bytes):
        numbers = decompressed_counts(counts, source)
    else:
        numbers = as_numbers(counts)
        if numbers is None or numbers.ndim != 1 or not (numbers == np.floor(numbers)).all():
            raise UnusableAnnotation(f"{source}: `counts` are not valid run lengths: {shown(counts)}")
    pixels = height * width
    if ((numbers < 0) | (numbers > pixels)).any() or int(numbers.sum(dtype=np.float64)) != pixels:
        raise UnusableAnnotation(f"{source}: its run lengths do not add up to {height} x {width} pixels")
    return numbers.astype(np.int64)


def mask_run_lengths(mask: np.ndarray) -> np.ndarray:
    """Return the run lengths (N,) int64 of a mask (H, W) in column order: unset, set, unset, ..."""
    flat = np.concatenate([[False], mask.T.ravel() != 0])
    ends = np.flatnonzero(np.append(flat[1:] != flat[:-1], True))
    return np.diff(ends, prepend=0)


def decompressed_counts(text: str | bytes, source: str) -> np.ndarray:
    """Decode COCO's compressed run lengths to (N,) int64; each number is the difference to the one two before.

    Each letter, minus 48, holds five bits and a flag that the number continues; the highest bit of the last letter
    is the sign.
    """
    try:
        letters = np.frombuffer(text.encode("ascii") if isinstance(text, str) else text, np.uint8).astype(np.int64)
    except UnicodeEncodeError:
        letters = np.array([0])
    if ((letters < LETTERS[0]) | (letters >= LETTERS[1])).any():
        raise UnusableAnnotation(f"{source}: `counts` are not compressed run lengths: {shown(text)}")
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
    for first in (1, 2):  # the first three are not differences
        numbers[first::2] = np.cumsum(numbers[first::2])
    return numbers


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """Return COCO's compressed run lengths of a mask (H, W), as written to a file."""
    encoded: Any = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}
