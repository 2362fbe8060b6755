"""Mask2Former's pixel decoder (arXiv 2112.01527, section 3.1): a deformable encoder over the coarse levels, then
one top-down step to stride 4; and the MSFaPN variant, which aligns features in that step (FaPN, arXiv 2108.07058)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from semask_d2.d2 import ShapeSpec, configurable
from semask_d2.modeling.layers.conv import ConvNorm, zero_bias
from semask_d2.modeling.layers.deformable_attention import MSDeformAttn, Size, reference_points
from semask_d2.modeling.layers.linear import Linear
from semask_d2.modeling.layers.position_encoding import sine_position_encoding
from semask_d2.modeling.layers.recomputation import CHECKPOINTING_KEY, PARTS, run
from semask_d2.modeling.pixel_decoders.base import (
    PIXEL_DECODER_REGISTRY,
    PixelDecoder,
    PixelDecoderOutput,
    add_top_down_step,
    check_norm,
    select_features,
    top_down_step,
)
from semask_d2.utils.arguments import arguments_from, known, require, value_of
from semask_d2.utils.errors import UserError
from semask_d2.utils.registry import require_names

FEEDFORWARD_DIM = 1024  # as in the released models, independent of MODEL.MASK_FORMER.DIM_FEEDFORWARD

UNREAD_HEADS = "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS"
NUM_MAPS = 3  # in the multi-scale output, however many levels the encoder has


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, post-norm, with dropout as in Deformable DETR."""

    def __init__(self, dim: int, num_levels: int, num_heads: int, num_points: int, dropout: float):
        super().__init__()
        self.self_attn = MSDeformAttn(dim, num_levels, num_heads, num_points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = Linear(dim, FEEDFORWARD_DIM)
        self.linear2 = Linear(FEEDFORWARD_DIM, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, tokens: Tensor, position: Tensor, reference: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Update `tokens` (B, N, C), given `position` (N, C) and `reference` points (N, 2)."""
        tokens = self.norm1(tokens + self.dropout(self.self_attn(tokens + position, reference, tokens, sizes)))
        return self.norm2(tokens + self.dropout(self.linear2(self.dropout(self.linear1(tokens).relu_()))))


class DeformableEncoder(nn.Module):
    """Stack of layers under the released models' name `encoder.layers`."""

    def __init__(self, layers: Sequence[DeformableEncoderLayer]):
        super().__init__()
        self.layers = nn.ModuleList(layers)


class DeformableTransformer(nn.Module):
    """Deformable encoder over several maps, each with a position encoding and a learned level embedding."""

    def __init__(
        self,
        dim: int,
        num_levels: int,
        *,
        num_heads: int,
        num_points: int,
        num_layers: int,
        dropout: float,
        recompute: bool,
    ):
        super().__init__()
        self.recompute = recompute
        self.level_embed = nn.Parameter(torch.randn(num_levels, dim))
        self.encoder = DeformableEncoder(
            [DeformableEncoderLayer(dim, num_levels, num_heads, num_points, dropout) for _ in range(num_layers)]
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Encode maps (B, C, h, w), coarse to fine, to maps of the same shapes."""
        channels, device = maps[0].shape[1], maps[0].device
        sizes = [(m.shape[-2], m.shape[-1]) for m in maps]
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        position = torch.cat(
            [
                (sine_position_encoding(h, w, channels, device).flatten(1).T + level).to(level.dtype)
                for (h, w), level in zip(sizes, self.level_embed, strict=True)
            ]
        )
        reference = reference_points(sizes, device)
        for layer in self.encoder.layers:
            tokens = run(layer, tokens, position, reference, sizes, recompute=self.recompute)
        parts = tokens.split([h * w for h, w in sizes], dim=1)
        # no `unflatten`: tracing would record its sizes as constants, and all sizes derived from them. The permutation
        # comes last, because of a transposed part of one image torch's resizing would copy the result twice
        tokens_of_maps = zip(parts, sizes, strict=True)
        return [x.reshape(x.shape[0], *size, x.shape[2]).permute(0, 3, 1, 2) for x, size in tokens_of_maps]


@PIXEL_DECODER_REGISTRY.register()
class MSDeformAttnPixelDecoder(PixelDecoder):
    """Deformable encoder over `encoder_features`, then a top-down step for each finer feature down to stride 4."""

    align = False  # align features in the top-down step (FaPN)
    config_keys: ClassVar = {
        **PixelDecoder.config_keys,
        "encoder_features": "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES",
        "num_encoder_layers": "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS",
        "num_heads": "MODEL.MASK_FORMER.NHEADS",  # as published; see UNREAD_HEADS
        "dropout": "MODEL.MASK_FORMER.DROPOUT",
        "num_points": "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS",
        "common_stride": "MODEL.SEM_SEG_HEAD.COMMON_STRIDE",
        "checkpointing": CHECKPOINTING_KEY,
    }

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        encoder_features: Sequence[str],
        num_encoder_layers: int,
        num_heads: int,
        num_points: int,
        conv_dim: int,
        mask_dim: int,
        norm: str,
        common_stride: int,
        dropout: float,
        checkpointing: Sequence[str],
    ):
        super().__init__()
        require(set(checkpointing) <= set(PARTS), self, "checkpointing", f"some of {PARTS}", list(checkpointing))
        self.check(input_shape, conv_dim=conv_dim, mask_dim=mask_dim, norm=norm)
        check_norm(self, "GN", conv_dim, "conv_dim")  # the projections use GroupNorm, whatever `norm` is
        require(num_encoder_layers >= 0, self, "num_encoder_layers", "at least 0", num_encoder_layers)
        require(num_points >= 1, self, "num_points", "at least 1", num_points)
        require(0 <= dropout < 1, self, "dropout", "at least 0 and below 1", dropout)
        expected = f"a number of heads that divides {conv_dim} ({self.config_keys['conv_dim']})"
        require(num_heads >= 1 and conv_dim % num_heads == 0, self, "num_heads", expected, num_heads)
        coarse = [name for name in reversed(input_shape) if name in encoder_features]
        self.encoder_features = coarse
        convs = [nn.Conv2d(known(input_shape[name].channels), conv_dim, 1) for name in coarse]
        self.input_proj = nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(32, conv_dim)) for conv in convs)
        for conv in convs:
            nn.init.xavier_uniform_(conv.weight)
            zero_bias(conv)
        self.transformer = DeformableTransformer(
            conv_dim,
            len(coarse),
            num_heads=num_heads,
            num_points=num_points,
            num_layers=num_encoder_layers,
            dropout=dropout,
            recompute="pixel_decoder" in checkpointing,
        )
        self.mask_features = ConvNorm(conv_dim, mask_dim, 1)
        finest = min(known(input_shape[name].stride) for name in coarse)
        expected = f"a power of two from 4 to {finest}"
        require(
            common_stride in (4, 8, 16, 32) and common_stride <= finest, self, "common_stride", expected, common_stride
        )
        steps = int(math.log2(finest // common_stride))
        self.fine_features = list(input_shape)[:steps]
        expected = f"features that make {NUM_MAPS} maps with the top-down steps to stride {common_stride}"
        require(len(coarse) + steps >= NUM_MAPS, self, "encoder_features", expected, coarse)
        for k, name in enumerate(self.fine_features, start=1):
            add_top_down_step(self, k, known(input_shape[name].channels), conv_dim, norm, self.align)

    @classmethod
    def from_config(cls, cfg, input_shape):
        """Return the arguments of `__init__` from `cfg.MODEL.SEM_SEG_HEAD`."""
        shapes = select_features(cfg, input_shape)
        key = cls.config_keys["encoder_features"]
        require_names(key, value_of(cfg, key), shapes)
        heads, published = value_of(cfg, UNREAD_HEADS), cls.config_keys["num_heads"]
        if heads not in (8, value_of(cfg, published)):  # 8 is the default, so it was probably not set by the user
            raise UserError(f"{UNREAD_HEADS}: {heads} is not read, as in the published code; set {published} instead")
        return {**arguments_from(cfg, cls.config_keys), "input_shape": shapes}

    def forward(self, features: dict[str, Tensor]) -> PixelDecoderOutput:
        """Return mask features at stride 4 and the three coarsest maps for features (B, C_i, h_i, w_i) by name.

        The maps come from the encoder; if it has fewer, the first top-down steps provide the rest.
        """
        maps = [
            projection(features[name]) for projection, name in zip(self.input_proj, self.encoder_features, strict=True)
        ]
        maps = self.transformer(maps)
        y = maps[-1]
        for k, name in reversed(list(enumerate(self.fine_features, start=1))):
            y = top_down_step(self, k, features[name], y, "bilinear")
            maps.append(y)
        return PixelDecoderOutput(self.mask_features(y), maps[:NUM_MAPS])


@PIXEL_DECODER_REGISTRY.register()
class MSDeformAttnPixelFANDecoder(MSDeformAttnPixelDecoder):
    """MSFaPN: `MSDeformAttnPixelDecoder` with feature alignment in the top-down step."""

    align = True
