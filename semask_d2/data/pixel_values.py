"""Images of more than 8 bits as 8 bits: one range of values for a whole data set, never a guess by file.

A range (low, high) are the values that become 0 and 255. Where none is stated it goes by the type: whole numbers of 16
or 32 bits from 0 to 65535, floats from 0 to 1, as in scikit-image and matplotlib.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import IO, NamedTuple

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from semask_d2.utils.errors import UnreadableFile

ValueRange = tuple[float, float]

INTEGERS: ValueRange = (0.0, 65535.0)
FLOATS: ValueRange = (0.0, 1.0)
SAMPLES_PER_PIXEL, BITS_PER_SAMPLE, PLANAR_CONFIGURATION = 277, 258, 284  # tags of TIFF
BITS = (8, 10, 12, 14, 16)  # of cameras and scanners whose values lie in files of 16 bits


class ValueSpan(NamedTuple):
    """The values of a file of more than 8 bits: lowest, highest, how many are no numbers; whether they are floats."""

    low: float
    high: float
    not_numbers: int
    is_float: bool

    @property
    def default_range(self) -> ValueRange:
        """The range of the type."""
        return FLOATS if self.is_float else INTEGERS


def is_deep(image: Image.Image) -> bool:
    """Return whether an image of one channel has more than 8 bits."""
    return image.mode.startswith(("I", "F"))


def has_deep_colors(image: Image.Image) -> bool:
    """Return whether a file of several channels, not yet decoded, holds 16 bits of each, of which Pillow reads 8."""
    if len(image.getbands()) == 1:
        return False
    if tags := getattr(image, "tag_v2", None):
        return 16 in np.atleast_1d(tags.get(BITS_PER_SAMPLE, 8))
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", None) or [])


def deep_colors(image: Image.Image, path: str | os.PathLike) -> np.ndarray:
    """Return the values (H, W, 3) of a file that `has_deep_colors`, those of TIFF upright; transparency is dropped."""
    values = None
    if getattr(image, "tag_v2", {}).get(PLANAR_CONFIGURATION, 1) == 1:  # OpenCV reads others wrongly
        with open(path, "rb") as file:
            values = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 3 or sorted(values.shape[:2]) != sorted(image.size):
        raise UnreadableFile(f"{path} cannot be read as an image of 16 bits a channel: write it anew, as PNG or TIFF")
    return values[:, :, 2::-1]  # which OpenCV has as blue, green, red


def span_of(values: np.ndarray) -> ValueSpan:
    """Return the span of the values of a file."""
    is_float = values.dtype.kind == "f"
    numbers = values[np.isfinite(values)] if is_float else values
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)
    return ValueSpan(low, high, values.size - numbers.size, is_float)


def as_gray_levels(values: np.ndarray, value_range: Sequence[float], path: str | os.PathLike) -> np.ndarray:
    """Return `values` as uint8 of one shape, `value_range` (low, high) as 0 to 255; () for the range of the type.

    Beyond a stated range they are clipped, and what is no number is 0. Without one `UnreadableFile` says what to state.
    """
    span = span_of(values)
    low, high = value_range or span.default_range
    if not value_range and (span.low < low or span.high > high or span.not_numbers):
        numbers = "; some are no numbers" if span.not_numbers else ""
        proposed = list(proposed_range([span]) or span.default_range)
        raise UnreadableFile(
            f"{path} holds values from {span.low:g} to {span.high:g}{numbers}, where {low:g} to {high:g} are expected: "
            f"state what is black and white, as `value_range: {proposed}` in the data set's file, or INPUT.VALUE_RANGE"
        )
    scaled = np.nan_to_num((values.astype(np.float64) - low) * (255 / (high - low)), posinf=255.0, neginf=0.0)
    return np.clip(scaled, 0, 255).round().astype(np.uint8)


def proposed_range(spans: Sequence[ValueSpan]) -> ValueRange | None:
    """Return the range to state for the files of these spans; None where that of their type is right."""
    if not spans:
        return None
    low, high = min(span.low for span in spans), max(span.high for span in spans)
    if high <= low:
        return None
    if any(span.is_float for span in spans):
        if low >= 0 and high <= 1:
            return None
        return (0.0, 255.0) if low >= 0 and 1 < high <= 255 else (_rounded(low), _rounded(high))
    if low < 0 or high > INTEGERS[1]:
        return low, high
    bits = next(bits for bits in BITS if high < 2**bits)
    return None if bits == BITS[-1] else (0.0, 2.0**bits - 1)


def _rounded(value: float) -> float:
    """Return a number to three digits."""
    return round(value, 2 - math.floor(math.log10(abs(value)))) if value else 0.0


def describe_unread_tiff(file: IO[bytes]) -> str:
    """Return what bands a TIFF holds that no reader takes, in words; "" for what is no TIFF."""
    try:
        directory = ImageFileDirectory_v2(file.read(8))
        file.seek(directory.next)
        directory.load(file)
        bands, bits = directory.get(SAMPLES_PER_PIXEL, 1), directory.get(BITS_PER_SAMPLE, (1,))
    except Exception:  # whatever the parser makes of what is no TIFF
        return ""
    return f"a TIFF of {bands} band(s) of {bits[0] if isinstance(bits, tuple) else bits} bits"
