"""Files with any number of channels, as arrays: TIFF, read by the optional library tifffile, and NumPy's .npy."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import numpy as np

from semask_d2.utils.errors import UnreadableFile, UserError
from semask_d2.utils.extras import install_command

ARRAY_SUFFIX = ".npy"
TIFF_SUFFIXES = (".tif", ".tiff")
ORIENTATION = 274  # TIFF tag
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
KINDS = "buif"  # NumPy's kinds of bool, unsigned and signed integers, and floats

Path = str | os.PathLike


@dataclass(frozen=True)
class Raster:
    """Open file with an image: its `shape` (H, W, C), its EXIF orientation, and `read` for its values.

    `axis` is the axis of the channels in the file. `letter` is tifffile's name of it, "S" or "C", or else of the first
    axis: "Q" or "?" if the file says nothing, others such as "Z" and "I" for pages that may be no channels.
    """

    shape: tuple[int, int, int]
    orientation: int
    axis: int
    letter: str
    load: Callable[[], np.ndarray]

    def read(self) -> np.ndarray:
        """Return the values (H, W, C)."""
        height, width, channels = self.shape
        stored = [height, width]
        stored.insert(self.axis, channels)
        values = np.moveaxis(self.load().reshape(stored), self.axis, 2)
        if values.dtype == np.float16:
            return values.astype(np.float32)
        return values.astype(np.uint8) * 255 if values.dtype == bool else values


def is_tiff(path: Path) -> bool:
    """Return whether a file name has a suffix of TIFF."""
    return os.path.splitext(path)[1].lower() in TIFF_SUFFIXES


def is_array(path: Path) -> bool:
    """Return whether a file name has the suffix of NumPy's files."""
    return os.path.splitext(path)[1].lower() == ARRAY_SUFFIX


@contextmanager
def open_raster(path: Path, channels: int | None) -> Iterator[Raster]:
    """Open a .npy file, or a TIFF of any layout; `channels` decides between (C, H, W) and (H, W, C) in unclear files.

    Raises `UserError` if tifffile is needed and missing, `UnreadableFile` for other contents, and whatever the
    libraries raise for damaged files.
    """
    with open(path, "rb") as file:
        if is_array(path):
            yield raster_of_array(file, path, channels)
            return
        tifffile = import_tifffile(path)
        with tifffile.TiffFile(file) as tiff:
            series, page = tiff.series[0], tiff.pages.first
            shape, axes = without_single_axes(series.shape, series.axes)
            orientation = page.tags.get(ORIENTATION)
            turn = int(orientation.value) if orientation is not None else 1
            load = partial(decoded, series, path)
            yield arranged(shape, axes, channels, series.dtype, path, turn, load)


def has_tifffile() -> bool:
    """Return whether tifffile is installed."""
    try:
        import_tifffile("")
    except UserError:
        return False
    return True


def import_tifffile(path: Path) -> Any:
    """Import tifffile; raise `UserError` that names the file and the extra if it is not installed."""
    try:
        import tifffile
    except ImportError as error:
        raise UserError(f"{path}: reading this TIFF needs tifffile ({error}): {install_command('tiff')}") from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # for a damaged file, the error is enough
    return tifffile


def decoded(series: Any, path: Path) -> np.ndarray:
    """Return the values of an image of tifffile; `UserError` if its compression needs another library."""
    try:
        return series.asarray(maxworkers=1)  # loaders use processes
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        raise UserError(f"{path}: reading this TIFF needs imagecodecs ({error}): {install_command('tiff')}") from error


def raster_of_array(file: IO[bytes], path: Path, channels: int | None) -> Raster:
    """Return the image in an open .npy file, of which only the header is read."""
    version = np.lib.format.read_magic(file)
    if version not in HEADERS:
        raise UnreadableFile(f"{path} is a .npy file of version {version}, but only 1.0 and 2.0 are read")
    shape, _, dtype = HEADERS[version](file)

    def load() -> np.ndarray:
        file.seek(0)
        return np.load(file, allow_pickle=False)

    return arranged(*without_single_axes(shape, "?" * len(shape)), channels, dtype, path, 1, load)


def without_single_axes(shape: tuple[int, ...], axes: str) -> tuple[tuple[int, ...], str]:
    """Return shape and axes without axes of length 1, as far as there are more than three, the first ones first."""
    dimensions = list(zip(shape, axes, strict=True))
    while len(dimensions) > 3 and any(length == 1 for length, _ in dimensions[:-2]):
        dimensions.remove(next(x for x in dimensions if x[0] == 1))
    return tuple(x for x, _ in dimensions), "".join(letter for _, letter in dimensions)


def arranged(
    shape: tuple[int, ...],
    axes: str,
    channels: int | None,
    dtype: np.dtype,
    path: Path,
    orientation: int,
    load: Callable[[], np.ndarray],
) -> Raster:
    """Return the image of an array of this `shape`; its `axes` are letters of tifffile, "?" if unknown."""
    if len(shape) not in (2, 3):
        what = " x ".join(map(str, shape)) or "single"
        raise UnreadableFile(
            f"{path} holds {what} values, expected height x width x channels: write one image per file"
        )
    if dtype.kind not in KINDS:
        raise UnreadableFile(f"{path} holds values of type {dtype}, expected integers or floats: convert them")
    if len(shape) == 2:
        return Raster((shape[0], shape[1], 1), orientation, 2, "S", load)
    stated = [axes.index(letter) for letter in "SC" if letter in axes]
    axis = stated[0] if stated else likely_axis(shape, channels)
    height, width = (length for place, length in enumerate(shape) if place != axis)
    return Raster((height, width, shape[axis]), orientation, axis, axes[stated[0] if stated else 0], load)


def likely_axis(shape: tuple[int, ...], channels: int | None) -> int:
    """Return the axis of the channels: the first or the last, of length `channels` if only one is, else the shorter."""
    first, last = shape[0], shape[-1]
    if (first == channels) != (last == channels):
        return 0 if first == channels else 2
    return 0 if first < last else 2


def wrong_channels(path: Path, count: int, channels: int) -> UnreadableFile:
    """Return the error for an image with a number of channels, `count`, that the config does not expect."""
    return UnreadableFile(
        f"{path} has {count} channel(s), but {channels} are expected (INPUT.CHANNELS): write images of {channels}, or "
        f"set `channels: {count}` with `mean` and `std` in the dataset's file (semask init-data measures them)"
    )
