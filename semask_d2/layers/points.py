"""Bilinear samples of maps and of label maps at arbitrary points.

Points are (x, y) in [0, 1], the image's corners being (0, 0) and (1, 1); a pixel's value sits at its centre, and
outside the map everything is zero (`align_corners=False`, zero padding).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Values of `maps` (B, C, H, W) at `points` (B, P, 2): (B, C, P)."""
    grid = 2 * points[:, None] - 1
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False).squeeze(2)


def bilinear_taps(points: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The four pixels around each point (..., P, 2): flat indices and weights, both (..., P, 4).

    Pixels outside the map have weight zero (and an index clamped to the border).
    """
    x = points[..., 0] * width - 0.5
    y = points[..., 1] * height - 0.5
    x0, y0 = x.floor(), y.floor()
    fx, fy = x - x0, y - y0
    indices, weights = [], []
    for row, wy in ((y0, 1 - fy), (y0 + 1, fy)):
        for column, wx in ((x0, 1 - fx), (x0 + 1, fx)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            indices.append(row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long())
            weights.append(wy * wx * inside)
    return torch.stack(indices, -1), torch.stack(weights, -1)


def sample_class_masks(labels: Tensor, points: Tensor, classes: Tensor) -> Tensor:
    """Bilinear samples of the binary masks `labels == class` without building one: (M, P).

    A sample of a binary mask is the sum of the weights of those of its four pixels that carry the class.
    `labels` is one map (H, W), `classes` (M,); `points` is (P, 2), shared by all masks, or (M, P, 2), one set each.
    """
    indices, weights = bilinear_taps(points, *labels.shape)
    taps = labels.flatten()[indices]
    if points.dim() == 2:
        taps, weights = taps[None], weights[None]
    return ((taps == classes[:, None, None]) * weights).sum(-1)
