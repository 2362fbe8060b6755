"""Bilinear sampling of maps by torch's operator, or by gathers and products for graphs that must avoid it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch.nn.functional as F
from torch import Tensor

_gathers = ContextVar("gathers", default=False)


@contextmanager
def without_grid_sample() -> Iterator[None]:
    """Replace `grid_sample` by gathers and products, for runtimes where GridSample is missing, wrong or slow."""
    token = _gathers.set(True)
    try:
        yield
    finally:
        _gathers.reset(token)


def grid_sample(maps: Tensor, grid: Tensor) -> Tensor:
    """Sample `maps` (N, C, H, W) bilinearly at `grid` (N, Q, P, 2), (x, y) in [-1, 1], zero outside: (N, C, Q, P).

    The range spans the map from edge to edge; pixel values sit at pixel centers (`align_corners=False`).
    """
    if _gathers.get():
        return gathered_samples(maps, grid)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def gathered_samples(maps: Tensor, grid: Tensor) -> Tensor:
    """Compute `grid_sample` as a weighted sum of four gathers."""
    channels, height, width = maps.shape[1:]
    x = (grid[..., 0] + 1) * (width / 2) - 0.5
    y = (grid[..., 1] + 1) * (height / 2) - 0.5
    left, top = x.floor(), y.floor()
    flat = maps.flatten(2)
    total = None
    for column, share_x in ((left, left + 1 - x), (left + 1, x - left)):
        for row, share_y in ((top, top + 1 - y), (top + 1, y - top)):
            inside = (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)
            cell = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            values = flat.gather(2, cell.long().flatten(1)[:, None].expand(-1, channels, -1))
            part = values * (share_x * share_y * inside.to(x.dtype)).flatten(1)[:, None]
            total = part if total is None else total + part
    assert total is not None
    return total.unflatten(2, grid.shape[1:3])
