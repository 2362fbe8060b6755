"""Multi-scale deformable attention on a CPU, as gather-and-sum; training stores no samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from semask_d2.modeling.kernels.bilinear_gather import PaddedMaps, parts
from semask_d2.modeling.kernels.grid_sample import grid_sample
from semask_d2.modeling.kernels.plain_deformable_attention import Size, level_grid


def gathered_attention(
    value: Tensor, sizes: Sequence[Size], reference: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """Compute `sampled_attention` by gather-and-sum, on a CPU without gradients."""
    b, queries, heads, levels, points = logits.shape
    dim, bag = value.shape[3], levels * points
    value_parts = value.split([h * w for h, w in sizes], dim=1)
    maps = PaddedMaps([part.unflatten(1, size) for part, size in zip(value_parts, sizes, strict=True)])
    columns = maps.columns(
        levels=[level for _ in range(heads) for level in range(levels) for _ in range(points)],
        groups=[head for head in range(heads) for _ in range(bag)],
        bag=bag,
    )
    offsets = offsets.flatten(2, 4)  # (B, Q, S, 2)
    out = value.new_empty(b, queries, heads, dim)
    for image in range(b):
        for part in parts(queries, heads * bag):
            # pixel centers are at integers
            x = reference[part, :1] * columns.width + (offsets[image, part, :, 0] - 0.5)
            y = reference[part, 1:] * columns.height + (offsets[image, part, :, 1] - 0.5)
            weights = quick_softmax(logits[image, part].reshape(-1, bag)).view(-1, heads * bag)
            out[image, part] = maps.sums(image, x, y, weights, columns)
    return out.flatten(2)


def quick_softmax(logits: Tensor) -> Tensor:
    """Compute `softmax(-1)` of short rows, for which torch's is slow on a CPU."""
    weights = (logits - logits.amax(-1, keepdim=True)).exp_()
    return weights.div_(weights.sum(-1, keepdim=True))


class LeanAttention(torch.autograd.Function):
    """`sampled_attention` with gradients on a CPU; the backward pass recomputes the samples."""

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
            # chain rule: `level_grid` scales pixels of the level to [-1, 1]
            grid_grad = grid_grad.view(b, heads, queries, points, 2).transpose(1, 2)
            offsets_grad[:, :, :, level, :, 0] = grid_grad[..., 0] * (2 / width)
            offsets_grad[:, :, :, level, :, 1] = grid_grad[..., 1] * (2 / height)
            products = (sampled.detach() * upstream).sum(1).view(b, heads, queries, points)
            weights_grad[:, :, :, level] = products.transpose(1, 2)
        weights_grad *= weights
        logits_grad = weights_grad.sub_(weights * weights_grad.sum((3, 4), keepdim=True))
        return value_grad, None, None, offsets_grad, logits_grad
