"""Drawing panoptic segments and instances: a color for each object, its outline, its class and number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from semask_d2.utils.visualization import (
    NAMED_SHARE,
    colorize,
    distinct_colors,
    legend,
    region_centers,
    resize,
    resize_ids,
    short,
    write_names,
)

OUTLINE = (255, 255, 255)


class Drawn(NamedTuple):
    """A map (H, W) of numbers from 0 on, -1 where there is nothing to draw, and the name and color of each number.

    `all_names` are those that any picture's legend may hold, so that the frames of a video are of one width.
    """

    numbers: np.ndarray
    names: list[str]
    colors: np.ndarray
    all_names: list[str]


def drawn_segments(
    ids: np.ndarray,
    segments: Sequence[tuple[int, int, bool]],
    *,
    names: Sequence[str],
    colors: np.ndarray,
) -> Drawn:
    """What to draw of a map (H, W) of segment ids, with the id, the class and whether it is a thing of each segment.

    Stuff has its class's color. Things have colors of their own, unlike those, and a number where there are several of
    a class.
    """
    numbers = np.full(ids.shape, -1, np.int32)
    counts = np.bincount([category for _, category, is_thing in segments if is_thing], minlength=len(names))
    stuff = {category for _, category, is_thing in segments if not is_thing}
    own_colors = iter(distinct_colors(len(segments), unlike=[colors[category] for category in stuff]))
    seen = np.zeros(len(names), int)
    titles, painted = [], []
    for number, (segment, category, is_thing) in enumerate(segments):
        numbers[ids == segment] = number
        seen[category] += is_thing
        several = is_thing and counts[category] > 1
        titles.append(f"{names[category]} {seen[category]}" if several else names[category])
        painted.append(next(own_colors) if is_thing else tuple(int(x) for x in colors[category]))
    return Drawn(numbers, titles, np.array(painted, np.uint8).reshape(-1, 3), [f"{name} 100" for name in names])


def map_of_masks(masks: np.ndarray, scores: np.ndarray, least_score: float) -> np.ndarray:
    """Masks (N, H, W) in one map (H, W): i + 1 of those whose score is `least_score` or more, the surest on top.

    Those that surer ones hide more than half of are left out: they are mostly second guesses at the same object.
    """
    ids = np.zeros(masks.shape[1:], np.int32)
    for i in np.argsort(-scores, kind="stable"):
        seen = masks[i] & (ids == 0)
        if scores[i] >= least_score and 2 * seen.sum() >= masks[i].sum():
            ids[seen] = i + 1
    return ids


def draw_segments(image: np.ndarray, drawn: Drawn, *, opacity: float = 0.6) -> np.ndarray:
    """The image (H, W, 3) under its segments' colors, outlined and named, beside a legend: RGB uint8.

    Small images are enlarged first, so that the names can be read. What has no segment stays as it is.
    """
    zoom = max(1, round(512 / max(image.shape[:2])))
    size = (image.shape[1] * zoom, image.shape[0] * zoom)
    image, numbers = resize(image, size), resize_ids(drawn.numbers, size)
    canvas = cv2.addWeighted(image, 1 - opacity, colorize(numbers, drawn.colors), opacity, 0)
    canvas[numbers < 0] = image[numbers < 0]
    edges = np.zeros(numbers.shape, bool)
    edges[1:] |= numbers[1:] != numbers[:-1]
    edges[:, 1:] |= numbers[:, 1:] != numbers[:, :-1]
    canvas[edges] = OUTLINE
    centers = []
    for number, name in enumerate(drawn.names):
        if regions := region_centers(numbers == number, NAMED_SHARE):
            centers.append((*max(regions), short(name)))  # once, at the largest part
    write_names(canvas, sorted(centers, reverse=True))
    names = [*drawn.names, *drawn.all_names]
    return np.concatenate([canvas, legend(numbers, canvas.shape[0], names, drawn.colors)], axis=1)
