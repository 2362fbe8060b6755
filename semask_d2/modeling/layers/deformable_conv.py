"""Modulated deformable convolution (DCNv2, arXiv 1811.11168): 3x3, its taps moved and weighted per position."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.modeling.layers.bilinear_gather import PaddedMaps, suits
from semask_d2.modeling.layers.linear import linear

GROUPS = 8
TAPS = 9


def sampled_deform_conv2d(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """`torchvision.ops.deform_conv2d` with padding 1, from `grid_sample` and one matrix product.

    Several times faster on a CPU, where torchvision's backward pass is one plain loop. `x` (B, C, H, W), `offsets`
    (B, groups x 9 x 2, H, W) as (y, x) pairs in pixels, `weight` (C', C, 3, 3), `mask` (B, groups x 9, H, W).
    """
    b, c, h, w = x.shape
    groups = mask.shape[1] // TAPS
    y, x_position = torch.meshgrid(torch.arange(h, device=x.device), torch.arange(w, device=x.device), indexing="ij")
    tap = torch.arange(TAPS, device=x.device)
    offsets = offsets.reshape(b * groups, TAPS, 2, h, w)
    # sampling coordinates with align_corners=False: a pixel's center is at its index plus one half
    rows = (offsets[:, :, 0] + (y + (tap // 3 - 1)[:, None, None] + 0.5)) * (2 / h) - 1
    columns = (offsets[:, :, 1] + (x_position + (tap % 3 - 1)[:, None, None] + 0.5)) * (2 / w) - 1
    grid = torch.stack([columns, rows], -1).flatten(1, 2)  # (B groups, 9 H, W, 2)
    samples = F.grid_sample(x.reshape(b * groups, c // groups, h, w), grid, padding_mode="zeros", align_corners=False)
    samples = samples.unflatten(2, (TAPS, h)) * mask.reshape(b * groups, 1, TAPS, h, w)
    columns = samples.reshape(b, c * TAPS, h * w)
    return (weight.flatten(1) @ columns).unflatten(-1, (h, w)) + bias[:, None, None]


def gathered_deform_conv2d(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """`sampled_deform_conv2d` from one gather-and-sum and one matrix product, channels innermost throughout."""
    b, c, h, w = x.shape
    groups = mask.shape[1] // TAPS
    maps = PaddedMaps(b, groups, c // groups, [(h, w)])
    maps.put(0, x.permute(0, 2, 3, 1).unflatten(3, (groups, -1)))
    tap = torch.arange(TAPS)
    # (B, H W, taps, groups): a query is a tap of a position
    offsets = offsets.permute(0, 2, 3, 1).reshape(b, h * w, groups, TAPS, 2).transpose(2, 3)
    mask = mask.permute(0, 2, 3, 1).reshape(b, h * w, groups, TAPS).transpose(2, 3)
    position = torch.arange(h * w)[:, None]
    rows = (position // w + tap // 3 - 1).float()[..., None] + offsets[..., 0]
    columns = (position % w + tap % 3 - 1).float()[..., None] + offsets[..., 1]

    flat = (values.reshape(1, 1, -1) for values in (columns, rows, mask))
    samples = maps.sums(*flat, queries=h * w * TAPS)  # (B H W taps groups, D)
    samples = samples.reshape(b, h, w, TAPS * c)
    taps_first = weight.flatten(2).transpose(1, 2).flatten(1)  # (C', taps x C)
    return linear(samples, taps_first, bias).permute(0, 3, 1, 2)


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
        """`x` and `guide` (B, C, H, W), fp32 -> (B, C, H, W)."""
        offsets, mask = self.conv_offset_mask(guide).split([GROUPS * TAPS * 2, GROUPS * TAPS], dim=1)
        mask = mask.sigmoid()
        if x.device.type == "cuda":
            from torchvision.ops import deform_conv2d  # here, because importing it takes seconds

            return deform_conv2d(x, offsets, self.weight, self.bias, padding=(1, 1), mask=mask)
        way = gathered_deform_conv2d if suits(x, offsets, mask, self.weight) else sampled_deform_conv2d
        return way(x, offsets, self.weight, self.bias, mask)
