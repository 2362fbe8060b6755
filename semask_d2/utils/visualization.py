"""Drawing of segmentations: colors over the image, class names on their regions, a legend, and figures of panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from semask_d2.utils.classes import Classes

FONT, AA = cv2.FONT_HERSHEY_SIMPLEX, cv2.LINE_AA
OUTLINE = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if x or y]
NAMED_SHARE = 0.004  # regions below this share of the image get no name
NAMED_SHARE_PRIOR = 0.02  # larger for the priors, whose maps have many small regions
LEGEND_ROW = 16  # smallest readable height of a legend row in pixels
PANEL_SIDES = (300, 640)  # smallest and largest longer side of a panel
BACKGROUND, INK, WRONG = (255, 255, 255), (30, 30, 30), (230, 30, 30)


def displayed(pixels: np.ndarray, channels: Sequence[int] = ()) -> np.ndarray:
    """Return the RGB (H, W, 3) by which an image (H, W, C) is drawn.

    `channels` are INPUT.DISPLAY_CHANNELS: three, or one to draw as gray; by default the first three, or the first.
    """
    count = pixels.shape[2]
    chosen = list(channels) or list(range(3 if count >= 3 else 1))
    if count == 3 and chosen == [0, 1, 2]:
        return pixels
    return np.ascontiguousarray(pixels[:, :, chosen if len(chosen) == 3 else chosen * 3])


def colorize(labels: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Return class ids (H, W) as RGB (H, W, 3); ids without a color, such as ignored pixels, are black."""
    table = np.zeros((max(256, len(colors), int(labels.max(initial=0)) + 1), 3), np.uint8)
    table[: len(colors)] = colors
    return table[labels]


def draw_segmentation(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Classes,
    *,
    opacity: float = 0.6,
) -> np.ndarray:
    """Draw class colors over an image (H, W, 3), with names on large regions and a legend: RGB uint8.

    Small images are enlarged first, so that the names can be read. Images of equal size give drawings of equal size.
    """
    zoom = max(1, round(512 / max(image.shape[:2])))
    size = (image.shape[1] * zoom, image.shape[0] * zoom)
    image, labels = resize(image, size), resize_ids(labels, size)
    canvas = under_colors(image, labels, classes, opacity=opacity)
    return np.concatenate([canvas, legend(labels, canvas.shape[0], classes)], axis=1)


