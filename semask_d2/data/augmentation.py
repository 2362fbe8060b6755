"""Training augmentation: shortest-edge resize, category-constrained crop, flip, SSD color jitter, padding.

Scale and crop are drawn first, so that only the pixels of the crop are resized. Every random function takes its
generator as an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semask_d2.data.label_checks import count_ids
from semask_d2.data.picture import RGB, Picture

IMAGE_PADDING = 128
CROP_TRIES = 10


@dataclass(frozen=True)
class View:
    """A crop box (`top`, `left`, `height`, `width`) in an image resized to `full_height` x `full_width`."""

    full_height: int
    full_width: int
    top: int
    left: int
    height: int
    width: int

    @classmethod
    def whole(cls, full_height: int, full_width: int) -> View:
        return cls(full_height, full_width, 0, 0, full_height, full_width)


def resized_shape(height: int, width: int, short_edge: int, max_size: int) -> tuple[int, int]:
    """Return height and width after scaling the shorter side to `short_edge` and the longer to at most `max_size`.

    Rounds like Detectron2's ResizeShortestEdge, but keeps every side of a very thin image at 1 pixel or more;
    `short_edge` 0 leaves the shape unchanged.
    """
    if short_edge == 0:
        return height, width
    scale = short_edge / min(height, width)
    new_height, new_width = (short_edge, scale * width) if height < width else (scale * height, short_edge)
    longest = max(new_height, new_width)
    if longest > max_size:
        new_height, new_width = new_height * (max_size / longest), new_width * (max_size / longest)
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def sample_short_edge(rng: np.random.Generator, sizes: Sequence[int], style: str) -> int:
    """Draw the length of the shorter side: one of `sizes` ("choice"), or between the first and the last ("range")."""
    if style == "range":
        return int(rng.integers(sizes[0], sizes[-1] + 1))
    return int(sizes[int(rng.integers(len(sizes)))])


def sample_view(
    rng: np.random.Generator,
    full_shape: tuple[int, int],
    crop_size: tuple[int, int],
    *,
    labels: np.ndarray,
    max_area: float = 1.0,
    ignore_label: int = 255,
    target_class: int | None = None,
) -> View:
    """Draw a crop of at most `crop_size` in an image resized to `full_shape`.

    `labels` is the label map before resizing. With `max_area` below 1, draws up to ten times until the crop holds
    several classes, each of which fills less than `max_area` of the labeled pixels; with `target_class`, until the
    crop also shows that class. The tenth crop is kept in any case.
    """
    height, width = min(crop_size[0], full_shape[0]), min(crop_size[1], full_shape[1])
    view = View(*full_shape, 0, 0, height, width)
    for _ in range(CROP_TRIES):
        top = int(rng.integers(full_shape[0] - height + 1))
        left = int(rng.integers(full_shape[1] - width + 1))
        view = View(*full_shape, top, left, height, width)
        if max_area >= 1.0 and target_class is None:
            break
        ids, counts = count_ids(resize_labels(labels, view))
        counts = counts[ids != ignore_label]
        varied = max_area >= 1.0 or (len(counts) > 1 and counts.max() < counts.sum() * max_area)
        if varied and (target_class is None or target_class in ids):
            break
    return view


def resize_image(image: Picture, view: View) -> np.ndarray:
    """Resize what `view` shows of an image, bilinear and antialiased: (view.height, view.width, C) uint8."""
    if (view.full_height, view.full_width) == (image.height, image.width):
        if view == View.whole(image.height, image.width):
            return image.pixels()  # Pillow's crop would warn of a large image
        whole_pixels = (view.left, view.top, view.left + view.width, view.top + view.height)
        return image.pixels(lambda part: part.crop(whole_pixels))
    x, y = image.width / view.full_width, image.height / view.full_height
    box = (view.left * x, view.top * y, (view.left + view.width) * x, (view.top + view.height) * y)
    box = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))
    size = (view.width, view.height)
    return image.pixels(lambda part: part.resize(size, Image.Resampling.BILINEAR, box=box))


def resize_labels(labels: np.ndarray, view: View) -> np.ndarray:
    """Resize the part of `labels` that `view` shows to the nearest pixel: (view.height, view.width)."""
    rows = _nearest(labels.shape[0], view.full_height, view.top, view.height)
    columns = _nearest(labels.shape[1], view.full_width, view.left, view.width)
    return labels.take(rows, axis=0).take(columns, axis=1)


def _nearest(source: int, target: int, start: int, count: int) -> np.ndarray:
    # the source pixel under the center of each target pixel; integers make a crop sample the same pixels as the whole
    return (2 * np.arange(start, start + count) + 1) * source // (2 * target)


def image_tensor(pixels: np.ndarray, image_format: str) -> Tensor:
    """Return pixels (H, W, C) uint8 as (C, H, W) uint8; three channels in `image_format` order ("RGB" or "BGR")."""
    if image_format == "BGR" and pixels.shape[2] == RGB:
        pixels = pixels[:, :, ::-1]
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def resized_tensor(image: Picture, short_edge: int, max_size: int, image_format: str) -> Tensor:
    """Return an image as a model's input in evaluation: resized to `resized_shape`, (C, H, W) uint8."""
    shape = resized_shape(image.height, image.width, short_edge, max_size)
    return image_tensor(resize_image(image, View.whole(*shape)), image_format)


