"""Opening image files: formats, limits, the rotation by EXIF, and errors that name the file."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO, TypeVar

from PIL import Image

from semask_d2.data.jpeg_scans import MAX_SCANS, count_scans
from semask_d2.data.picture import RGB
from semask_d2.data.pixel_values import NotForPillow, describe_unread_tiff
from semask_d2.data.rasters import Raster, open_raster
from semask_d2.utils.errors import UnreadableFile, UserError
from semask_d2.utils.files import require_regular

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

logger = logging.getLogger(__name__)


def read_raster(path: Path, channels: int | None, convert: Callable[[Raster], T]) -> T:
    """Open a TIFF or .npy file and return `convert` of its header; `channels` are those expected, if known."""
    with _naming(path, "an image"), open_raster(path, channels) as raster:
        height, width, count = raster.shape
        _check_size((width, height), path)
        if height * width * count > RGB * MAX_PIXELS:
            raise _too_large(path, f"{width} x {height} pixels of {count} channels")
        return convert(raster)


def read_file(path: Path, what: str, convert: Callable[[Image.Image], T], *, decode: bool = True) -> T:
    """Open a file, `decode` it or only its header, and return `convert` of it; `what` names its role in errors."""
    # Opened here because Pillow maps files that it opens itself into memory, and then does not rotate them.
    with _naming(path, what), open(path, "rb") as file, _open(file) as image:
        _check_size(image.size, path)
        if decode:
            decode_image(image, path)
        return convert(image)


@contextmanager
def _naming(path: Path, what: str) -> Iterator[None]:
    """Convert the errors of a library that reads a file into an `UnreadableFile` that names it."""
    require_regular(path)
    try:
        yield
    except FileNotFoundError:
        raise UnreadableFile(f"{path} does not exist: expected {what} there") from None
    except Image.DecompressionBombError as error:  # Pillow's own limit, from the same header, but without the shape
        count = re.search(r"\d+ pixels", str(error))
        raise _too_large(path, count[0] if count else "of too many pixels") from None
    except (MemoryError, UserError):
        raise
    except Image.UnidentifiedImageError:
        raise _unidentified(path, what) from None
    except Exception as error:  # for damaged files libraries raise whatever the format's parser raises
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise UnreadableFile(f"{path} cannot be read as {what} ({text}): replace or remove it") from None


def raster_size(raster: Raster) -> tuple[int, int]:
    """Return the upright width and height."""
    height, width = raster.shape[:2]
    return (height, width) if raster.orientation in TURNED else (width, height)


def image_size(image: Image.Image, path: Path, *, upright: bool = True) -> tuple[int, int]:
    """Return the width and height from a file's header."""
    width, height = image.size
    if image.format == "TIFF":  # decoding rotates TIFF, also labels; newer Pillow versions report the rotated size
        width, height = image.tag_v2.get(256, width), image.tag_v2.get(257, height)  # type: ignore[attr-defined]
    turned = (upright or image.format == "TIFF") and orientation(image, path) in TURNED
    return (height, width) if turned else (width, height)


def _open(file: IO[bytes]) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS takes its place
        return Image.open(file, formats=_formats())


def decode_image(image: Image.Image, path: Path) -> None:
    """Decode an opened image."""
    _check_scans(image, path)
    image.load()


def _unidentified(path: Path, what: str) -> UnreadableFile:
    """Return the error for a file that Pillow cannot identify."""
    with open(path, "rb") as file:
        bands = describe_unread_tiff(file)
    if bands:
        return NotForPillow(
            f"{path} cannot be read as {what} (it is {bands}; supported are one gray band of integers of up to 32 bits "
            "or 32-bit floats, RGB of 8 or 16 bits, and RGBA): write one or three of its bands into such a file"
        )
    return UnreadableFile(
        f"{path} cannot be read as {what} (expected one of {', '.join(_formats())}): convert, replace or remove it"
    )


@cache
def _formats() -> tuple[str, ...]:
    """Return the formats of FORMATS that this build of Pillow supports."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_size(size: tuple[int, int], path: Path) -> None:
    """Raise UnreadableFile, from the header alone, if the image is empty or decoding would take too much memory."""
    width, height = size
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


def orientation(image: Image.Image, path: Path) -> int:
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
