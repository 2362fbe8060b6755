"""Test-time resizing inside a graph: the size rule and Pillow's antialiased bilinear filter in standard operators.

No runtime resizes exactly as Pillow does, and several lack antialiasing. Two matrix products per direction match Pillow
to the last gray level: its weights have 22 bits, which fp32 sums exactly in two halves. Rows are resized first. Some
versions of Pillow start with columns for images much taller than wide; then some pixels differ by one level.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from semask_d2.data.augmentation import resized_shape

HALF = 2**11  # Pillow's weights are multiples of 1 / HALF^2


def resize_images(images: Tensor, short_edge: int, max_size: int) -> Tensor:
    """Resize images (B, C, H, W) of integers in 0..255 to `resized_shape`, with the results of `resize_image`."""
    height, width = images.shape[-2:]
    new_height, new_width = target_size(height, width, short_edge, max_size)
    high, low = (weights.T for weights in pillow_weights(width, new_width))
    rows = rounded(images @ high, images @ low)
    high, low = pillow_weights(height, new_height)
    return rounded(high @ rows, low @ rows)


def rounded(high: Tensor, low: Tensor) -> Tensor:
    """Round (high + low / HALF) / HALF to the nearest integer, exactly."""
    return torch.floor((high + torch.floor(low / HALF) + HALF / 2) / HALF)


def target_size(
    height: int | Tensor, width: int | Tensor, short_edge: int, max_size: int
) -> tuple[int | Tensor, int | Tensor]:
    """Return `resized_shape`; in a traced graph, arguments and results are scalar tensors."""
    if not (isinstance(height, Tensor) and isinstance(width, Tensor)):
        return resized_shape(int(height), int(width), short_edge, max_size)
    if short_edge == 0:
        return height, width
    sides = torch.stack([height, width]).double()  # same order of operations as `resized_shape`, for equal rounding
    short, most = torch.full_like(sides, short_edge), torch.full_like(sides, max_size)  # number / tensor is inexact
    sides = torch.where(sides > sides.amin(), short / sides.amin() * sides, short)
    sides = torch.where(sides.amax() > most, sides * (most / sides.amax()), sides)
    new_height, new_width = (sides + 0.5).floor().clamp(min=1).long().unbind()
    return new_height, new_width


def pillow_weights(source: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Return Pillow's weights of `source` pixels in `target` pixels as two integer matrices (target, source).

    Weights are a triangle around the center of each target pixel, as wide as two pixels of the coarser grid. The first
    matrix is in units of 1 / HALF, the second in 1 / HALF^2. In a traced graph both arguments are scalar tensors.
    """
    centers = (2 * torch.arange(target) + 1)[:, None] * source  # in units of 1 / (2 source target)
    positions = (2 * torch.arange(source) + 1) * target
    reach = 2 * torch.maximum(torch.as_tensor(source), torch.as_tensor(target))
    weights = (reach - (centers - positions).abs()).clamp(min=0)
    total = weights.sum(1, keepdim=True)
    high = divided(weights * HALF, total)
    low = divided(2 * HALF * (weights * HALF - high * total) + total, 2 * total)  # long division, rounded at the end
    return high.float(), low.float()


def divided(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide nonnegative integers, rounding down."""
    return torch.div(numerator, denominator, rounding_mode="trunc")
