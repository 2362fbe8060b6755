"""Multi-scale deformable attention (arXiv 2010.04159, equation 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from semask_d2.modeling.kernels.bilinear_gather import is_supported
from semask_d2.modeling.kernels.cpu_deformable_attention import LeanAttention, gathered_attention
from semask_d2.modeling.kernels.half import in_fp32
from semask_d2.modeling.kernels.plain_deformable_attention import Size, sampled_attention
from semask_d2.modeling.kernels.triton_deformable_attention import fused_deformable_attention, triton_serves
from semask_d2.modeling.layers.linear import Linear


def deformable_attention(
    value: Tensor, sizes: Sequence[Size], reference: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """Sum bilinear samples of `value` around `reference`, weighted by the softmax of `logits`.

    `value` (B, N, heads, D) holds the flattened maps of `sizes` (H, W) one after another; `reference` (Q, 2), points
    (x, y) in [0, 1]; `offsets` (B, Q, heads, levels, P, 2) in pixels of the sampled level; `logits`
    (B, Q, heads, levels, P), with the softmax over the levels and points of a head. Outside a map everything is zero.
    Returns (B, Q, heads x D). Only the Triton operator takes half-precision tensors directly; the other
    implementations convert them to fp32.
    """
    if triton_serves(value):
        return fused_deformable_attention(value, sizes, reference, offsets, logits)
    value, offsets, logits = map(in_fp32, (value, offsets, logits))
    if not is_supported(value, offsets, logits):
        return sampled_attention(value, sizes, reference, offsets, logits)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (value, offsets, logits)):
        return LeanAttention.apply(value, sizes, reference, offsets, logits)
    return gathered_attention(value, sizes, reference, offsets, logits)


class MSDeformAttn(nn.Module):
    """Attention from each query to `num_points` sampled positions per head on each of `num_levels` maps."""

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
        # each head looks in a different direction; its point p lies p steps away
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1).view(1, 1, -1, 1)
        offsets = direction[:, None, None] * steps
        self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())

    def forward(self, query: Tensor, reference: Tensor, tokens: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Attend from `query` (B, Q, C) at `reference` points (Q, 2) in [0, 1] to `tokens` (B, N, C): (B, Q, C).

        `tokens` are the flattened maps of `sizes`. Offsets are in pixels of the sampled level.
        """
        shape = (self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).unflatten(-1, (*shape, 2))
        logits = self.attention_weights(query).unflatten(-1, shape)
        value = self.value_proj(tokens).unflatten(-1, (self.num_heads, -1))
        return self.output_proj(deformable_attention(value, sizes, reference, offsets, logits))


def reference_points(sizes: Sequence[Size], device: torch.device) -> Tensor:
    """Return the center of every token of maps of `sizes`, as (x, y) in [0, 1]: (N, 2)."""
    points = []
    for height, width in sizes:
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        y, x = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack([x, y], -1).flatten(0, 1))
    return torch.cat(points)
