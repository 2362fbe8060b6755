"""Modulated deformable 3x3 convolution (DCNv2, arXiv 1811.11168): each position moves and weights its taps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from semask_d2.modeling.kernels.bilinear_gather import is_supported
from semask_d2.modeling.kernels.cpu_deformable_conv import LeanConvolution, gathered_deform_conv2d
from semask_d2.modeling.kernels.half import in_fp32
from semask_d2.modeling.kernels.plain_deformable_conv import GROUPS, TAPS, sampled_deform_conv2d
from semask_d2.modeling.kernels.triton_deformable_conv import fused_deform_conv2d, triton_serves


class DeformableConv(nn.Module):
    """Deformable 3x3 convolution in 8 groups of channels; offsets and mask are predicted from a second map."""

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
        """Convolve `x` (B, C, H, W) with taps placed by `guide` of the same shape; half precision requires Triton."""
        offsets, mask = self.conv_offset_mask(guide).split([GROUPS * TAPS * 2, GROUPS * TAPS], dim=1)
        mask = mask.sigmoid()
        if triton_serves(x):
            return fused_deform_conv2d(x, offsets, self.weight, self.bias, mask)
        if x.device.type == "cuda":
            from torchvision.ops import deform_conv2d  # imported late, because it takes seconds

            return deform_conv2d(x, offsets, self.weight, self.bias, padding=(1, 1), mask=mask)
        arguments = (x, offsets, self.weight, self.bias, mask)
        needs_gradient = torch.is_grad_enabled() and any(argument.requires_grad for argument in arguments)
        if needs_gradient:
            return LeanConvolution.apply(*arguments) if is_supported(*arguments) else sampled_deform_conv2d(*arguments)
        samples = (in_fp32(x), in_fp32(offsets), in_fp32(mask))
        if not is_supported(*samples):
            return sampled_deform_conv2d(*arguments)
        return gathered_deform_conv2d(samples[0], samples[1], self.weight, self.bias, samples[2])
