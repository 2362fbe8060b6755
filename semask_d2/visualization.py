"""Drawing segmentations: colours over the image, class names at their regions, a legend."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

FONT = cv2.FONT_HERSHEY_SIMPLEX
NAMED_SHARE = 0.004  # regions below this share of the image get no name
BACKGROUND, INK = (255, 255, 255), (30, 30, 30)


def colorize(labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Class ids (H, W) to RGB (H, W, 3); ids without a colour (ignored pixels) are black."""
    table = np.zeros((max(256, len(colors), int(labels.max(initial=0)) + 1), 3), np.uint8)
    table[: len(colors)] = colors
    return table[labels]


def draw_segmentation(
    image: np.ndarray,
    labels: np.ndarray,
    *,
    names: Sequence[str],
    colors: np.ndarray,
    opacity: float = 0.6,
) -> np.ndarray:
    """The image (H, W, 3) under its classes' colours, with names at large regions and a legend: RGB uint8.

    Small images are enlarged first, so that the names can be read.
    """
    zoom = max(1, round(512 / max(image.shape[:2])))
    size = (image.shape[1] * zoom, image.shape[0] * zoom)
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    labels = cv2.resize(labels.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)
    canvas = cv2.addWeighted(image, 1 - opacity, colorize(labels, colors), opacity, 0)
    present = [int(i) for i in np.unique(labels) if 0 <= i < len(names)]
    for i in present:
        name_regions(canvas, labels == i, names[i])
    return np.concatenate([canvas, legend(labels, present, names, colors)], axis=1)


def name_regions(canvas: np.ndarray, mask: np.ndarray, name: str) -> None:
    """Write `name` on `canvas`, at the innermost point of each connected region of `mask` that has room for it."""
    count, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    scale = text_scale(canvas)
    (width, height), _ = cv2.getTextSize(name, FONT, scale, 1)
    for region in range(1, count):
        if stats[region, cv2.CC_STAT_AREA] < NAMED_SHARE * mask.size:
            continue
        inside = np.pad((regions == region).astype(np.uint8), 1)  # the border counts as an edge
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(distance.argmax(), distance.shape)
        x = int(np.clip(x - width / 2, 2, max(2, canvas.shape[1] - width - 2)))
        y = int(np.clip(y + height / 2, height + 2, canvas.shape[0] - 2))
        cv2.putText(canvas, name, (x, y), FONT, scale, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(canvas, name, (x, y), FONT, scale, (255, 255, 255), 1, cv2.LINE_AA)


def legend(labels: np.ndarray, present: Sequence[int], names: Sequence[str], colors: np.ndarray) -> np.ndarray:
    """A column as high as `labels`: colour, name and share of each class that is present, the largest first."""
    height = labels.shape[0]
    shares = {i: float((labels == i).mean()) for i in present}
    rows = sorted(present, key=shares.get, reverse=True)
    scale = text_scale(labels)
    texts = [f"{names[i]} {100 * shares[i]:.1f}%" for i in rows]
    step = max(8, min(round(40 * scale), height // max(len(rows), 1)))
    scale = min(scale, step / 40 * 1.2)
    swatch = round(step * 0.7)
    text_width = max((cv2.getTextSize(text, FONT, scale, 1)[0][0] for text in texts), default=0)
    panel = np.full((height, text_width + swatch + 24, 3), BACKGROUND, np.uint8)
    for row, (i, text) in enumerate(zip(rows, texts, strict=True)):
        top = row * step + (step - swatch) // 2
        cv2.rectangle(panel, (8, top), (8 + swatch, top + swatch), tuple(int(v) for v in colors[i]), cv2.FILLED)
        cv2.putText(panel, text, (16 + swatch, top + swatch - 2), FONT, scale, INK, 1, cv2.LINE_AA)
    return panel


def text_scale(canvas: np.ndarray) -> float:
    """A font scale that stays readable: 0.5 at 600 pixels, growing with the picture."""
    return max(0.45, min(canvas.shape[:2]) / 1200)
