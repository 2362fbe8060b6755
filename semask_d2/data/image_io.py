"""Reading pictures and label maps, whatever their files hold, with errors that name the file, and writing them."""

from __future__ import annotations

import os

import cv2
import numpy as np
from PIL import Image, ImageOps

from semask_d2.utils.errors import UnreadableFile, UserError
from semask_d2.utils.files import atomic_write

Path = str | os.PathLike


def read_image(path: Path, format: str = "RGB") -> np.ndarray:
    """Read a picture as (H, W, 3) uint8 in `format` order ("RGB" or "BGR"), upright as its EXIF tag says.

    Gray, 16-bit, palette, transparent and CMYK files are converted; transparency is dropped.
    Raises UnreadableFile naming the file if it is missing, truncated or no image.
    """
    if format not in ("RGB", "BGR"):
        raise UserError(f'INPUT.FORMAT is "{format}"; images are read as "RGB" or "BGR"')
    image = open_picture(path)
    pixels = np.asarray(image)
    return pixels if format == "RGB" else pixels[:, :, ::-1]


def open_picture(path: Path) -> Image.Image:
    """Read a picture as an upright PIL image in mode RGB; errors as in `read_image`."""
    image = _load(path, "an image")
    if image.getexif():
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return _eight_bits(np.asarray(image))
    return image if image.mode == "RGB" else image.convert("RGB")


def read_labels(path: Path) -> np.ndarray:
    """Read a label map as (H, W) uint8, or int64 where the file holds more bits.

    Palette files give their indices. Raises UnreadableFile naming the file if it is missing, truncated or no
    image, UserError if it is in color instead of ids.
    """
    image = _load(path, "a label file")
    if image.mode == "F" or len(image.getbands()) > 1:
        kind = "an RGB file" if image.mode in ("RGB", "RGBA") else f'a file of mode "{image.mode}"'
        raise UserError(
            f"{path} is {kind}, but a label file holds one class id per pixel in a single channel: "
            "convert its colors to ids first"
        )
    labels = np.asarray(image)
    if labels.dtype == bool:
        return labels.astype(np.uint8)
    return labels if labels.dtype == np.uint8 else labels.astype(np.int64)


def save_picture(path: Path, picture: np.ndarray) -> None:
    """Write RGB (H, W, 3) or ids (H, W) in the format of the path's suffix, whole or not at all.

    Ids above 255 take 16 bits.
    """
    if picture.ndim == 2:
        picture = picture.astype(np.uint8 if picture.max(initial=0) < 256 else np.uint16)
    image_format = "PNG" if os.path.splitext(path)[1].lower() == ".png" else "JPEG"
    with atomic_write(path, "wb") as file:
        Image.fromarray(picture).save(file, format=image_format, **({"quality": 95} if image_format == "JPEG" else {}))


def check_labels(labels: np.ndarray, *, num_classes: int, ignore_label: int, path: Path) -> None:
    """Raise UserError, naming file and ids, if any is neither in 0..`num_classes` - 1 nor `ignore_label`."""
    present, _ = count_ids(labels)
    wrong = present[((present < 0) | (present >= num_classes)) & (present != ignore_label)]
    if wrong.size:
        shown = ", ".join(str(i) for i in wrong[:8]) + (", ..." if wrong.size > 8 else "")
        raise UserError(
            f"{path} holds label id{'s' if wrong.size > 1 else ''} {shown}, but "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}: ids must lie in 0..{num_classes - 1} "
            f"or be the ignore label {ignore_label}"
        )


def count_ids(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a label map in ascending order and how many pixels each has; quick for uint8."""
    if labels.dtype != np.uint8:
        return np.unique(labels, return_counts=True)
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256]).reshape(-1)
    ids = np.flatnonzero(counts)
    return ids, counts[ids].astype(np.int64)


def _load(path: Path, what: str) -> Image.Image:
    """`what` is the file's role with its article."""
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        raise UnreadableFile(f"{path} does not exist: expected {what} there") from None
    except Image.DecompressionBombError as error:
        raise UnreadableFile(f"{path} is too large an image to be read safely: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # PIL's readers of damaged files raise whatever their format's parser does
        raise UnreadableFile(
            f"{path} cannot be read as {what} ({type(error).__name__}: {error}): replace or remove it"
        ) from None
    return image


def _eight_bits(values: np.ndarray) -> Image.Image:
    """Gray values of 16 bits (or floats up to that range) as an RGB image of 8 bits."""
    if values.max(initial=0) > 255:
        values = values / 257.0  # 65535 -> 255
    gray = np.clip(values, 0, 255).round().astype(np.uint8)
    return Image.fromarray(np.repeat(gray[:, :, None], 3, axis=2))