def pad(array: np.ndarray, size: int, value: int) -> np.ndarray:
    """Pad (H, W) or (H, W, C) at the bottom and the right to `size` x `size`; longer sides are kept."""
    below, right = max(0, size - array.shape[0]), max(0, size - array.shape[1])
    if below == 0 and right == 0:
        return array
    return np.pad(array, ((0, below), (0, right), *((0, 0),) * (array.ndim - 2)), constant_values=value)


@dataclass(frozen=True)
class ColorJitter:
    """The color changes of one image, each None if it is not applied (Liu et al. 2016, SSD).

    `brightness` is added in gray levels, `contrast` and `saturation` are factors, and `hue` is in steps of 2 degrees
    (8-bit HSV has 180).
    """

    brightness: float | None
    contrast: float | None
    saturation: float | None
    hue: int | None
    contrast_first: bool


def sample_color_jitter(rng: np.random.Generator) -> ColorJitter:
    """Draw SSD's distortion: each change with probability 0.5, contrast before or after the other color changes."""
    contrast_first, *applied = rng.random(5) < 0.5
    brightness, contrast, saturation = rng.uniform((-32, 0.5, 0.5), (32, 1.5, 1.5))
    hue = int(rng.integers(-18, 19))
    return ColorJitter(
        brightness=float(brightness) if applied[0] else None,
        contrast=float(contrast) if applied[1] else None,
        saturation=float(saturation) if applied[2] else None,
        hue=hue if applied[3] else None,
        contrast_first=bool(contrast_first),
    )


def jitter_colors(image: np.ndarray, jitter: ColorJitter) -> np.ndarray:
    """Apply `jitter` to an RGB image (H, W, 3) uint8 by lookup tables of 256 levels; clips to 0..255."""
    levels = np.arange(256, dtype=np.float64)
    before = levels
    if jitter.brightness is not None:
        before = np.clip(before + jitter.brightness, 0, 255)
    if jitter.contrast is not None and jitter.contrast_first:
        before = np.clip(before * jitter.contrast, 0, 255)
    if before is not levels:
        image = cv2.LUT(image, _table(before))
    if jitter.saturation is not None or jitter.hue is not None:
        saturation = levels if jitter.saturation is None else np.clip(levels * jitter.saturation, 0, 255)
        hue = (np.arange(256) + (jitter.hue or 0)) % 180
        table = np.stack([hue.astype(np.uint8), _table(saturation), levels.astype(np.uint8)], axis=-1)[None]
        hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if jitter.contrast is not None and not jitter.contrast_first:
        image = cv2.LUT(image, _table(np.clip(levels * jitter.contrast, 0, 255)))
    return image


def _table(levels: np.ndarray) -> np.ndarray:
    return levels.round().astype(np.uint8)
