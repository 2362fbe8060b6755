"""Multi-scale deformable attention (arXiv 2010.04159, equation 3), in plain torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from semask_d2.modeling.layers.bilinear_gather import PaddedMaps, parts, suits
from semask_d2.modeling.layers.grid_sample import grid_sample
from semask_d2.modeling.layers.linear import Linear
from semask_d2.modeling.layers.triton_deformable_attention import fused_deformable_attention, triton_serves

Size = tuple[int, int]


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


def sampled_attention(
    value: Tensor, sizes: Sequence[Size], reference: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """`deformable_attention` by standard operators, with gradients."""
    heads, points = logits.shape[2], logits.shape[4]
    weights = logits.flatten(3).softmax(-1).view_as(logits)
    weights = weights.permute(0, 2, 3, 1, 4).flatten(0, 1)[:, :, None]  # (B heads, levels, 1, Q, P)
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # (B heads, D, N)
    out = None
    for level, level_map in enumerate(maps.split([h * w for h, w in sizes], dim=-1)):
        grid = level_grid(sizes[level], reference, offsets, level)
        # no `unflatten`: tracing takes its sizes for constants
        sampled = grid_sample(level_map.reshape(*level_map.shape[:2], *sizes[level]), grid)
        for point in range(points):
            x, weight = sampled[..., point], weights[:, level, ..., point]
            out = x * weight if out is None else torch.addcmul(out, x, weight)
    assert out is not None  # there is a level
    return out.unflatten(0, (-1, heads)).flatten(1, 2).transpose(1, 2)


def level_grid(size: Size, reference: Tensor, offsets: Tensor, level: int) -> Tensor:
    """The positions that are sampled of one level, in `grid_sample`'s [-1, 1]: (B heads, Q, P, 2)."""
    height, width = size
    center = (2 * reference - 1)[:, None, None]  # (Q, 1, 1, 2)
    of_level = offsets[:, :, :, level]  # (B, Q, heads, P, 2)
    # a number at a time: a tensor of the two would be a copy to the device
    x = center[..., 0] + of_level[..., 0] * (2 / width)
    y = center[..., 1] + of_level[..., 1] * (2 / height)
    return torch.stack([x, y], -1).transpose(1, 2).flatten(0, 1)


def gathered_attention(
    value: Tensor, sizes: Sequence[Size], reference: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """`deformable_attention` as gather-and-sum, on a CPU without gradients."""
    b, queries, heads, levels, points = logits.shape
    dim, bag = value.shape[3], levels * points
    parts_of_value = value.split([h * w for h, w in sizes], dim=1)
    maps = PaddedMaps([part.unflatten(1, size) for part, size in zip(parts_of_value, sizes, strict=True)])
    columns = maps.columns(
        levels=[level for _ in range(heads) for level in range(levels) for _ in range(points)],
        groups=[head for head in range(heads) for _ in range(bag)],
        bag=bag,
    )
    offsets = offsets.flatten(2, 4)  # (B, Q, S, 2)
    out = value.new_empty(b, queries, heads, dim)
    for image in range(b):
        for part in parts(queries, heads * bag):
            # a pixel's center is at its index
            x = reference[part, :1] * columns.width + (offsets[image, part, :, 0] - 0.5)
            y = reference[part, 1:] * columns.height + (offsets[image, part, :, 1] - 0.5)
            weights = quick_softmax(logits[image, part].reshape(-1, bag)).view(-1, heads * bag)
            out[image, part] = maps.sums(image, x, y, weights, columns)
    return out.flatten(2)


def quick_softmax(logits: Tensor) -> Tensor:
    """`softmax(-1)` of few numbers each, at which a CPU's own is slow."""
    weights = (logits - logits.amax(-1, keepdim=True)).exp_()
    return weights.div_(weights.sum(-1, keepdim=True))


class LeanAttention(torch.autograd.Function):
    """`deformable_attention` that learns on a CPU and keeps no samples for it: they are sampled again."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, sizes: Sequence[Size], reference: Tensor, offsets: Tensor, logits: Tensor
    ) -> Tensor:
        ctx.save_for_backward(value, reference, offsets, logits)
        ctx.sizes = sizes
        return gathered_attention(value, sizes, reference, offsets, logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides names
        value, reference, offsets, logits = ctx.saved_tensors
        b, queries, heads, _, points = logits.shape
        upstream = grad_outputs[0].view(b, queries, heads, -1).permute(0, 2, 3, 1).flatten(0, 1)  # (B heads, D, Q)
        upstream = upstream[..., None].contiguous()
        weights = quick_softmax(logits.flatten(3)).view_as(logits)
        value_grad, offsets_grad, weights_grad = map(torch.empty_like, (value, offsets, logits))
        start = 0
        for level, (height, width) in enumerate(ctx.sizes):
            tokens = slice(start, start + height * width)
            start = tokens.stop
            maps = value[:, tokens].permute(0, 2, 3, 1).reshape(b * heads, -1, height, width).requires_grad_()
            grid = level_grid((height, width), reference, offsets, level).requires_grad_()
            with torch.enable_grad():
                sampled = grid_sample(maps, grid)  # (B heads, D, Q, P)
            level_weights = weights[:, :, :, level].transpose(1, 2).reshape(b * heads, 1, queries, points)
            maps_grad, grid_grad = torch.autograd.grad(sampled, (maps, grid), upstream * level_weights)
            value_grad[:, tokens] = maps_grad.view(b, heads, -1, height * width).permute(0, 3, 1, 2)
            # pixels of the level to [-1, 1], as in `level_grid`
            grid_grad = grid_grad.view(b, heads, queries, points, 2).transpose(1, 2)
            offsets_grad[:, :, :, level, :, 0] = grid_grad[..., 0] * (2 / width)
            offsets_grad[:, :, :, level, :, 1] = grid_grad[..., 1] * (2 / height)
            products = (sampled.detach() * upstream).sum(1).view(b, heads, queries, points)
            weights_grad[:, :, :, level] = products.transpose(1, 2)
        weights_grad *= weights
        logits_grad = weights_grad.sub_(weights * weights_grad.sum((3, 4), keepdim=True))
        return value_grad, None, None, offsets_grad, logits_grad


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
