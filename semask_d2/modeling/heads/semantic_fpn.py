"""Semantic FPN's head: upsample each feature to stride 4 and classify their sum (arXiv 1901.02446)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.d2 import SEM_SEG_HEADS_REGISTRY, ShapeSpec, configurable
from semask_d2.modeling.layers.conv import get_norm, zero_bias
from semask_d2.modeling.pixel_decoders.base import check_norm
from semask_d2.utils.arguments import arguments_from, known, require, value_of
from semask_d2.utils.registry import require_names


class ConvNormReLU(nn.Module):
    """3x3 convolution, norm, ReLU, under the released models' names `conv` and `bn`."""

    def __init__(self, in_channels: int, out_channels: int, norm: str):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=norm == "")
        self.bn = get_norm(norm, out_channels) or nn.Identity()
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W)."""
        return F.relu(self.bn(self.conv(x)))


@SEM_SEG_HEADS_REGISTRY.register()
class SeMaskFPNHead(nn.Module):
    """Class logits at stride 4 from `res2`..`res5`."""

    config_keys: ClassVar = {
        "input_shape": "MODEL.SEM_SEG_HEAD.IN_FEATURES",
        "num_classes": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        "channels": "MODEL.SEM_SEG_HEAD.CONVS_DIM",
        "norm": "MODEL.SEM_SEG_HEAD.NORM",
        "common_stride": "MODEL.SEM_SEG_HEAD.COMMON_STRIDE",
    }

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
        check_norm(self, norm, channels, "channels")
        require(num_classes >= 1, self, "num_classes", "at least 1", num_classes)
        require(len(input_shape) >= 1, self, "input_shape", "at least one feature", list(input_shape))
        finest = min(known(shape.stride) for shape in input_shape.values())
        require(common_stride == finest, self, "common_stride", f"{finest}, the finest feature's", common_stride)
        self.in_features = list(input_shape)
        self.scale_heads = nn.ModuleList()
        for shape in input_shape.values():
            doublings = int(math.log2(known(shape.stride) // common_stride))
            layers: list[nn.Module] = []
            for i in range(max(1, doublings)):
                layers.append(ConvNormReLU(channels if i else known(shape.channels), channels, norm))
                if doublings:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.scale_heads.append(nn.Sequential(*layers))
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        zero_bias(self.conv_seg)

    @classmethod
    def from_config(cls, cfg, input_shape):
        """Return the arguments of `__init__` from `cfg.MODEL.SEM_SEG_HEAD`."""
        names = value_of(cfg, cls.config_keys["input_shape"])
        require_names(cls.config_keys["input_shape"], names, input_shape)
        shapes = {name: input_shape[name] for name in names}
        return {**arguments_from(cfg, cls.config_keys), "input_shape": shapes}

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Return logits (B, K, H/4, W/4) for backbone features by name."""
        total = 0
        size = features[self.in_features[0]].shape[-2:]
        for name, scale_head in zip(self.in_features, self.scale_heads, strict=True):
            x = scale_head(features[name])
            total = total + F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return self.conv_seg(self.dropout(total))
