"""Modulated deformable convolution (DCNv2, arXiv 1811.11168): 3x3, its taps moved and weighted per position."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from semask_d2.modeling.layers.bilinear_gather import PaddedMaps, parts, suits
from semask_d2.modeling.layers.grid_sample import grid_sample
from semask_d2.modeling.layers.linear import linear
from semask_d2.modeling.layers.triton_deformable_conv import fused_deform_conv2d, triton_serves

GROUPS = 8
TAPS = 9


def sampled_deform_conv2d(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """`torchvision.ops.deform_conv2d` with padding 1, from `grid_sample` and one matrix product.

    Several times faster on a CPU, where torchvision's backward pass is one plain loop. `x` (B, C, H, W), `offsets`
    (B, groups x 9 x 2, H, W) as (y, x) pairs in pixels, `weight` (C', C, 3, 3), `mask` (B, groups x 9, H, W).
    """
    columns = masked_samples(x, offsets, mask)
    return (weight.flatten(1) @ columns).unflatten(-1, x.shape[-2:]) + bias[:, None, None]


def masked_samples(x: Tensor, offsets: Tensor, mask: Tensor) -> Tensor:
    """The samples of all taps times their mask: (B, C x 9, H W)."""
    b, c, h, w = x.shape
    groups = mask.shape[1] // TAPS
    y, x_position = torch.meshgrid(torch.arange(h, device=x.device), torch.arange(w, device=x.device), indexing="ij")
    tap = torch.arange(TAPS, device=x.device)
    offsets = offsets.reshape(b * groups, TAPS, 2, h, w)
    # sampling coordinates with align_corners=False: a pixel's center is at its index plus one half
    rows = (offsets[:, :, 0] + (y + (tap // 3 - 1)[:, None, None] + 0.5)) * (2 / h) - 1
    columns = (offsets[:, :, 1] + (x_position + (tap % 3 - 1)[:, None, None] + 0.5)) * (2 / w) - 1
    grid = torch.stack([columns, rows], -1).flatten(1, 2)  # (B groups, 9 H, W, 2)
    samples = grid_sample(x.reshape(b * groups, c // groups, h, w), grid)
    samples = samples.unflatten(2, (TAPS, h)) * mask.reshape(b * groups, 1, TAPS, h, w)
    return samples.reshape(b, c * TAPS, h * w)


def gathered_deform_conv2d(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """`sampled_deform_conv2d` as gather-and-sum and matrix products, on a CPU without gradients, channels innermost.

    The samples, nine times as large as `x`, are never held together.
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
    out = x.new_empty(b, h * w, len(weight))
    for image in range(b):
        for part in parts(h * w, groups * TAPS):
            samples = maps.sums(
                image,
                column[part] + across + offsets[image, part, :, 1],
                row[part] + down + offsets[image, part, :, 0],
                mask[image, part],
                columns,
            )
            out[image, part] = linear(samples.flatten(1), groups_first, bias)
    return out.view(b, h, w, -1).permute(0, 3, 1, 2)


class LeanConvolution(torch.autograd.Function):
    """`sampled_deform_conv2d` that learns on a CPU and keeps no samples for it: they are made again, group by group."""

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
            of_x, of_taps = slice(group * step, (group + 1) * step), slice(group * TAPS, (group + 1) * TAPS)
            of_offsets = slice(2 * of_taps.start, 2 * of_taps.stop)
            inputs = [t.detach().requires_grad_() for t in (x[:, of_x], offsets[:, of_offsets], mask[:, of_taps])]
            with torch.enable_grad():
                samples = masked_samples(*inputs)  # (B, D x taps, H W)
            own_weight = weight[:, of_x].flatten(1)  # (C', D x taps)
            grads = torch.autograd.grad(samples, inputs, own_weight.T @ rows)
            x_grad[:, of_x], offsets_grad[:, of_offsets], mask_grad[:, of_taps] = grads
            product = (rows @ samples.detach().transpose(1, 2)).sum(0)
            weight_grad[:, of_x] = product.view_as(weight_grad[:, of_x])
        return x_grad, offsets_grad, weight_grad, upstream.sum((0, 2, 3)), mask_grad


class DeformableConv(nn.Module):
    """Deformable 3x3 convolution of one map, its offsets and mask predicted from another, in 8 groups of channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.conv_offset_mask = nn.Conv2d(channels, GROUPS * TAPS * 3, 3, padding=1)
        bound = 1 / math.sqrt(channels * TAPS)
        nn.init.uniform_(self.weight, -bound, bound)
        for parameter in self.conv_offset_mask.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """`x` and `guide` (B, C, H, W) -> (B, C, H, W). Only the Triton operator takes others than fp32."""
        offsets, mask = self.conv_offset_mask(guide).split([GROUPS * TAPS * 2, GROUPS * TAPS], dim=1)
        mask = mask.sigmoid()
        if triton_serves(x):
            return fused_deform_conv2d(x, offsets, self.weight, self.bias, mask)
        if x.device.type == "cuda":
            from torchvision.ops import deform_conv2d  # here, because importing it takes seconds

            return deform_conv2d(x, offsets, self.weight, self.bias, padding=(1, 1), mask=mask)
        arguments = (x, offsets, self.weight, self.bias, mask)
        if not suits(*arguments):
            return sampled_deform_conv2d(*arguments)
        learns = torch.is_grad_enabled() and any(argument.requires_grad for argument in arguments)
        return LeanConvolution.apply(*arguments) if learns else gathered_deform_conv2d(*arguments)
