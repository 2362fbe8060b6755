"""Soft borders of label files: intermediate ids or colors at borders, made by antialiasing and resizing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from semask_d2.data.image_io import read_colors
from semask_d2.data.labels import read_sample_labels
from semask_d2.utils.errors import UserError

BETWEEN = 0.5  # a border id has more than this share of its pixels between its neighbors
FEW = 3  # with fewer border ids, borders count as sharp
BORDER_SHARE = 0.3  # at most this share of all pixels lies at borders
MAIN_SHARE = 0.005  # at least this share of all pixels belongs to an id that is a class
NEAR = 8  # a value this close to a more common one is a trace of it

# for each id or color: its pixels, and how many of them lie between their neighbors
Counts = dict[int, tuple[int, int]]


def border_counts(values: np.ndarray, counted: np.ndarray | None = None, *, are_colors: bool = False) -> Counts:
    """Count the pixels of each id, or color 0xRRGGBB, of a map (H, W), and how many lie between their neighbors.

    The value of such a pixel is between those of the two pixels beside it in its row or column, and differs from both.
    Pixels outside the mask `counted` are left out.
    """
    channels = np.stack([values >> 16, values >> 8 & 255, values & 255], -1) if are_colors else values[:, :, None]
    between = np.zeros(values.shape, bool)
    for pixels, inside in ((channels, between), (channels.swapaxes(0, 1), between.T)):
        before, here, after = pixels[:-2], pixels[1:-1], pixels[2:]
        low, high = np.minimum(before, after), np.maximum(before, after)
        inside[1:-1] |= ((here >= low) & (here <= high)).all(-1) & (here != before).any(-1) & (here != after).any(-1)
    chosen = slice(None) if counted is None else counted
    ids, places = np.unique(values[chosen], return_inverse=True)
    counts = np.bincount(places.ravel(), minlength=len(ids))
    at_borders = np.bincount(places.ravel(), weights=between[chosen].ravel(), minlength=len(ids)).astype(int)
    return dict(zip(ids.tolist(), zip(counts.tolist(), at_borders.tolist(), strict=True), strict=True))


def total_counts(several: Iterable[Counts]) -> Counts:
    """Return the sum of the counts of several maps."""
    total: Counts = {}
    for counts in several:
        for value, (pixels, at_borders) in counts.items():
            known = total.get(value, (0, 0))
            total[value] = known[0] + pixels, known[1] + at_borders
    return total


def soft_values(counts: Counts) -> list[int]:
    """Return the ids or colors that come from soft borders and mean no class; [] if borders are sharp."""
    between = {value for value, (pixels, at_borders) in counts.items() if at_borders > BETWEEN * pixels}
    everything = sum(pixels for pixels, _ in counts.values())
    if len(between) < FEW or 2 * len(between) <= len(counts):
        return []
    if sum(counts[value][0] for value in between) > BORDER_SHARE * everything:
        return []
    main: list[int] = []
    for value, (pixels, _) in sorted(counts.items(), key=lambda x: -x[1][0]):
        near = any(
            max(abs(x - y) for x, y in zip(channels_of(value), channels_of(x), strict=True)) <= NEAR for x in main
        )
        if value not in between and pixels >= MAIN_SHARE * everything and not near:
            main.append(value)
    return sorted(set(counts) - set(main))


def channels_of(value: int) -> tuple[int, int, int]:
    """Return the channels of a color 0xRRGGBB; an id lies in the blue channel."""
    return value >> 16, value >> 8 & 255, value & 255


def has_soft_borders(sample: dict[str, Any], ignore_label: int) -> bool:
    """Return whether a dict's label file has soft borders, whose ids or colors are read as classes.

    Returns False if the file cannot be read.
    """
    label_format = sample.get("label_format")
    are_colors = label_format is not None and bool(label_format.colors)
    try:
        labels = read_sample_labels(sample)
        values = read_colors(sample["sem_seg_file_name"]) if are_colors else labels
    except UserError:
        return False
    return bool(soft_values(border_counts(values, labels != ignore_label, are_colors=are_colors)))
