"""Multi-scale deformable attention on a CPU, as gather-and-sum; training stores no samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from semask_d2.modeling.kernels.bilinear_gather import Columns, PaddedMaps, parts
from semask_d2.modeling.kernels.plain_deformable_attention import Size


def gathered_attention(
    value: Tensor, sizes: Sequence[Size], reference: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """Compute `sampled_attention` by gather-and-sum, on a CPU without gradients."""
    b, queries, heads, levels, points = logits.shape
    maps, columns = maps_of(value, sizes, points)
    out = value.new_empty(b, queries, heads, value.shape[3])
    for image in range(b):
        for part in parts(queries, heads * levels * points):
            weights = quick_softmax(logits[image, part].flatten(2)).flatten(1)
            x, y = positions(reference[part], offsets[image, part], columns)
            out[image, part] = maps.sums(image, x, y, weights, columns)
    return out.flatten(2)


def maps_of(value: Tensor, sizes: Sequence[Size], points: int) -> tuple[PaddedMaps, Columns]:
    """Return the maps of all heads, and the constants of a query's samples: heads, levels and points."""
    heads, levels = value.shape[2], len(sizes)
    value_parts = value.split([h * w for h, w in sizes], dim=1)
    maps = PaddedMaps([part.unflatten(1, size) for part, size in zip(value_parts, sizes, strict=True)])
    columns = maps.columns(
        levels=[level for _ in range(heads) for level in range(levels) for _ in range(points)],
        groups=[head for head in range(heads) for _ in range(levels * points)],
        bag=levels * points,
    )
    return maps, columns


def positions(reference: Tensor, offsets: Tensor, columns: Columns) -> tuple[Tensor, Tensor]:
    """Return x and y of the samples (Q, S) in pixels of the sampled level, with pixel centers at integers."""
    offsets = offsets.flatten(1, 3)
    x = reference[:, :1] * columns.width + (offsets[..., 0] - 0.5)
    y = reference[:, 1:] * columns.height + (offsets[..., 1] - 0.5)
    return x, y


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
        b, queries, heads, levels, points = logits.shape
        maps, columns = maps_of(value, ctx.sizes, points)
        upstream = grad_outputs[0].view(b, queries, heads, -1)
        offsets_grad, logits_grad, tables_grad = map(torch.zeros_like, (offsets, logits, maps.tables))
        for image in range(b):
            for part in parts(queries, heads * levels * points):
                weights = quick_softmax(logits[image, part].flatten(2))
                x, y = positions(reference[part], offsets[image, part], columns)
                x_grad, y_grad, weights_grad = maps.gradients(
                    image, x, y, weights.flatten(1), columns, upstream[image, part], tables_grad
                )
                offsets_grad[image, part] = torch.stack([x_grad, y_grad], -1).view_as(offsets[image, part])
                weights_grad = weights_grad.view_as(weights).mul_(weights)
                weights_grad -= weights * weights_grad.sum(-1, keepdim=True)
                logits_grad[image, part] = weights_grad.view_as(logits[image, part])
        value_grad = torch.cat([level.flatten(1, 2) for level in maps.maps(tables_grad)], 1)
        return value_grad, None, None, offsets_grad, logits_grad