def draw_panels(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Classes,
    *,
    opacity: float = 0.6,
    truth: np.ndarray | None = None,
    priors: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Draw titled panels and a legend: image, ground truth, prediction, error map and priors, as RGB uint8.

    Ground truth and error map are drawn if `truth` (H, W) is given. `priors` are those of `Prediction`, finest first.
    """
    scale = float(np.clip(1.0, PANEL_SIDES[0] / max(image.shape[:2]), PANEL_SIDES[1] / max(image.shape[:2])))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    share = 0.0 if truth is None else error_share(labels, truth, classes.ignore_label)
    image, labels = resize(image, size), resize_ids(labels, size)
    panels = [("image", image)]
    if truth is not None:
        truth = resize_ids(truth, size)
        panels.append(("ground truth", under_colors(image, truth, classes, opacity=opacity)))
    panels.append(("prediction", under_colors(image, labels, classes, opacity=opacity)))
    if truth is not None:
        panels.append((f"error {100 * share:.1f}%", error_map(image, labels, truth, classes.ignore_label)))
    maps = spread_maps(priors or {}, size)
    for title, ids in maps:
        panels.append((title, under_colors(image, ids, classes, opacity=opacity, named_share=NAMED_SHARE_PRIOR)))
    columns = -(-len(panels) // 2)
    titled = [add_title(panel, title) for title, panel in panels]
    titled += [np.full_like(titled[0], 255)] * (-len(titled) % columns)
    rows = [np.concatenate(titled[i : i + columns], axis=1) for i in range(0, len(titled), columns)]
    figure = np.concatenate(rows)
    others = [*(ids for _, ids in maps), *([] if truth is None else [truth])]
    return np.concatenate([figure, legend(labels, figure.shape[0], classes, others)], axis=1)


def under_colors(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Classes,
    *,
    opacity: float,
    named_share: float = NAMED_SHARE,
) -> np.ndarray:
    """Draw class colors over an image, with the names of regions that fill at least `named_share` of it.

    Pixels with negative labels are left unchanged.
    """
    canvas = cv2.addWeighted(image, 1 - opacity, colorize(np.maximum(labels, 0), classes.color_table), opacity, 0)
    canvas[labels < 0] = image[labels < 0]
    centers = [
        (area, x, y, short(classes.names[i]))
        for i in map(int, np.unique(labels))
        if 0 <= i < len(classes)
        for area, x, y in region_centers(labels == i, named_share)
    ]
    write_names(canvas, sorted(centers, reverse=True))
    return canvas


def region_centers(mask: np.ndarray, named_share: float) -> list[tuple[int, int, int]]:
    """Return area and innermost point (x, y) of each connected region that fills at least `named_share` of `mask`."""
    count, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    centers = []
    for region in range(1, count):
        left, top, width, height, area = (int(v) for v in stats[region])
        if area < named_share * mask.size:
            continue
        inside = np.pad((regions[top : top + height, left : left + width] == region).astype(np.uint8), 1)
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]  # the border counts as an edge
        y, x = np.unravel_index(distance.argmax(), distance.shape)
        centers.append((area, left + int(x), top + int(y)))
    return centers


def write_names(canvas: np.ndarray, centers: Sequence[tuple[int, int, int, str]]) -> None:
    """Write the names of `centers` (area, x, y, name) on `canvas`, except those that would overlap an earlier name."""
    scale = text_scale(canvas)
    thickness = max(1, round(1.5 * scale))
    occupied: list[tuple[int, int, int, int]] = []
    for _, x, y, name in centers:
        (width, height), _ = cv2.getTextSize(name, FONT, scale, thickness)
        x = int(np.clip(x - width / 2, 2, max(2, canvas.shape[1] - width - 2)))
        y = int(np.clip(y + height / 2, height + 2, max(height + 2, canvas.shape[0] - 4)))
        box = (x, y - height, x + width, y)
        if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in occupied):
            continue
        occupied.append(box)
        for dx, dy in OUTLINE:  # not a thicker stroke: in OpenCV 5 that makes the letters wider
            cv2.putText(canvas, name, (x + dx * thickness, y + dy * thickness), FONT, scale, (0, 0, 0), thickness, AA)
        cv2.putText(canvas, name, (x, y), FONT, scale, (255, 255, 255), thickness, AA)


def legend(
    labels: np.ndarray,
    height: int,
    classes: Classes,
    others: Sequence[np.ndarray] = (),
    *,
    further_names: Sequence[str] = (),
) -> np.ndarray:
    """Draw a legend of `height` pixels: color, name and share of each class in `labels`, largest first.

    Classes that are only in `others`, the other label maps of a figure, follow without a share. The width depends only
    on the class names, on `further_names` (those in other frames of a video), and on the size of `labels`, so that all
    frames have the same width.
    """
    names = classes.names
    ids, counts = np.unique(labels, return_counts=True)
    shares = {int(i): n / labels.size for i, n in zip(ids, counts, strict=True) if 0 <= i < len(names)}
    rows = sorted(shares, key=shares.__getitem__, reverse=True)
    elsewhere = {int(i) for other in others for i in np.unique(other) if 0 <= i < len(names)}
    rows += sorted(elsewhere - shares.keys())
    scale = text_scale(labels)
    lines = max(1, height // LEGEND_ROW)
    texts = [short(names[i]) + (f" {100 * shares[i]:.1f}%" if i in shares else "") for i in rows]
    if len(rows) > lines:
        rows, texts = rows[:lines], [*texts[: lines - 1], f"and {len(texts) - lines + 1} more"]
    step = min(round(40 * scale), height // max(len(rows), 1))
    swatch = round(step * 0.7)
    widest = max((text_width(f"{short(name)} 100.0%", scale) for name in (*names, *further_names)), default=0)
    panel = np.full((height, widest + round(28 * scale) + 24, 3), BACKGROUND, np.uint8)
    scale = min(scale, step / 40 * 1.2)
    for row, (i, text) in enumerate(zip(rows, texts, strict=True)):
        top = row * step + (step - swatch) // 2
        if not text.startswith("and ") or not text.endswith(" more"):
            cv2.rectangle(panel, (8, top), (8 + swatch, top + swatch), classes.colors[i], cv2.FILLED)
        cv2.putText(panel, text, (16 + swatch, top + swatch - 2), FONT, scale, INK, 1, AA)
    return panel


def error_share(labels: np.ndarray, truth: np.ndarray, ignore_label: int) -> float:
    """Return the share of wrong labels among the pixels that are not ignored."""
    counted = truth != ignore_label
    return float((labels != truth)[counted].mean()) if counted.any() else 0.0


def error_map(image: np.ndarray, labels: np.ndarray, truth: np.ndarray, ignore_label: int) -> np.ndarray:
    """Draw the image in light gray, with wrong pixels red and ignored pixels black."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) // 2 + 90
    canvas = np.repeat(gray[:, :, None], 3, axis=2)
    canvas[labels != truth] = WRONG
    canvas[truth == ignore_label] = 0
    return canvas


def spread_maps(priors: Mapping[str, np.ndarray], size: tuple[int, int]) -> list[tuple[str, np.ndarray]]:
    """Return a title and class ids at `size` (width, height) for each prior of a `Prediction`, finest first."""
    maps = list(priors.values())
    return [
        (
            f"semantic map, stride {4 * 2**stage}",
            spread_cells(cells, size, (maps[0].shape[0] / 2**stage, maps[0].shape[1] / 2**stage)),
        )
        for stage, cells in enumerate(maps)
    ]


def spread_cells(cells: np.ndarray, size: tuple[int, int], covered: tuple[float, float]) -> np.ndarray:
    """Return class ids of cells (h, w) enlarged to blocks at `size` (width, height).

    `covered` is the fractional number of rows and columns inside the image: the last cells may extend beyond it.
    """
    rows, columns = (
        np.minimum((np.arange(target) + 0.5) * part / target, count - 1).astype(int)
        for target, part, count in zip(size[::-1], covered, cells.shape, strict=True)
    )
    return cells[rows[:, None], columns]


def add_title(panel: np.ndarray, title: str) -> np.ndarray:
    """Return the panel below a white strip with its title."""
    scale = text_scale(panel)
    strip = np.full((round(44 * scale), panel.shape[1], 3), BACKGROUND, np.uint8)
    cv2.putText(strip, title, (4, round(30 * scale)), FONT, scale, INK, 1, AA)
    framed = np.concatenate([strip, panel])
    framed[:, -4:] = BACKGROUND
    return framed


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an RGB image resized to `size` (width, height)."""
    shrinks = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_ids(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return class ids resized to `size` (width, height) by nearest neighbor."""
    return cv2.resize(labels.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)


def short(name: str, limit: int = 22) -> str:
    """Return the first of a class's names ("door, double door"), cut at `limit` letters."""
    name = name.replace(";", ",").partition(",")[0].strip() or name
    return name if len(name) <= limit else name[: limit - 1] + "."


def text_width(text: str, scale: float) -> int:
    """Return the width of a line of text in pixels."""
    return cv2.getTextSize(text, FONT, scale, 1)[0][0]


def text_scale(canvas: np.ndarray) -> float:
    """Return a readable font scale: 0.5 at 600 pixels, growing with the image."""
    return max(0.45, min(canvas.shape[:2]) / 1200)
