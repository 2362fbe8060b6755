"""The channels of a folder's images: their number, value range, and the mean and deviation of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from semask_d2.data.image_io import count_channels, read_image, value_span
from semask_d2.data.parallel import map_files
from semask_d2.data.picture import RGB
from semask_d2.data.pixel_values import ValueRange, proposed_range
from semask_d2.utils.errors import UnreadableFile
from semask_d2.utils.excerpts import evenly

READ = 64  # images whose channels and value range are read
MEASURED = 256  # images whose mean and deviation are measured
DIGITS = 3


class Channels(NamedTuple):
    """Number of channels of images, and what the dataset's file should state about them.

    `value_range` is None if that of the type is right. `mean` and `std`, in 0..255, are empty for RGB of 8 bits, which
    keeps those of the pretrained model.
    """

    number: int
    value_range: ValueRange | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


RGB_CHANNELS = Channels(RGB)


def guess_channels(images: Sequence[Path], channels: int | None, workers: int | None) -> tuple[Channels, list[str]]:
    """Return the channels of some of the images, and remarks; `channels` is their number if the user stated it."""
    sample, counts, remarks = evenly(images, READ), Counter[int](), []
    for path in sample if channels is None else ():
        with suppress(UnreadableFile):
            counts[count_channels(path)] += 1
    count = channels or max(counts, key=lambda x: counts[x], default=RGB)
    if len(counts) > 1:
        held = ", ".join(f"{number} of {kind} channels" for kind, number in sorted(counts.items()))
        remarks.append(f"WARNING: the images differ in their channels ({held}): {count} is a guess; see --channels")
    spans = []
    for path in sample:
        with suppress(UnreadableFile):
            spans.append(value_span(path, count))
    value_range = proposed_range([span for span in spans if span is not None])
    if count == RGB and not any(span is not None for span in spans):
        return RGB_CHANNELS, remarks
    mean, std = measure(evenly(images, MEASURED), count, value_range or (), workers)
    return Channels(count, value_range, mean, std), remarks


def measure(
    images: Sequence[Path], channels: int, value_range: Sequence[float], workers: int | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of each channel in 0..255 over the readable images.

    Files are read one at a time, so that memory does not grow with their number. A constant channel gets a deviation
    of 1.
    """
    histogram = np.zeros((channels, 256), np.int64)
    count = partial(channel_histogram, channels=channels, value_range=tuple(value_range))
    for result in map_files(count, images, what="channels", workers=workers):
        histogram += 0 if result is None else result
    total = np.maximum(histogram.sum(1), 1)
    levels = np.arange(256)
    mean = histogram @ levels / total
    deviation = np.sqrt((histogram * (levels - mean[:, None]) ** 2).sum(1) / total)
    std = np.where(deviation.round(DIGITS) > 0, deviation, 1.0)
    return tuple(mean.round(DIGITS).tolist()), tuple(std.round(DIGITS).tolist())


def channel_histogram(path: Path, *, channels: int, value_range: tuple[float, ...]) -> np.ndarray | None:
    """Return the number of pixels (C, 256) of each level in each channel of an image; None if it cannot be read."""
    try:
        pixels = read_image(path, value_range=value_range, channels=channels)
    except UnreadableFile:
        return None
    return np.stack([np.bincount(pixels[:, :, c].ravel(), minlength=256) for c in range(channels)])
