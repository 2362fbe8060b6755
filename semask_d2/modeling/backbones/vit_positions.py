"""Positions of a ViT's patches for a grid of any size: absolute embeddings, and rotary ones of timm's classes.

They equal timm's, but are computed on the model's device and with operators that graphs of any size can hold.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from semask_d2.modeling.layers.grid_resampling import resample_grid

Grid = tuple[int, int]


def add_absolute(prefix: Tensor, patches: Tensor, embedding: Tensor, old: Grid) -> tuple[Tensor, Tensor]:
    """Add position embeddings (1, p + H W, C) of the grid `old` to prefix tokens (B, P, C) and patches (B, h, w, C).

    The grid is (H, W). `p` is 0 if only patches have positions, else P.
    """
    with_positions = embedding.shape[1] - old[0] * old[1]
    grid = embedding[0, with_positions:].unflatten(0, old)
    patches = patches + resample_grid(grid, (patches.shape[1], patches.shape[2]))
    return (prefix + embedding[:, :with_positions] if with_positions else prefix), patches


def rotary(rope: Any, grid: Grid) -> Tensor:
    """Return the sines and cosines of a rotary embedding of timm for a grid (h, w): (h w, 2 D) for heads of D channels.

    Those of mixed frequencies, which are learned for each block and head, are (blocks, heads, h w, 2 D).
    """
    kind = type(rope).__name__
    if kind == "RotaryEmbeddingDinoV3" and rope.normalize_coords == "separate":
        places = [2 * ((cells(n, rope.periods) + 0.5 + rope.grid_offset) / n) - 1 for n in grid]
        frequencies = 2 * math.pi / rope.periods
    elif kind == "RotaryEmbeddingCat" and rope.grid_type == "index" and rope.bands is not None:
        references = rope.ref_feat_shape or grid
        places = [(cells(n, rope.bands) + rope.grid_offset) / n * r for n, r in zip(grid, references, strict=True)]
        frequencies = rope.bands
    elif kind == "RotaryEmbeddingMixed":
        places, frequencies = [cells(n, rope.freqs) for n in grid], rope.freqs.float()
    else:
        return rope.get_embed(shape=grid)
    rows, columns = (axis.flatten() for axis in torch.meshgrid(*places, indexing="ij"))
    axes = (columns, rows) if rope.grid_indexing == "xy" else (rows, columns)
    if kind == "RotaryEmbeddingMixed":
        first, second = frequencies[..., None, :]
        angles = axes[0][:, None] * first + axes[1][:, None] * second
    else:
        angles = (torch.stack(axes, -1)[:, :, None] * frequencies).flatten(1)
    half = getattr(rope, "rotate_half", False)
    parts = [angles.sin(), angles.cos()]
    # the stack is repeat_interleave(2, -1), which the ONNX exporter writes wrongly
    return torch.cat([torch.cat([x, x], -1) if half else torch.stack([x, x], -1).flatten(-2) for x in parts], -1)


def cells(count: int, like: Tensor) -> Tensor:
    """Return 0, 1, ... count - 1 in fp32 on the device of `like`."""
    return torch.arange(count, device=like.device, dtype=torch.float32)
