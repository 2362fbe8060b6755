"""Partition of token maps (B, H, W, C) into square windows, and its inverse."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, window: int) -> Tensor:
    """Zero-pad (B, H, W, C) on the right and bottom so that H and W are multiples of `window`."""
    height, width = x.shape[1:3]
    return F.pad(x, (0, 0, 0, -width % window, 0, -height % window))


def window_partition(x: Tensor, window: int) -> Tensor:
    """Split (B, H, W, C), H and W multiples of `window`, into (B x windows, window^2, C), windows row by row."""
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def window_merge(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Merge windows (B x windows, window^2, C) into (B, height, width, C), the inverse of `window_partition`."""
    c = windows.shape[-1]
    x = windows.view(-1, height // window, width // window, window, window, c)
    return x.transpose(2, 3).reshape(-1, height, width, c)
