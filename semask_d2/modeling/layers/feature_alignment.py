"""FaPN's feature alignment, which shifts coarse features to match fine ones (arXiv 2108.07058)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.modeling.kernels.triton_deformable_conv import triton_serves
from semask_d2.modeling.layers.conv import ConvNorm
from semask_d2.modeling.layers.deformable_conv import DeformableConv


class FeatureAlignment(nn.Module):
    """Align coarse features to `lateral` with a deformable convolution, and add `lateral`.

    `norm` is the GroupNorm of the next convolution in the pixel decoder: the released models share one module under
    two names.
    """

    def __init__(self, channels: int, norm: nn.Module | None):
        super().__init__()
        self.offset = ConvNorm(2 * channels, channels, 1, norm=norm)
        self.dcpack_L2 = DeformableConv(channels)

    def forward(self, lateral: Tensor, coarse: Tensor) -> Tensor:
        """Align `coarse` to `lateral`, both (B, C, H, W), and return their sum of the same shape."""
        # the convolution of [lateral, 2 coarse], computed as a sum of two so that nothing is concatenated
        lateral_weight, coarse_weight = self.offset.weight.chunk(2, dim=1)
        guide = self.offset.follow(
            F.conv2d(lateral, lateral_weight, self.offset.bias) + F.conv2d(coarse, 2 * coarse_weight)
        )
        if triton_serves(coarse):
            return F.relu(self.dcpack_L2(coarse, guide)) + lateral
        with torch.autocast(lateral.device.type, enabled=False):  # torchvision's operator does not support bf16
            coarse, guide = (x.to(self.dcpack_L2.weight.dtype) for x in (coarse, guide))
            return F.relu(self.dcpack_L2(coarse, guide)) + lateral
