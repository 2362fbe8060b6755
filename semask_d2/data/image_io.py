"""Reading and writing of images and label maps in many file formats; every error names the file."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import IO, TypeVar

import numpy as np
from PIL import Image

from semask_d2.data.jpeg_scans import MAX_SCANS, count_scans
from semask_d2.data.pixel_values import (
    ValueSpan,
    as_gray_levels,
    deep_colors,
    describe_unread_tiff,
    gray_values,
    has_deep_colors,
    is_deep,
    is_signed_byte,
    span_of,
    unread_bands,
)
from semask_d2.utils.errors import UnreadableFile, UserError
from semask_d2.utils.files import atomic_write, require_regular

Path = str | os.PathLike
T = TypeVar("T")

# Pillow's names of the formats that are read. Without this list it would open any format whatever the file's suffix,
# and start another program for PostScript. JPEG files of many phones are MPO, which Pillow handles under JPEG.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF")
# Enough for the largest common cameras (108 megapixels): 0.3 GB as RGB. Segmentation takes ten times that at its peak,
# and a file of half a megabyte can claim any size.
MAX_PIXELS = 110_000_000
# EXIF orientation, and the transformation that turns the image upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED = (5, 6, 7, 8)  # orientations that swap width and height
ORIENTATION = 0x0112
JPEG_SIDE = 65500  # the longest side of a JPEG file

logger = logging.getLogger(__name__)


def read_image(path: Path, format: str = "RGB", *, value_range: Sequence[float] = ()) -> np.ndarray:
    """Read an image as (H, W, 3) uint8 in `format` order ("RGB" or "BGR"), turned upright by its EXIF tag.

    Gray, palette, transparent and CMYK files are converted; transparency is dropped. For files of more than 8 bits,
    `value_range` (low, high) is mapped to 0..255; the default is 0 to 65535 for integers and 0 to 1 for floats.
    Raises UnreadableFile naming the file if it is missing, truncated, larger than MAX_PIXELS or not an image, or if
    values lie outside the default range.
    """
    if format not in ("RGB", "BGR"):
        raise UserError(f'INPUT.FORMAT is "{format}"; images are read as "RGB" or "BGR"')
    image = open_picture(path, value_range)
    pixels = np.asarray(image)
    return pixels if format == "RGB" else pixels[:, :, ::-1]


def open_picture(path: Path, value_range: Sequence[float] = ()) -> Image.Image:
    """Read an image as an upright PIL image in mode RGB; `value_range` and errors as in `read_image`."""
    convert = partial(_upright_rgb, path=path, value_range=value_range)
    return _read(path, "an image", convert, decode=False)


def value_span(path: Path) -> ValueSpan | None:
    """Return the span of the values in a file of more than 8 bits, None for other files; errors as in `read_image`."""

    def span(image: Image.Image) -> ValueSpan | None:
        if not is_deep(image) and not is_signed_byte(image) and not has_deep_colors(image):
            return None
        values, _ = _deep_values(image, path)
        return None if values is None else span_of(values)

    return _read(path, "an image", span, decode=False)


def picture_size(path: Path, *, upright: bool = True) -> tuple[int, int]:
    """Return the width and height from an image's header, after EXIF rotation if `upright`.

    Raises the errors of `read_image` that the header shows.
    """

    return _read(path, "an image", partial(_size, path=path, upright=upright), decode=False)


@dataclass
class ImageFacts:
    """Facts about an image file, as far as it can be read; `problem` says why it cannot be read completely.

    `size` is the upright width and height; `span` is set for files of more than 8 bits; `pixels` (H, W, 3) are those
    of `read_image`. Only the first of several `pages` is read; `unread_bands` counts the bands that are not read.
    """

    size: tuple[int, int] | None = None
    span: ValueSpan | None = None
    pixels: np.ndarray | None = None
    pages: int = 1
    unread_bands: int = 0
    has_broken_exif: bool = False
    problem: str = ""


def read_image_facts(path: Path, value_range: Sequence[float] = ()) -> ImageFacts:
    """Return the facts about an image file; opens it once for its header and once for its pixels."""
    facts = ImageFacts()

    def take_header(image: Image.Image) -> None:
        facts.size = _size(image, path)
        facts.unread_bands = unread_bands(image)
        try:
            int(image.getexif().get(ORIENTATION, 1))
        except Exception:  # as in `_orientation`
            facts.has_broken_exif = True
        facts.pages = int(getattr(image, "n_frames", 1))

    def take_pixels(image: Image.Image) -> None:
        facts.pixels = np.asarray(_upright_rgb(image, path, value_range, facts))

    try:
        with warnings.catch_warnings(record=True) as caught:  # for some broken EXIF data Pillow only warns
            warnings.simplefilter("always")
            _read(path, "an image", take_header, decode=False)
        facts.has_broken_exif |= any("EXIF" in str(warning.message) for warning in caught)
        _read(path, "an image", take_pixels, decode=False)
    except UnreadableFile as error:
        facts.problem = str(error)
    return facts


def read_labels(path: Path) -> np.ndarray:
    """Read a label map as (H, W) uint8, or int64 if the file holds more bits.

    Palette files give their indices. Raises UnreadableFile naming the file if it is missing, truncated, larger than
    MAX_PIXELS or not an image, and UserError if it holds colors or floats instead of ids.
    """
    image = _read(path, "a label file", lambda image: image)
    if image.mode == "F":
        raise UserError(f"{path} holds floats, but a label file holds one class id per pixel: write whole numbers")
    if len(image.getbands()) > 1:
        kind = "an RGB file" if image.mode in ("RGB", "RGBA") else f'a file of mode "{image.mode}"'
        raise UserError(
            f"{path} is {kind}, but a label file holds one class id per pixel in a single channel: "
            "convert its colors to ids first"
        )
    labels = np.asarray(image)
    if labels.dtype == bool:
        return labels.astype(np.uint8)
    return labels if labels.dtype == np.uint8 else labels.astype(np.int64)


def read_colors(path: Path) -> np.ndarray:
    """Read a color label file as (H, W) int64 numbers 0xRRGGBB; palette files give their colors.

    Raises UnreadableFile as `read_labels` does.
    """
    pixels = np.asarray(_read(path, "a label file", lambda image: image.convert("RGB")))
    pixels = pixels.astype(np.int64)
    return pixels[:, :, 0] << 16 | pixels[:, :, 1] << 8 | pixels[:, :, 2]


def holds_whole_numbers(path: Path) -> bool:
    """Return whether a file holds floats that are all whole numbers; errors as in `read_labels`."""
    values = _read(path, "a label file", lambda image: np.asarray(image) if image.mode == "F" else None)
    return values is not None and bool((values == np.floor(values)).all())


def has_transparency(path: Path) -> bool:
    """Return whether the pixels of an image differ in transparency; False if it cannot be read."""

    def differs(image: Image.Image) -> bool:
        low, high = image.getchannel("A").getextrema() if "A" in image.getbands() else (0, 0)
        return low != high

    try:
        return _read(path, "a label file", differs)
    except UserError:
        return False


def lossy_format(path: Path) -> str:
    """Return the name of an image's format if it is lossy, else ""."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".jpg", ".jpeg"):
        return "JPEG"
    if suffix != ".webp":
        return ""
    try:
        with open(require_regular(path), "rb") as file:
            head = file.read(12)
            while head[:4] == b"RIFF" and len(chunk := file.read(8)) == 8 and chunk[:4] != b"VP8L":
                if chunk[:4] == b"VP8 ":
                    return "lossy WebP"
                size = int.from_bytes(chunk[4:], "little")
                file.seek(size + size % 2, os.SEEK_CUR)
    except (OSError, UserError):
        pass  # the code that reads the file reports the error
    return ""


