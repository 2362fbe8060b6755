"""FaPN's feature alignment: coarse features are moved to where the fine ones are (arXiv 2108.07058)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.modeling.kernels.triton_deformable_conv import triton_serves
from semask_d2.modeling.layers.conv import ConvNorm
from semask_d2.modeling.layers.deformable_conv import DeformableConv


class FeatureAlignment(nn.Module):
    """Align coarse features to `lateral` with a deformable convolution, and add `lateral`.

    `norm` is the GroupNorm of the convolution that follows in the pixel decoder: in the released models it is one
    module under two names.
    """

    def __init__(self, channels: int, norm: nn.Module | None):
        super().__init__()
        self.offset = ConvNorm(2 * channels, channels, 1, norm=norm)
        self.dcpack_L2 = DeformableConv(channels)

    def forward(self, lateral: Tensor, coarse: Tensor) -> Tensor:
        """`lateral` and `coarse` (B, C, H, W), of one size -> (B, C, H, W)."""
        # one convolution of [lateral, 2 coarse], as two whose sum it is: nothing is joined
        of_lateral, of_coarse = self.offset.weight.chunk(2, dim=1)
        guide = self.offset.follow(F.conv2d(lateral, of_lateral, self.offset.bias) + F.conv2d(coarse, 2 * of_coarse))
        if triton_serves(coarse):
            return F.relu(self.dcpack_L2(coarse, guide)) + lateral
        with torch.autocast(lateral.device.type, enabled=False):  # torchvision's operator knows no bf16
            coarse, guide = (x.float() if x.itemsize < 4 else x for x in (coarse, guide))
            return F.relu(self.dcpack_L2(coarse, guide)) + lateral
