"""Multi-scale deformable attention (arXiv 2010.04159, equation 3) in standard operators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semask_d2.modeling.kernels.grid_sample import grid_sample

Size = tuple[int, int]


def sampled_attention(
    value: Tensor, sizes: Sequence[Size], reference: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """Compute `layers.deformable_attention.deformable_attention` in standard operators, with gradients."""
    heads = logits.shape[2]
    weights = logits.flatten(3).softmax(-1).view_as(logits)
    weights = weights.permute(0, 2, 3, 4, 1).flatten(0, 1)[:, :, None]  # (B heads, levels, 1, P, Q)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # (B heads, D, N)
    out = None
    for level, level_map in enumerate(maps.split([h * w for h, w in sizes], dim=-1)):
        # points before queries: runtimes of exported graphs are slow at sums over a short last axis
        grid = level_grid(sizes[level], reference, offsets, level).transpose(1, 2)
        # no `unflatten`: tracing would record its sizes as constants
        sampled = grid_sample(level_map.reshape(*level_map.shape[:2], *sizes[level]), grid)  # (B heads, D, P, Q)
        level_sum = (sampled * weights[:, level]).sum(2)
        out = level_sum if out is None else out + level_sum
    assert out is not None  # there is at least one level
    return out.unflatten(0, (-1, heads)).flatten(1, 2).transpose(1, 2)


def level_grid(size: Size, reference: Tensor, offsets: Tensor, level: int) -> Tensor:
    """Return the sampling positions of one level in [-1, 1], for `grid_sample`: (B heads, Q, P, 2)."""
    height, width = size
    center = (2 * reference - 1)[:, None, None]  # (Q, 1, 1, 2)
    level_offsets = offsets[:, :, :, level]  # (B, Q, heads, P, 2)
    # x and y separately: a tensor [width, height] would be copied to the device
    x = center[..., 0] + level_offsets[..., 0] * (2 / width)
    y = center[..., 1] + level_offsets[..., 1] * (2 / height)
    return torch.stack([x, y], -1).transpose(1, 2).flatten(0, 1)
