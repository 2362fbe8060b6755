"""Semantic FPN's head: each feature is brought to stride 4, and their sum is classified (arXiv 1901.02446)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.d2 import SEM_SEG_HEADS_REGISTRY, ShapeSpec, configurable
from semask_d2.layers.conv import get_norm
from semask_d2.registry import require_names


class ConvNormReLU(nn.Module):
    """3x3 convolution, norm, ReLU, under the released models' names `conv` and `bn`."""

    def __init__(self, in_channels: int, out_channels: int, norm: str):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn = get_norm(norm, out_channels)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        return F.relu(self.bn(self.conv(x)))


@SEM_SEG_HEADS_REGISTRY.register()
class SeMaskFPNHead(nn.Module):
    """From `res2`..`res5` to class logits at stride 4."""

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        channels: int,
        norm: str,
        common_stride: int,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.in_features = list(input_shape)
        self.scale_heads = nn.ModuleList()
        for shape in input_shape.values():
            doublings = int(math.log2(shape.stride // common_stride))
            layers: list[nn.Module] = []
            for i in range(max(1, doublings)):
                layers.append(ConvNormReLU(channels if i else shape.channels, channels, norm))
                if doublings:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.scale_heads.append(nn.Sequential(*layers))
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        nn.init.zeros_(self.conv_seg.bias)

    @classmethod
    def from_config(cls, cfg, input_shape):
        """The arguments of `__init__` from `cfg.MODEL.SEM_SEG_HEAD`."""
        head = cfg.MODEL.SEM_SEG_HEAD
        require_names("MODEL.SEM_SEG_HEAD.IN_FEATURES", head.IN_FEATURES, input_shape)
        return {
            "input_shape": {name: input_shape[name] for name in head.IN_FEATURES},
            "num_classes": head.NUM_CLASSES,
            "channels": head.CONVS_DIM,
            "norm": head.NORM,
            "common_stride": head.COMMON_STRIDE,
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Backbone features by name -> logits (B, K, H/4, W/4)."""
        total = 0
        size = features[self.in_features[0]].shape[-2:]
        for name, scale_head in zip(self.in_features, self.scale_heads, strict=True):
            x = scale_head(features[name])
            total = total + F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return self.conv_seg(self.dropout(total))
