"""Drawing of panoptic segments and instances: a color for each object, its outline, its class and number."""

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
    """A map (H, W) of segment numbers from 0, -1 where nothing is drawn, and the numbered `segments` as classes.

    `all_names` lists all names that a legend may contain, so that the frames of a video have the same width.
    """

    numbers: np.ndarray
    segments: Classes
    all_names: list[str]


def drawn_segments(
    ids: np.ndarray,
    segments: Sequence[tuple[int, int, bool]],
    classes: Classes,
) -> Drawn:
    """Prepare a map (H, W) of segment ids for drawing; each of `segments` is (id, class, whether it is a thing).

    Stuff has the color of its class. Each thing has a distinct color, unlike those of stuff, and a number if there are
    several things of its class.
    """
    numbers = np.full(ids.shape, -1, np.int32)
    counts = np.bincount([category for _, category, is_thing in segments if is_thing], minlength=len(classes))
    stuff = {category for _, category, is_thing in segments if not is_thing}
    thing_colors = iter(distinct_colors(len(segments), unlike=[classes.colors[category] for category in stuff]))
    seen = np.zeros(len(classes), int)
    titles, painted = [], []
    for number, (segment, category, is_thing) in enumerate(segments):
        numbers[ids == segment] = number
        seen[category] += is_thing
        several = is_thing and counts[category] > 1
        name = classes.names[category]
        titles.append(f"{name} {seen[category]}" if several else name)
        painted.append(next(thing_colors) if is_thing else classes.colors[category])
    return Drawn(numbers, Classes.of(titles, painted), [f"{name} 100" for name in classes.names])


def map_of_masks(masks: np.ndarray, scores: np.ndarray, least_score: float) -> np.ndarray:
    """Combine masks (N, H, W) in one map (H, W) of i + 1; only scores of at least `least_score`, the highest on top.

    A mask of which masks with higher scores hide more than half is left out: it is usually a duplicate of an object.
    """
    ids = np.zeros(masks.shape[1:], np.int32)
    for i in np.argsort(-scores, kind="stable"):
        seen = masks[i] & (ids == 0)
        if scores[i] >= least_score and 2 * seen.sum() >= masks[i].sum():
            ids[seen] = i + 1
    return ids


def draw_segments(image: np.ndarray, drawn: Drawn, *, opacity: float = 0.6) -> np.ndarray:
    """Draw segments over an image (H, W, 3), with colors, outlines, names and a legend: RGB uint8.

    Small images are enlarged first, so that the names can be read. Pixels without a segment are left unchanged.
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
