"""Top-down pixel decoders: MaskFormer's feature pyramid (arXiv 2107.06278, section 3.3), and FaPN (arXiv 2108.07058),
which aligns features at each step."""

from __future__ import annotations

import torch
from torch import Tensor

from semask_d2.d2 import ShapeSpec, configurable
from semask_d2.modeling.layers.conv import ConvNorm
from semask_d2.modeling.pixel_decoders.base import (
    PIXEL_DECODER_REGISTRY,
    PixelDecoder,
    PixelDecoderOutput,
    add_top_down_step,
    select_features,
    top_down_step,
)
from semask_d2.utils.arguments import arguments_from, known


@PIXEL_DECODER_REGISTRY.register()
class BasePixelDecoder(PixelDecoder):
    """MaskFormer's feature pyramid over all features in `input_shape`, down to the finest stride."""

    align = False  # align features in each top-down step (FaPN)

    @configurable
    def __init__(self, input_shape: dict[str, ShapeSpec], *, conv_dim: int, mask_dim: int, norm: str):
        super().__init__()
        self.check(input_shape, conv_dim=conv_dim, mask_dim=mask_dim, norm=norm)
        self.features = list(input_shape)
        coarsest = len(self.features)
        for k, name in enumerate(self.features[:-1], start=1):
            add_top_down_step(self, k, known(input_shape[name].channels), conv_dim, norm, self.align)
        channels = known(input_shape[self.features[-1]].channels)
        self.add_module(f"layer_{coarsest}", ConvNorm(channels, conv_dim, 3, norm=norm, activation=torch.relu_))
        self.mask_features = ConvNorm(conv_dim, mask_dim, 3)

    @classmethod
    def from_config(cls, cfg, input_shape):
        """Return the arguments of `__init__` from `cfg.MODEL.SEM_SEG_HEAD`."""
        return {**arguments_from(cfg, cls.config_keys), "input_shape": select_features(cfg, input_shape)}

    def forward(self, features: dict[str, Tensor]) -> PixelDecoderOutput:
        """Return the mask features and all maps but the finest, coarse to fine, for backbone features by name."""
        coarsest = len(self.features)
        y = getattr(self, f"layer_{coarsest}")(features[self.features[-1]])
        maps = [y]
        for k in range(coarsest - 1, 0, -1):
            y = top_down_step(self, k, features[self.features[k - 1]], y, "nearest")
            maps.append(y)
        return PixelDecoderOutput(self.mask_features(y), maps[:-1])


@PIXEL_DECODER_REGISTRY.register()
class PixelFANDecoder(BasePixelDecoder):
    """FaPN: `BasePixelDecoder` with feature alignment in each top-down step."""

    align = True
