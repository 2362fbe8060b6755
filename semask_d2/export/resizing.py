"""The test-time resize inside a graph: the size rule, and Pillow's bilinear antialiasing, of standard operators.

No runtime's own resizing is Pillow's, and several have no antialiasing. Two matrix products a direction are, to the
last gray level: Pillow's weights are numbers of 22 bits, which fp32 sums exactly in two halves. It goes over rows
first; where Pillow does not, with pictures far taller than wide in some versions, some pixels differ by one level.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from semask_d2.data.augmentation import resized_shape

HALF = 2**11  # Pillow's weights are multiples of 1 / HALF^2


def resize_pictures(pictures: Tensor, short_edge: int, max_size: int) -> Tensor:
    """Pictures (B, 3, H, W) of whole numbers in 0..255 at the size of `resized_shape`, as `resize_image` makes them."""
    height, width = pictures.shape[-2:]
    new_height, new_width = target_size(height, width, short_edge, max_size)
    high, low = (weights.T for weights in pillow_weights(width, new_width))
    rows = rounded(pictures @ high, pictures @ low)
    high, low = pillow_weights(height, new_height)
    return rounded(high @ rows, low @ rows)


def rounded(high: Tensor, low: Tensor) -> Tensor:
    """The whole number nearest to (high + low / HALF) / HALF, exactly."""
    return torch.floor((high + torch.floor(low / HALF) + HALF / 2) / HALF)


def target_size(
    height: int | Tensor, width: int | Tensor, short_edge: int, max_size: int
) -> tuple[int | Tensor, int | Tensor]:
    """`resized_shape`, also of the sizes in a graph being traced, which are tensors (), then with tensors."""
    if not (isinstance(height, Tensor) and isinstance(width, Tensor)):
        return resized_shape(int(height), int(width), short_edge, max_size)
    if short_edge == 0:
        return height, width
    sides = torch.stack([height, width]).double()  # in the order of `resized_shape`, so that ties round alike
    short, most = torch.full_like(sides, short_edge), torch.full_like(sides, max_size)  # number / tensor is inexact
    sides = torch.where(sides > sides.amin(), short / sides.amin() * sides, short)
    sides = torch.where(sides.amax() > most, sides * (most / sides.amax()), sides)
    new_height, new_width = (sides + 0.5).floor().clamp(min=1).long().unbind()
    return new_height, new_width


def pillow_weights(source: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Pillow's weight of each of `source` pixels in each of `target` ones, in halves (target, source) of whole numbers.

    A triangle around the center of each target pixel, as wide as two pixels of the coarser grid; the first half in
    units of 1 / HALF, the second of 1 / HALF^2. In a graph being traced both numbers are tensors ().
    """
    centers = (2 * torch.arange(target) + 1)[:, None] * source  # in units of 1 / (2 source target)
    positions = (2 * torch.arange(source) + 1) * target
    reach = 2 * torch.maximum(torch.as_tensor(source), torch.as_tensor(target))
    weights = (reach - (centers - positions).abs()).clamp(min=0)
    total = weights.sum(1, keepdim=True)
    high = divided(weights * HALF, total)
    low = divided(2 * HALF * (weights * HALF - high * total) + total, 2 * total)  # long division, rounded at its end
    return high.float(), low.float()


def divided(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Whole numbers of at least 0 divided without their rest."""
    return torch.div(numerator, denominator, rounding_mode="trunc")
