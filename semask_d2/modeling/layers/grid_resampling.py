"""Bicubic resampling of a grid of embeddings with antialiasing, as matrix products.

It equals torch's `interpolate` with `antialias=True`, and consists of standard operators that exported graphs of any
size can hold. A grid of its own size stays exactly what it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

CUBIC = -0.5  # the parameter of Keys' cubic filter, which reaches two cells to each side


def resample_grid(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Resample a grid (H, W, C) to `size` (h, w); returns (h, w, C) of the same dtype, computed in fp32."""
    height, width, channels = grid.shape
    with torch.autocast(grid.device.type, enabled=False):
        columns = grid.float().transpose(0, 1).reshape(width, height * channels)
        columns = weights_of_axis(width, size[1], grid) @ columns  # (w, H C)
        rows = columns.unflatten(1, (height, channels)).transpose(0, 1).flatten(1)  # (H, w C)
        rows = weights_of_axis(height, size[0], grid) @ rows
    return rows.reshape(*size, channels).to(grid.dtype)


def weights_of_axis(old: int, new: int, like: Tensor) -> Tensor:
    """Return the weights (new, old) of `old` cells in each of `new` cells that cover the same length."""
    cells = torch.arange(new, device=like.device, dtype=torch.float32)
    scale = old / (cells.amax(0, keepdim=True) + 1)  # a tensor, which a traced graph computes for every size
    places = torch.arange(old, device=like.device, dtype=torch.float32) + 0.5
    distances = ((places - ((cells + 0.5) * scale)[:, None]) / scale.clamp(min=1)).abs()
    near = ((CUBIC + 2) * distances - (CUBIC + 3)) * distances.square() + 1
    far = CUBIC * (((distances - 5) * distances + 8) * distances - 4)
    weights = torch.where(distances < 1, near, torch.where(distances < 2, far, torch.zeros_like(far)))
    return weights / weights.sum(1, keepdim=True)
