"""Multi-scale deformable attention (arXiv 2010.04159, equation 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from semask_d2.modeling.kernels.bilinear_gather import suits
from semask_d2.modeling.kernels.cpu_deformable_attention import LeanAttention, gathered_attention
from semask_d2.modeling.kernels.plain_deformable_attention import Size, sampled_attention
from semask_d2.modeling.kernels.triton_deformable_attention import fused_deformable_attention, triton_serves
from semask_d2.modeling.layers.linear import Linear


def deformable_attention(
    value: Tensor, sizes: Sequence[Size], reference: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """Bilinear samples of `value` around `reference`, summed with the softmax of `logits` as their weights.

    `value` (B, N, heads, D), its tokens being the maps of `sizes` (H, W) one after another; `reference` (Q, 2), points
    (x, y) in [0, 1]; `offsets` (B, Q, heads, levels, P, 2) in pixels of the level that is sampled; `logits`
    (B, Q, heads, levels, P), whose softmax is over the levels and points of a head. Outside a map everything is zero.
    Returns (B, Q, heads x D). Of half-precision values only the Triton operator makes sums as they are; the other ways
    compute in fp32.
    """
    if triton_serves(value):
        return fused_deformable_attention(value, sizes, reference, offsets, logits)
    value, offsets, logits = (x.float() if x.itemsize < 4 else x for x in (value, offsets, logits))
    if not suits(value, offsets, logits):
        return sampled_attention(value, sizes, reference, offsets, logits)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (value, offsets, logits)):
        return LeanAttention.apply(value, sizes, reference, offsets, logits)
    return gathered_attention(value, sizes, reference, offsets, logits)


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
        offsets = self.sampling_offsets(query).unflatten(-1, (*shape, 2))
        logits = self.attention_weights(query).unflatten(-1, shape)
        value = self.value_proj(tokens).unflatten(-1, (self.num_heads, -1))
        return self.output_proj(deformable_attention(value, sizes, reference, offsets, logits))


def reference_points(sizes: Sequence[Size], device: torch.device) -> Tensor:
    """The center of every token of the maps of `sizes`, as (x, y) in [0, 1]: (N, 2)."""
    points = []
    for height, width in sizes:
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        y, x = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack([x, y], -1).flatten(0, 1))
    return torch.cat(points)
