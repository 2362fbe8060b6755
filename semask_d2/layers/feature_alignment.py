"""FaPN's feature alignment: a deformable convolution that moves coarse features to fine ones (arXiv 2108.07058)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from .conv import ConvNorm

DEFORMABLE_GROUPS = 8


class DeformableConv(nn.Module):
    """Modulated deformable 3x3 convolution whose offsets and mask come from another map (DCNv2)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.conv_offset_mask = nn.Conv2d(channels, DEFORMABLE_GROUPS * 27, 3, padding=1)
        bound = 1 / math.sqrt(channels * 9)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """`x` and `guide` (B, C, H, W) -> (B, C, H, W), in fp32."""
        z = self.conv_offset_mask(guide).float()
        channels = DEFORMABLE_GROUPS * 18  # (y, x) pairs for 9 taps; the rest modulates
        offsets, mask = z[:, :channels], z[:, channels:].sigmoid()
        return deform_conv2d(x.float(), offsets, self.weight.float(), self.bias.float(), padding=1, mask=mask)


class FeatureAlignment(nn.Module):
    """Align coarse features to `lateral`, and add `lateral`.

    `norm` is the GroupNorm of the convolution that follows in the pixel decoder: in the released models it is one
    module under two names.
    """

    def __init__(self, channels: int, norm: nn.Module):
        super().__init__()
        self.offset = ConvNorm(2 * channels, channels, 1, norm=norm)
        self.dcpack_L2 = DeformableConv(channels)

    def forward(self, lateral: Tensor, coarse: Tensor) -> Tensor:
        """`lateral` and `coarse` (B, C, H, W), of one size -> (B, C, H, W)."""
        guide = self.offset(torch.cat([lateral, 2 * coarse], 1))
        with torch.autocast(lateral.device.type, enabled=False):
            aligned = self.dcpack_L2(coarse, guide.float())
        return F.relu(aligned) + lateral