def save_picture(path: Path, image: np.ndarray) -> None:
    """Write RGB (H, W, 3) or ids (H, W) atomically, in the format of the path's suffix.

    Ids above 255 are written with 16 bits.
    """
    if image.ndim == 2:
        image = image.astype(np.uint8 if image.max(initial=0) < 256 else np.uint16)
    image_format = "PNG" if os.path.splitext(path)[1].lower() == ".png" else "JPEG"
    if image_format == "JPEG" and max(image.shape) > JPEG_SIDE:
        raise UserError(f"{path}: a JPEG file is at most {JPEG_SIDE} pixels wide and high; use a .png file")
    with atomic_write(path, "wb") as file:
        Image.fromarray(image).save(file, format=image_format, **({"quality": 95} if image_format == "JPEG" else {}))


def _read(path: Path, what: str, convert: Callable[[Image.Image], T], *, decode: bool = True) -> T:
    """Open a file, `decode` it or only its header, and return `convert` of it; `what` names its role in errors."""
    require_regular(path)
    try:
        # Opened here because Pillow maps files that it opens itself into memory, and then does not rotate them.
        with open(path, "rb") as file, _open(file) as image:
            _check_size(image, path)
            if decode:
                _decode(image, path)
            return convert(image)
    except FileNotFoundError:
        raise UnreadableFile(f"{path} does not exist: expected {what} there") from None
    except Image.DecompressionBombError as error:  # Pillow's own limit, from the same header, but without the shape
        count = re.search(r"\d+ pixels", str(error))
        raise _too_large(path, count[0] if count else "of too many pixels") from None
    except (MemoryError, UnreadableFile):
        raise
    except Image.UnidentifiedImageError:
        raise UnreadableFile(f"{path} cannot be read as {what} {_unidentified(path)}") from None
    except Exception as error:  # for damaged files Pillow raises whatever the format's parser raises
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnreadableFile(f"{path} cannot be read as {what} ({text}): replace or remove it") from None


