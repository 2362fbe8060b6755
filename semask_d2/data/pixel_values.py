"""Conversion of images of more than 8 bits to 8 bits, with one value range for a whole dataset, not one per file.

A range (low, high) holds the values that become 0 and 255. The default depends on the type: 0 to 65535 for integers
of 16 or 32 bits, 0 to 1 for floats, as in scikit-image and matplotlib.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import IO, Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from semask_d2.utils.errors import UnreadableFile

ValueRange = tuple[float, float]

INTEGERS: ValueRange = (0.0, 65535.0)
FLOATS: ValueRange = (0.0, 1.0)
SAMPLES_PER_PIXEL, BITS_PER_SAMPLE, PLANAR_CONFIGURATION = 277, 258, 284  # TIFF tags
PHOTOMETRIC, EXTRA_SAMPLES, SAMPLE_FORMAT = 262, 338, 339
BIG = 43  # in the first bytes of a BigTIFF
WHITE_IS_ZERO, SIGNED, FLOAT, TRANSPARENCY = 0, 2, 3, (1, 2)  # values of these tags
NO_DATA = 1e30  # floats beyond this mean "no data", as -3.4e38 does in rasters
KNOWN_NO_DATA = (-9999.0, -99999.0, -32768.0, -32767.0)  # common in rasters; need less distance than FAR asks for
FAR = 4  # a negative minimum this many spans below all other values means "no data", as -9999 does
BITS = (8, 10, 12, 14, 16)  # bit depths of cameras and scanners that write 16-bit files


class ValueSpan(NamedTuple):
    """The value range of a file of more than 8 bits, its number of NaN or no-data values, and whether it is float."""

    low: float
    high: float
    not_numbers: int
    is_float: bool

    @property
    def default_range(self) -> ValueRange:
        """The default range of the type."""
        return FLOATS if self.is_float else INTEGERS


def is_deep(image: Image.Image) -> bool:
    """Return whether a single-channel image has more than 8 bits."""
    return image.mode.startswith(("I", "F"))


def has_deep_colors(image: Image.Image) -> bool:
    """Return whether a multi-channel file, not yet decoded, has 16 bits per channel, of which Pillow reads only 8."""
    if len(image.getbands()) == 1:
        return False
    if tags := getattr(image, "tag_v2", None):
        return 16 in np.atleast_1d(tags.get(BITS_PER_SAMPLE, 8))
    if image.format == "JPEG2000":
        return jpeg2000_bits(image) > 8
    return any(";16" in str(tile[3]) for tile in getattr(image, "tile", None) or [])


def jpeg2000_bits(image: Image.Image) -> int:
    """Return the bits per value of a JPEG 2000 file, not yet decoded, from the first marker of its code stream."""
    file: Any = getattr(image, "fp")  # noqa: B009, since Pillow's types declare it for files only
    place = file.tell()
    file.seek(0)
    head = file.read(2**16)
    file.seek(place)
    start = head.find(b"\xff\x4f\xff\x51")  # SOC, the start of the code stream, and SIZ, the marker of its sizes
    return (head[start + 42] & 0x7F) + 1 if start >= 0 and len(head) > start + 42 else 8


def is_signed_byte(image: Image.Image) -> bool:
    """Return whether a TIFF holds signed bytes, which Pillow reads as unsigned."""
    return image.mode == "L" and SIGNED in np.atleast_1d(getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, 1))


def gray_values(image: Image.Image) -> np.ndarray | None:
    """Return the values (H, W) of a decoded single-channel image that is signed or has over 8 bits; None for others.

    If a TIFF says that white is zero, 16-bit integers are inverted.
    """
    if is_signed_byte(image):
        return np.asarray(image).view(np.int8).astype(np.int32)
    values = np.asarray(image) if is_deep(image) else None
    is_inverted = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
    if values is not None and values.dtype == np.uint16 and is_inverted:
        values = int(INTEGERS[1]) - values.astype(np.int32)
    return values


def unread_bands(image: Image.Image) -> int:
    """Return the number of TIFF bands that are not read: those other than gray, RGB and transparency."""
    extra = np.atleast_1d(getattr(image, "tag_v2", {}).get(EXTRA_SAMPLES, ()))
    return sum(int(kind) not in TRANSPARENCY for kind in extra)


class NotForPillow(UnreadableFile):
    """Error for a TIFF of a kind that neither Pillow nor OpenCV reads; tifffile may."""


def deep_colors(image: Image.Image, path: str | os.PathLike) -> np.ndarray:
    """Return the values (H, W, C) of a file that `has_deep_colors`, rotated upright if TIFF, with its transparency."""
    if getattr(image, "tag_v2", {}).get(PLANAR_CONFIGURATION, 1) != 1:  # OpenCV reads planar files wrongly
        raise NotForPillow(
            f"{path} cannot be read as an image of 16 bits per channel because its bands are stored as separate "
            "planes: save it again with interleaved bands"
        )
    with open(path, "rb") as file:
        values = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim != 3 or sorted(values.shape[:2]) != sorted(image.size):
        raise UnreadableFile(
            f"{path} cannot be read as an image of 16 bits per channel: save it again as RGB, as PNG or TIFF"
        )
    if image.mode.startswith("L"):  # gray with transparency, which OpenCV returns as colors
        return values[:, :, [0, -1]]
    return values[:, :, [2, 1, 0, *range(3, values.shape[2])]]  # OpenCV's order is blue, green, red


def span_of(values: np.ndarray) -> ValueSpan:
    """Return the span of the values of a file, without values that mean "no data"."""
    is_float = values.dtype.kind == "f"
    numbers = values[np.abs(values) < NO_DATA] if is_float else values.ravel()
    if numbers.size and numbers.min() < 0:
        rest = numbers[numbers > numbers.min()]
        inner = float(rest.max()) - float(rest.min()) if rest.size else 0.0
        far = 1 / FAR if float(numbers.min()) in KNOWN_NO_DATA else FAR
        if inner and far * inner < float(rest.min()) - float(numbers.min()):
            numbers = rest
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)
    return ValueSpan(low, high, values.size - numbers.size, is_float)


def as_gray_levels(values: np.ndarray, value_range: Sequence[float], path: str | os.PathLike) -> np.ndarray:
    """Map `values` linearly to uint8, so that `value_range` (low, high) becomes 0 to 255; () for the type's default.

    A given range clips values outside it and maps NaN to 0. Without one, values outside the default range raise
    `UnreadableFile`, which proposes a range.
    """
    span = span_of(values)
    low, high = value_range or span.default_range
    if not value_range and (span.low < low or span.high > high or span.not_numbers):
        numbers = "; some are NaN or infinite, or mean no data" if span.not_numbers else ""
        proposed = list(proposed_range([span]) or span.default_range)
        raise UnreadableFile(
            f"{path} holds values from {span.low:g} to {span.high:g}{numbers}; expected {low:g} to {high:g}: "
            f"state the values of black and white, `value_range: {proposed}` in the dataset's file, or "
            "INPUT.VALUE_RANGE"
        )
    levels = np.empty(values.shape, np.uint8)
    for place in np.ndindex(values.shape[2:]):  # one channel at a time, to save memory
        scaled = (values[(..., *place)].astype(np.float64) - low) * (255 / (high - low))
        levels[(..., *place)] = np.clip(np.nan_to_num(scaled, posinf=255.0, neginf=0.0), 0, 255).round()
    return levels


def proposed_range(spans: Sequence[ValueSpan]) -> ValueRange | None:
    """Return the value range to propose for files with these spans; None if their type's default is right."""
    if not spans:
        return None
    low, high = min(span.low for span in spans), max(span.high for span in spans)
    if any(span.is_float for span in spans):
        if low >= 0 and high <= 1:
            return FLOATS if any(span.not_numbers for span in spans) else None
        if low >= 0 and 1 < high <= 255:
            return 0.0, 255.0
        if high <= low:
            low, high = min(low, 0.0), max(high, 0.0)
        return _rounded(low, math.floor), _rounded(high, math.ceil)
    if high <= low:
        return None
    if low < 0 or high > INTEGERS[1]:
        return low, high
    bits = next(bits for bits in BITS if high < 2**bits)
    if bits == BITS[-1]:
        return INTEGERS if any(span.not_numbers for span in spans) else None
    return 0.0, 2.0**bits - 1


def _rounded(value: float, whole: Callable[[float], int]) -> float:
    """Return a number rounded to three digits by `whole` (floor or ceil), so that a range only grows."""
    if not value:
        return 0.0
    digits = 2 - math.floor(math.log10(abs(value)))
    return round(whole(round(value * 10.0**digits, 6)) / 10.0**digits, max(digits, 0))


def describe_unread_tiff(file: IO[bytes]) -> str:
    """Return a description of the bands of a TIFF that cannot be read; "" if the file is not a TIFF."""
    try:
        head = file.read(8)
        directory = ImageFileDirectory_v2(head + file.read(8) if head[2] == BIG or head[3] == BIG else head)
        file.seek(directory.next)
        directory.load(file)
        bands, bits = directory.get(SAMPLES_PER_PIXEL, 1), directory.get(BITS_PER_SAMPLE, (1,))
        kind = "floats of " if FLOAT in np.atleast_1d(directory.get(SAMPLE_FORMAT, 1)) else ""
    except Exception:  # the parser may raise anything for a file that is not a TIFF
        return ""
    return f"a TIFF of {bands} band(s) of {kind}{bits[0] if isinstance(bits, tuple) else bits} bits"
