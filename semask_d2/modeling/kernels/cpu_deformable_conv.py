"""Modulated deformable convolution on a CPU, as gather-and-sum; training stores no samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from semask_d2.modeling.kernels.bilinear_gather import PaddedMaps, parts
from semask_d2.modeling.kernels.linear import linear
from semask_d2.modeling.kernels.plain_deformable_conv import TAPS, masked_samples


def gathered_deform_conv2d(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Compute `sampled_deform_conv2d` by gather-and-sum and matrix products, on a CPU without gradients.

    The product has the dtype of `weight` and `bias`, the result channels innermost. The samples, nine times as large as
    `x`, are never all in memory.
    """
    b, _, h, w = x.shape
    groups = mask.shape[1] // TAPS
    maps = PaddedMaps([x.permute(0, 2, 3, 1).unflatten(3, (groups, -1))])
    columns = maps.columns(
        levels=[0] * (groups * TAPS), groups=[group for group in range(groups) for _ in range(TAPS)], bag=1
    )
    tap = torch.arange(TAPS).repeat(groups)
    across, down = (tap % 3 - 1).float(), (tap // 3 - 1).float()
    offsets = offsets.permute(0, 2, 3, 1).unflatten(3, (-1, 2)).flatten(1, 2)  # (B, H W, groups x taps, 2)
    mask = mask.permute(0, 2, 3, 1).flatten(1, 2)
    position = torch.arange(h * w)[:, None]
    row, column = (position // w).float(), (position % w).float()
    groups_first = weight.unflatten(1, (groups, -1)).flatten(3).transpose(2, 3).flatten(1)  # (C', groups x taps x D)
    out = weight.new_empty(b, h * w, len(weight))
    for image in range(b):
        for part in parts(h * w, groups * TAPS):
            samples = maps.sums(
                image,
                column[part] + across + offsets[image, part, :, 1],
                row[part] + down + offsets[image, part, :, 0],
                mask[image, part],
                columns,
            )
            out[image, part] = linear(samples.flatten(1).to(weight.dtype), groups_first, bias)
    return out.view(b, h, w, -1).permute(0, 3, 1, 2)


class LeanConvolution(torch.autograd.Function):
    """`sampled_deform_conv2d` with gradients on a CPU; the backward pass recomputes the samples, group by group."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(x, offsets, weight, mask)
        return gathered_deform_conv2d(x, offsets, weight, bias, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides names
        x, offsets, weight, mask = ctx.saved_tensors
        (upstream,) = grad_outputs
        groups = mask.shape[1] // TAPS
        x_grad, offsets_grad, mask_grad = map(torch.empty_like, (x, offsets, mask))
        weight_grad = torch.empty_like(weight)
        rows = upstream.flatten(2)  # (B, C', H W)
        step = x.shape[1] // groups
        for group in range(groups):
            x_channels, mask_channels = slice(group * step, (group + 1) * step), slice(group * TAPS, (group + 1) * TAPS)
            offset_channels = slice(2 * mask_channels.start, 2 * mask_channels.stop)
            inputs = [
                t.detach().requires_grad_()
                for t in (x[:, x_channels], offsets[:, offset_channels], mask[:, mask_channels])
            ]
            with torch.enable_grad():
                samples = masked_samples(*inputs)  # (B, D x taps, H W)
            group_weight = weight[:, x_channels].flatten(1)  # (C', D x taps)
            grads = torch.autograd.grad(samples, inputs, group_weight.T @ rows)
            x_grad[:, x_channels], offsets_grad[:, offset_channels], mask_grad[:, mask_channels] = grads
            product = (rows @ samples.detach().transpose(1, 2)).sum(0)
            weight_grad[:, x_channels] = product.view_as(weight_grad[:, x_channels])
        return x_grad, offsets_grad, weight_grad, upstream.sum((0, 2, 3)), mask_grad