def _upright_rgb(
    image: Image.Image, path: Path, value_range: Sequence[float] = (), facts: ImageFacts | None = None
) -> Image.Image:
    """Return an upright image in mode RGB, and set the span of its values in `facts`."""
    values, turn = _deep_values(image, path)
    if values is not None:
        if facts is not None:
            facts.span = span_of(values)
        levels = as_gray_levels(values, value_range, path)
        image = Image.fromarray(levels if levels.ndim == 3 else np.repeat(levels[:, :, None], 3, axis=2))
    if turn is not None:
        image = image.transpose(turn)
    image.info.pop("transparency", None)  # the conversion would warn of a malformed one
    return image if image.mode == "RGB" else image.convert("RGB")


def _size(image: Image.Image, path: Path, *, upright: bool = True) -> tuple[int, int]:
    """Return the width and height from a file's header."""
    width, height = image.size
    if image.format == "TIFF":  # decoding rotates TIFF, also labels; newer Pillow versions report the rotated size
        width, height = image.tag_v2.get(256, width), image.tag_v2.get(257, height)  # type: ignore[attr-defined]
    turned = (upright or image.format == "TIFF") and _orientation(image, path) in TURNED
    return (height, width) if turned else (width, height)


def _open(file: IO[bytes]) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS takes its place
        return Image.open(file, formats=_formats())


def _decode(image: Image.Image, path: Path) -> None:
    _check_scans(image, path)
    image.load()


def _deep_values(image: Image.Image, path: Path) -> tuple[np.ndarray | None, Image.Transpose | None]:
    """Decode a file; return its values if they have more than 8 bits, and the rotation still needed.

    `has_deep_colors` must come first, since decoding clears what it reads. TIFF is rotated by both of its decoders.
    """
    if has_deep_colors(image):
        values = deep_colors(image, path)
        return values, None if image.format == "TIFF" else UPRIGHT.get(_orientation(image, path))
    _decode(image, path)
    return gray_values(image), UPRIGHT.get(_orientation(image, path))


def _unidentified(path: Path) -> str:
    """Return why Pillow cannot identify a file, in parentheses, and what to do."""
    with open(path, "rb") as file:
        bands = describe_unread_tiff(file)
    if bands:
        return (
            f"(it is {bands}; supported are one gray band of integers of up to 32 bits or 32-bit floats, RGB "
            "of 8 or 16 bits, and RGBA): write one or three of its bands into such a file"
        )
    return f"(expected one of {', '.join(_formats())}): convert, replace or remove it"


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats of FORMATS that this build of Pillow supports."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_size(image: Image.Image, path: Path) -> None:
    """Raise UnreadableFile, from the header alone, if the image is empty or decoding would take too much memory."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(path, f"{width} x {height} pixels")
    if width * height == 0:
        raise UnreadableFile(f"{path} is {width} x {height} pixels, an empty image: replace or remove it")


def _check_scans(image: Image.Image, path: Path) -> None:
    """Raise UnreadableFile if a JPEG file has so many scans that each megabyte would take minutes to decode."""
    if image.format not in ("JPEG", "MPO"):
        return
    with open(path, "rb") as file:
        scans = count_scans(file)
    if scans > MAX_SCANS:
        raise UnreadableFile(
            f"{path} is a JPEG file of more than {MAX_SCANS} scans, each of which takes as long as a whole "
            "image: save it again"
        )


def _too_large(path: Path, size: str) -> UnreadableFile:
    return UnreadableFile(f"{path} is {size}, but the limit is {MAX_PIXELS}: make it smaller first")


def _orientation(image: Image.Image, path: Path) -> int:
    """Return the EXIF orientation of an image; 1 (upright) if there is none or it cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception as error:  # the parser raises errors of many types
        warn_once(
            f"{path}: its EXIF data cannot be read; it is ignored, including the orientation ({type(error).__name__})"
        )
        return 1


@cache
def warn_once(message: str) -> None:
    """Log a warning, but each message only once."""
    logger.warning(message)
