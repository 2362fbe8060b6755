"""Classification of image files by their pixels: photographs, label files, label files saved as JPEG, and overlays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from semask_d2.data.image_io import (
    count_channels,
    holds_whole_numbers,
    lossy_format,
    read_colors,
    read_image,
    read_labels,
    value_span,
)
from semask_d2.data.picture import RGB
from semask_d2.utils.errors import UnreadableFile, UserError

FEW_COLORS = 64  # maximum in any label file; a photograph has thousands
MANY_IDS = 1024  # maximum in a label map of large regions
SMOOTH = 0.2  # maximum share of a label map's pixels that differ from their left neighbors
# label map saved as JPEG: share of pixels similar to their left neighbors, and share of the most frequent colors
FLAT, MAIN_COLORS, MAIN_SHARE = 0.8, 32, 0.95
LOWER_CONTRAST, RELATED = 0.9, 0.8  # overlay against its image: largest slope and smallest correlation
MIN_PIXELS = 16  # smallest region for which a slope is estimated


class Looks(NamedTuple):
    """Statistics of an image file: its number of values, share of pixels unlike their left neighbor, and format."""

    values: int
    borders: float
    is_lossy: bool

    def is_label(self) -> bool:
        """Return whether it looks like a label file: few values, or more in large regions, in a lossless format."""
        return not self.is_lossy and (self.values <= FEW_COLORS or (self.values <= MANY_IDS and self.borders < SMOOTH))

    def is_plainer(self, other: Looks) -> bool:
        """Return whether it is a label map if `other` is its image: it has far fewer values and borders."""
        return 2 * self.values <= other.values and 3 * self.borders <= other.borders


def looks(path: Path) -> Looks | None:
    """Return the looks of an image file, from its ids or else its colors; None if it cannot be read.

    Files of floats or several channels count as images, because label files contain neither.
    """
    try:
        if count_channels(path) != RGB:
            return Looks(MANY_IDS + 1, 1.0, is_lossy=False)
        if (span := value_span(path)) is not None and span.is_float:
            return Looks(MANY_IDS + 1, 1.0, is_lossy=False)
        try:
            values = read_labels(path)
        except UnreadableFile:
            raise
        except UserError:
            values = read_colors(path)
    except UnreadableFile:
        return None
    borders = float((values[:, 1:] != values[:, :-1]).mean()) if values.shape[1] > 1 else 0.0
    return Looks(len(np.unique(values)), borders, bool(lossy_format(path)))


def is_in_color(path: Path) -> bool:
    """Return whether an image file holds colors instead of ids."""
    try:
        read_labels(path)
    except UnreadableFile:
        return False
    except UserError:
        return True
    return False


def is_whole_floats(path: Path) -> bool:
    """Return whether a file holds floats that are all whole numbers, like ids written with the wrong type."""
    try:
        return value_span(path) is not None and holds_whole_numbers(path)
    except UnreadableFile:
        return False


def is_lossy_label(path: Path) -> bool:
    """Return whether a file in a lossy format looks like a label map: flat regions of few colors with noisy borders."""
    if not lossy_format(path):
        return False
    try:
        pixels = read_image(path).astype(np.int64)
    except UnreadableFile:
        return False
    changes = np.abs(np.diff(pixels, axis=1)).max(-1)
    rounded = (pixels + 8) >> 4
    _, counts = np.unique(rounded[..., 0] << 16 | rounded[..., 1] << 8 | rounded[..., 2], return_counts=True)
    main = np.sort(counts)[-MAIN_COLORS:].sum() / counts.sum()
    return bool((changes <= 4).mean() >= FLAT and main >= MAIN_SHARE)


def is_overlay(candidate: Path, image: Path, label: Path) -> bool:
    """Return whether `candidate` is `image` overlaid with a color in each region of `label`.

    An overlay keeps the image's pattern at lower contrast: in each region it equals the image times a slope below 1,
    plus a color.
    """
    try:
        overlaid, plain = read_image(candidate).astype(np.float64), read_image(image).astype(np.float64)
        regions = read_colors(label)
    except UserError:
        return False
    if overlaid.shape != plain.shape or overlaid.shape[:2] != regions.shape:
        return False
    slopes = []
    for value in np.unique(regions)[:FEW_COLORS]:
        inside = regions == value
        x, y = (pixels[inside].mean(-1) for pixels in (plain, overlaid))
        spread = (x.std(), y.std())
        if len(x) < MIN_PIXELS or min(spread) < 1:
            continue
        correlation = np.corrcoef(x, y)[0, 1]
        if correlation < RELATED:
            return False
        slopes.append(correlation * spread[1] / spread[0])
    return bool(slopes) and min(slopes) < LOWER_CONTRAST and max(slopes) < 1.1


def median_looks(files: Sequence[Path]) -> Looks | None:
    """Return the median looks of several files; None if none of them can be read."""
    known = [x for x in map(looks, files) if x is not None]
    if not known:
        return None
    return Looks(
        int(np.median([x.values for x in known])),
        float(np.median([x.borders for x in known])),
        all(x.is_lossy for x in known),
    )
