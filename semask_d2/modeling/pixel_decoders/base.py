"""Base class, registry, output and top-down step of the pixel decoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from fvcore.common.registry import Registry
from torch import Tensor, nn

from semask_d2.d2 import ShapeSpec
from semask_d2.modeling.layers.conv import GROUPS, NORMS, ConvNorm
from semask_d2.modeling.layers.feature_alignment import FeatureAlignment
from semask_d2.utils.arguments import require
from semask_d2.utils.registry import lookup, require_names

# Not Detectron2's registry, where Mask2Former's package registers the same names.
PIXEL_DECODER_REGISTRY = Registry("semask_d2.modeling.pixel_decoders.PIXEL_DECODER_REGISTRY")


class PixelDecoderOutput(NamedTuple):
    """Mask features (B, C, H/4, W/4), and multi-scale maps (B, C, h, w) from coarse to fine."""

    mask_features: Tensor
    multi_scale: list[Tensor]


def build_pixel_decoder(cfg, input_shape) -> nn.Module:
    """Build the pixel decoder `MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME` for backbone features `input_shape`."""
    key = "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME"
    decoder = lookup(PIXEL_DECODER_REGISTRY, cfg.MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME, key)
    return decoder(cfg, input_shape)


class PixelDecoder(nn.Module):
    """Base class of the top-down decoders, with the arguments that all of them take."""

    config_keys: ClassVar[Mapping[str, str]] = {
        "conv_dim": "MODEL.SEM_SEG_HEAD.CONVS_DIM",
        "mask_dim": "MODEL.SEM_SEG_HEAD.MASK_DIM",
        "norm": "MODEL.SEM_SEG_HEAD.NORM",
        "input_shape": "MODEL.SEM_SEG_HEAD.IN_FEATURES",
    }

    def check(self, input_shape: Mapping[str, ShapeSpec], *, conv_dim: int, mask_dim: int, norm: str) -> None:
        """Raise `ArgumentError` for arguments that no decoder can be built with."""
        check_norm(self, norm, conv_dim, "conv_dim")
        require(mask_dim >= 1, self, "mask_dim", "at least 1", mask_dim)
        require(len(input_shape) >= 2, self, "input_shape", "at least two features", list(input_shape))


def check_norm(component: nn.Module, norm: str, channels: int, argument: str) -> None:
    """Raise `ArgumentError` for an unknown `norm`, or for `channels` that do not suit it."""
    names = ("", *NORMS)
    require(norm in names, component, "norm", f"one of {names}", norm)
    divisor = GROUPS if norm == "GN" else 1
    reason = f"a multiple of {GROUPS} (GroupNorm's groups)" if norm == "GN" else "at least 1"
    require(channels >= 1 and channels % divisor == 0, component, argument, reason, channels)


def select_features(cfg, input_shape) -> dict:
    """Return the shapes of the features in `MODEL.SEM_SEG_HEAD.IN_FEATURES`, from fine to coarse."""
    head = cfg.MODEL.SEM_SEG_HEAD
    require_names("MODEL.SEM_SEG_HEAD.IN_FEATURES", head.IN_FEATURES, input_shape)
    shapes = {name: input_shape[name] for name in head.IN_FEATURES}
    return dict(sorted(shapes.items(), key=lambda item: item[1].stride))


def add_top_down_step(decoder: nn.Module, k: int, in_channels: int, channels: int, norm: str, align: bool) -> None:
    """Add the modules of one top-down step to `decoder`: `adapter_k`, `layer_k` and, if `align`, `align_k`."""
    layer = ConvNorm(channels, channels, 3, norm=norm, activation=torch.relu_)
    decoder.add_module(f"adapter_{k}", ConvNorm(in_channels, channels, 1, norm=norm))
    if align:
        # before `layer_k`: the norm is shared, and `layer_k.norm` must win where a checkpoint's two copies differ
        decoder.add_module(f"align_{k}", FeatureAlignment(channels, layer.norm))
    decoder.add_module(f"layer_{k}", layer)


def top_down_step(decoder: nn.Module, k: int, feature: Tensor, y: Tensor, mode: str) -> Tensor:
    """Run one top-down step: add upsampled `y` to `feature` after `adapter_k`, aligned first if there is `align_k`.

    `mode` is the interpolation of `y`, "nearest" or "bilinear".
    """
    lateral = getattr(decoder, f"adapter_{k}")(feature)
    corners = {"align_corners": False} if mode == "bilinear" else {}
    y = lateral + F.interpolate(y, size=lateral.shape[-2:], mode=mode, **corners)
    align = getattr(decoder, f"align_{k}", None)
    return getattr(decoder, f"layer_{k}")(y if align is None else align(lateral, y))
