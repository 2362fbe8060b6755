"""Multi-scale deformable attention (arXiv 2010.04159, equation 3), in plain torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.modeling.layers import bilinear_gather
from semask_d2.modeling.layers.linear import Linear

Size = tuple[int, int]


def deformable_attention(value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples of `value` at `locations`.

    `value` (B, N, heads, D), its tokens being the maps of `sizes` (H, W) one after another; `locations`
    (B, Q, heads, levels, P, 2) as (x, y) in [0, 1], zero outside; `weights` (B, Q, heads, levels, P).
    Returns (B, Q, heads x D).
    """
    if bilinear_gather.suits(value, locations, weights):
        return gathered_attention(value, sizes, locations, weights)
    return sampled_attention(value, sizes, locations, weights)


def gathered_attention(value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor) -> Tensor:
    """`deformable_attention` as one gather-and-sum."""
    b, _, heads, dim = value.shape
    maps = bilinear_gather.PaddedMaps(b, heads, dim, list(sizes))
    for level, part in enumerate(value.split([h * w for h, w in sizes], dim=1)):
        maps.put(level, part.unflatten(1, sizes[level]))
    queries, levels, points = locations.shape[1], len(sizes), locations.shape[4]
    # (levels, P, 2, B Q heads)
    places = locations.reshape(b * queries * heads, -1).T.contiguous().view(levels, points, 2, -1)
    height, width = torch.tensor(sizes, dtype=torch.float32).T[..., None, None]
    weights = weights.reshape(b * queries * heads, -1).T.contiguous().view(levels, points, -1)
    x, y = places[:, :, 0] * width - 0.5, places[:, :, 1] * height - 0.5
    return maps.sums(x, y, weights, queries).view(b, queries, heads * dim)


def sampled_attention(value: Tensor, sizes: Sequence[Size], locations: Tensor, weights: Tensor) -> Tensor:
    """`deformable_attention` by standard operators, with gradients."""
    b, _, heads, dim = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    grid = (2 * locations - 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 1)  # (B heads, levels, Q, P, 2)
    weights = weights.permute(0, 2, 3, 1, 4).flatten(0, 1)[:, :, None]  # (B heads, levels, 1, Q, P)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # (B heads, D, N)
    out = value.new_zeros(b * heads, dim, queries)
    for level, level_map in enumerate(maps.split([h * w for h, w in sizes], dim=-1)):
        sampled = F.grid_sample(
            level_map.unflatten(-1, sizes[level]),
            grid[:, level],
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        for point in range(points):
            out = torch.addcmul(out, sampled[..., point], weights[:, level, ..., point])
    return out.view(b, heads * dim, queries).transpose(1, 2)


class MSDeformAttn(nn.Module):
    """Each query attends to `num_points` sampled positions per head on each of `num_levels` maps."""

    def __init__(self, dim: int, num_levels: int, num_heads: int, num_points: int):
        super().__init__()
        self.num_levels, self.num_heads, self.num_points = num_levels, num_heads, num_points
        self.sampling_offsets = Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = Linear(dim, num_heads * num_levels * num_points)
        self.value_proj = Linear(dim, dim)
        self.output_proj = Linear(dim, dim)
        self._reset_parameters()

    @torch.no_grad()
    def _reset_parameters(self) -> None:
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        # head h looks in its own direction, its point p at p steps
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1).view(1, 1, -1, 1)
        offsets = direction[:, None, None] * steps
        self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())

    def forward(self, query: Tensor, reference: Tensor, tokens: Tensor, sizes: Sequence[Size]) -> Tensor:
        """`query` (B, Q, C), `reference` points (Q, 2) in [0, 1], `tokens` (B, N, C) of `sizes` -> (B, Q, C).

        Offsets are in pixels of the level that is sampled.
        """
        shape = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).float().unflatten(-1, (*shape, 2))
        extent = offsets.new_tensor([(w, h) for h, w in sizes])
        locations = reference[:, None, None, None] + offsets / extent[:, None]
        weights = self.attention_weights(query).float().unflatten(-1, (self.num_heads, -1)).softmax(-1)
        value = self.value_proj(tokens).unflatten(-1, (self.num_heads, -1))
        attended = deformable_attention(value.float(), sizes, locations, weights.unflatten(-1, shape[1:]))
        return self.output_proj(attended)


def reference_points(sizes: Sequence[Size], device: torch.device) -> Tensor:
    """The center of every token of the maps of `sizes`, as (x, y) in [0, 1]: (N, 2)."""
    points = []
    for height, width in sizes:
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        y, x = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack([x, y], -1).flatten(0, 1))
    return torch.cat(points)
