"""Reading and writing of images and label maps in many file formats; every error names the file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from PIL import Image

from semask_d2.data.opening import (
    ORIENTATION,
    UPRIGHT,
    decode_image,
    image_size,
    orientation,
    raster_size,
    read_file,
    read_raster,
)
from semask_d2.data.picture import RGB, Picture, bands_of
from semask_d2.data.pixel_values import (
    NotForPillow,
    ValueSpan,
    as_gray_levels,
    deep_colors,
    gray_values,
    has_deep_colors,
    is_deep,
    is_signed_byte,
    span_of,
    unread_bands,
)
from semask_d2.data.rasters import Raster, has_tifffile, is_array, is_tiff, wrong_channels
from semask_d2.utils.errors import UnreadableFile, UserError
from semask_d2.utils.files import atomic_write, require_regular

Path = str | os.PathLike
T = TypeVar("T")

JPEG_SIDE = 65500  # the longest side of a JPEG file
PNG_LEVEL = 1  # of drawings: compression takes a quarter of the time of the default, and files are a fifth larger


def read_image(
    path: Path, format: str = "RGB", *, value_range: Sequence[float] = (), channels: int = RGB
) -> np.ndarray:
    """Read an image as (H, W, C) uint8 with `channels`, turned upright by its EXIF tag.

    Three channels are in `format` order ("RGB" or "BGR"): gray, palette, transparent and CMYK files are converted, and
    transparency is dropped. Any other number is read from TIFF (by tifffile) and .npy files, (H, W, C) or (C, H, W),
    from gray images and from RGBA, in the order of the file. For files of more than 8 bits, `value_range` (low, high)
    is mapped to 0..255; the default is 0 to 65535 for integers and 0 to 1 for floats.
    Raises UnreadableFile naming the file if it is missing, truncated, larger than MAX_PIXELS, not an image or of
    another number of channels, or if values lie outside the default range; UserError if tifffile is missing.
    """
    if format not in ("RGB", "BGR"):
        raise UserError(f'INPUT.FORMAT is "{format}"; images are read as "RGB" or "BGR"')
    pixels = open_picture(path, value_range, channels).pixels()
    return pixels[:, :, ::-1] if format == "BGR" and channels == RGB else pixels


def open_picture(path: Path, value_range: Sequence[float] = (), channels: int = RGB) -> Picture:
    """Read an upright image; the arguments and errors are those of `read_image`."""
    settings = {"path": path, "value_range": value_range, "channels": channels}
    return _read_image(path, channels, partial(_upright, **settings), partial(_upright_raster, **settings))


def value_span(path: Path, channels: int = RGB) -> ValueSpan | None:
    """Return the span of the values in a file of more than 8 bits, None for other files; errors as in `read_image`."""

    def span(image: Image.Image) -> ValueSpan | None:
        if not is_deep(image) and not is_signed_byte(image) and not has_deep_colors(image):
            return None
        values, _ = _deep_values(image, path, channels)
        return None if values is None else span_of(values)

    def raster_span(raster: Raster) -> ValueSpan | None:
        values = raster.read()
        return None if values.dtype == np.uint8 else span_of(values)

    return _read_image(path, channels, span, raster_span)


def count_channels(path: Path) -> int:
    """Return the number of channels to read an image with: 3 for gray and RGB, transparent or not, else the file's.

    The pages of a TIFF count as channels unless the file calls them slices or times, or nothing. Errors as in
    `read_image`.
    """

    def by_header(image: Image.Image) -> bool:
        return not unread_bands(image) and int(getattr(image, "n_frames", 1)) == 1

    def by_raster(raster: Raster) -> int:
        count = raster.shape[2] if raster.letter in "SCQ?" else 1
        return RGB if count == 1 else count

    if not is_array(path):
        is_plain = not is_tiff(path) or _read_image(path, RGB, by_header, lambda _: None)
        if is_plain or (is_plain is False and not has_tifffile()):  # None: only tifffile reads it
            return RGB
    return read_raster(path, None, by_raster)


def picture_size(path: Path, *, upright: bool = True, channels: int = RGB) -> tuple[int, int]:
    """Return the width and height from an image's header, after EXIF rotation if `upright`.

    Raises the errors of `read_image` that the header shows.
    """
    return _read_image(path, channels, partial(image_size, path=path, upright=upright), raster_size)


@dataclass
class ImageFacts:
    """Facts about an image file, as far as it can be read; `problem` says why it cannot be read completely.

    `size` is the upright width and height; `span` is set for files of more than 8 bits; `pixels` (H, W, C) are those
    of `read_image`. Only the first of several `pages` is read; `unread_bands` counts the bands that are not read.
    """

    size: tuple[int, int] | None = None
    span: ValueSpan | None = None
    pixels: np.ndarray | None = None
    pages: int = 1
    unread_bands: int = 0
    has_broken_exif: bool = False
    problem: str = ""


def read_image_facts(path: Path, value_range: Sequence[float] = (), channels: int = RGB) -> ImageFacts:
    """Return the facts about an image file; opens it once for its header and once for its pixels."""
    facts = ImageFacts()

    def take_header(image: Image.Image) -> None:
        facts.size = image_size(image, path)
        facts.unread_bands = unread_bands(image)
        try:
            int(image.getexif().get(ORIENTATION, 1))
        except Exception:  # as in `orientation`
            facts.has_broken_exif = True
        facts.pages = int(getattr(image, "n_frames", 1))

    def take_raster_header(raster: Raster) -> None:
        facts.size = raster_size(raster)

    def take_pixels(image: Image.Image | Raster) -> None:
        read = _upright_raster if isinstance(image, Raster) else _upright
        facts.pixels = read(image, path, value_range, channels, facts).pixels()  # type: ignore[arg-type]

    try:
        with warnings.catch_warnings(record=True) as caught:  # for some broken EXIF data Pillow only warns
            warnings.simplefilter("always")
            _read_image(path, channels, take_header, take_raster_header)
        facts.has_broken_exif |= any("EXIF" in str(warning.message) for warning in caught)
        _read_image(path, channels, take_pixels, take_pixels)
    except UnreadableFile as error:
        facts.problem = str(error)
    return facts


def read_labels(path: Path) -> np.ndarray:
    """Read a label map as (H, W) uint8, or int64 if the file holds more bits.

    Palette files give their indices. Raises UnreadableFile naming the file if it is missing, truncated, larger than
    MAX_PIXELS or not an image, and UserError if it holds colors or floats instead of ids.
    """
    image = read_file(path, "a label file", lambda image: image)
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
    pixels = np.asarray(read_file(path, "a label file", lambda image: image.convert("RGB")))
    pixels = pixels.astype(np.int64)
    return pixels[:, :, 0] << 16 | pixels[:, :, 1] << 8 | pixels[:, :, 2]


def holds_whole_numbers(path: Path) -> bool:
    """Return whether a file holds floats that are all whole numbers; errors as in `read_labels`."""
    values = read_file(path, "a label file", lambda image: np.asarray(image) if image.mode == "F" else None)
    return values is not None and bool((values == np.floor(values)).all())


def has_transparency(path: Path) -> bool:
    """Return whether the pixels of an image differ in transparency; False if it cannot be read."""

    def differs(image: Image.Image) -> bool:
        low, high = image.getchannel("A").getextrema() if "A" in image.getbands() else (0, 0)
        return low != high

    try:
        return read_file(path, "a label file", differs)
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
    options = {"JPEG": {"quality": 95}, "PNG": {"compress_level": PNG_LEVEL} if image.ndim == 3 else {}}
    with atomic_write(path, "wb") as file:
        Image.fromarray(image).save(file, format=image_format, **options[image_format])


def _read_image(
    path: Path, channels: int, convert: Callable[[Image.Image], T], convert_raster: Callable[[Raster], T]
) -> T:
    """Return `convert` of the header of an image, or `convert_raster` if Pillow does not read the file wholly."""
    if not is_array(path) and not (is_tiff(path) and channels not in (1, RGB)):
        try:
            return read_file(path, "an image", convert, decode=False)
        except NotForPillow:
            if not is_tiff(path):
                raise
    return read_raster(path, channels, convert_raster)


def _upright(
    image: Image.Image,
    path: Path,
    value_range: Sequence[float] = (),
    channels: int = RGB,
    facts: ImageFacts | None = None,
) -> Picture:
    """Return an upright picture of `channels`, and set the span of its values in `facts`."""
    values, turn = _deep_values(image, path, channels)
    if values is not None:
        return _scaled(values, path, value_range, channels, facts).turned(turn)
    image.info.pop("transparency", None)  # the conversion would warn of a malformed one
    picture = Picture.of_pillow(image, channels)
    if picture is None:
        raise wrong_channels(path, bands_of(image), channels)
    return picture.turned(turn)


def _upright_raster(
    raster: Raster,
    path: Path,
    value_range: Sequence[float] = (),
    channels: int = RGB,
    facts: ImageFacts | None = None,
) -> Picture:
    """Return the same as `_upright` for a file that Pillow does not read."""
    return _scaled(raster.read(), path, value_range, channels, facts).turned(UPRIGHT.get(raster.orientation))


def _scaled(
    values: np.ndarray, path: Path, value_range: Sequence[float], channels: int, facts: ImageFacts | None
) -> Picture:
    """Return the picture of values (H, W, C), scaled to 0..255 if they have more than 8 bits; gray becomes RGB."""
    count = values.shape[2]
    if count != channels and (count, channels) != (1, RGB):
        raise wrong_channels(path, count, channels)
    if values.dtype != np.uint8:
        if facts is not None:
            facts.span = span_of(values)
        values = as_gray_levels(values, value_range, path)
    return Picture.of_pixels(values if count == channels else np.repeat(values, RGB, axis=2))


def _deep_values(image: Image.Image, path: Path, channels: int) -> tuple[np.ndarray | None, Image.Transpose | None]:
    """Decode a file; return its values (H, W, C) if they have more than 8 bits, and the rotation still needed.

    Transparency is dropped unless it makes up `channels`. `has_deep_colors` must come first, since decoding clears what
    it reads. TIFF is rotated by both of its decoders.
    """
    if has_deep_colors(image):
        values = deep_colors(image, path)
        if (count := values.shape[2]) != channels:
            values = values[:, :, : RGB if count >= RGB else 1]
        return values, None if image.format == "TIFF" else UPRIGHT.get(orientation(image, path))
    decode_image(image, path)
    values = gray_values(image)
    return None if values is None else values[:, :, None], UPRIGHT.get(orientation(image, path))
