"""Drawing panoptic segments and instances: a color for each object, its outline, its class and number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from semask_d2.utils.classes import Classes
from semask_d2.utils.colors import distinct_colors
from semask_d2.utils.visualization import (
    NAMED_SHARE,
    colorize,
    legend,
    region_centers,
    resize,
    resize_ids,
    short,
    write_names,
)

OUTLINE = (255, 255, 255)


class Drawn(NamedTuple):
    """A map (H, W) of numbers from 0 on, -1 where there is nothing to draw, and the numbered `segments` as classes.

    `all_names` are those that any picture's legend may hold, so that the frames of a video are of one width.
    """

    numbers: np.ndarray
    segments: Classes
    all_names: list[str]


def drawn_segments(
    ids: np.ndarray,
    segments: Sequence[tuple[int, int, bool]],
    classes: Classes,
) -> Drawn:
    """What to draw of a map (H, W) of segment ids, with the id, the class and whether it is a thing of each segment.

    Stuff has its class's color. Things have colors of their own, unlike those, and a number where there are several of
    a class.
    """
    numbers = np.full(ids.shape, -1, np.int32)
    counts = np.bincount([category for _, category, is_thing in segments if is_thing], minlength=len(classes))
    stuff = {category for _, category, is_thing in segments if not is_thing}
    own_colors = iter(distinct_colors(len(segments), unlike=[classes.colors[category] for category in stuff]))
    seen = np.zeros(len(classes), int)
    titles, painted = [], []
    for number, (segment, category, is_thing) in enumerate(segments):
        numbers[ids == segment] = number
        seen[category] += is_thing
        several = is_thing and counts[category] > 1
        name = classes.names[category]
        titles.append(f"{name} {seen[category]}" if several else name)
        painted.append(next(own_colors) if is_thing else classes.colors[category])
    return Drawn(numbers, Classes.of(titles, painted), [f"{name} 100" for name in classes.names])


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
    canvas = cv2.addWeighted(image, 1 - opacity, colorize(numbers, drawn.segments.color_table), opacity, 0)
    canvas[numbers < 0] = image[numbers < 0]
    edges = np.zeros(numbers.shape, bool)
    edges[1:] |= numbers[1:] != numbers[:-1]
    edges[:, 1:] |= numbers[:, 1:] != numbers[:, :-1]
    canvas[edges] = OUTLINE
    centers = []
    for number, name in enumerate(drawn.segments.names):
        if regions := region_centers(numbers == number, NAMED_SHARE):
            centers.append((*max(regions), short(name)))  # once, at the largest part
    write_names(canvas, sorted(centers, reverse=True))
    column = legend(numbers, canvas.shape[0], drawn.segments, further_names=drawn.all_names)
    return np.concatenate([canvas, column], axis=1)
