"""MaskFormer's decoder: DETR's, on one map (arXiv 2107.06278, section 3.3; DETR, arXiv 2005.12872)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from semask_d2.d2 import configurable
from semask_d2.modeling.layers.attention import MultiheadAttention
from semask_d2.modeling.layers.conv import init_conv
from semask_d2.modeling.layers.linear import Linear
from semask_d2.modeling.layers.mlp import MLP
from semask_d2.modeling.layers.position_encoding import sine_position_encoding
from semask_d2.modeling.transformer_decoders.base import (
    TRANSFORMER_DECODER_REGISTRY,
    MaskPredictions,
    MaskTransformerDecoder,
)
from semask_d2.utils.arguments import arguments_from, require


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each with dropout and a norm after its residual."""

    def __init__(self, dim: int, num_heads: int, hidden: int, dropout: float):
        super().__init__()
        self.self_attn = MultiheadAttention(dim, num_heads, dropout)
        self.multihead_attn = MultiheadAttention(dim, num_heads, dropout)
        self.linear1 = Linear(dim, hidden)
        self.linear2 = Linear(hidden, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, queries: Tensor, query_position: Tensor, tokens: Tensor, position: Tensor) -> Tensor:
        """Queries (B, Q, C), tokens (B, N, C), positions (Q, C) and (N, C) -> (B, Q, C)."""
        q = queries + query_position
        queries = self.norm1(queries + self.dropout(self.self_attn(q, q, queries)))
        y = self.multihead_attn(queries + query_position, tokens + position, tokens)
        queries = self.norm2(queries + self.dropout(y))
        y = self.linear2(self.dropout(self.linear1(queries).relu_()))
        return self.norm3(queries + self.dropout(y))


class Decoder(nn.Module):
    """The stack of layers and the norm that all their outputs share."""

    def __init__(self, layers: list[DecoderLayer], dim: int):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)


class Transformer(nn.Module):
    """Holds the decoder under the released models' name `transformer.decoder`."""

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = decoder


@TRANSFORMER_DECODER_REGISTRY.register()
class StandardTransformerDecoder(MaskTransformerDecoder):
    """`num_layers` DETR decoder layers whose queries start from zero, on the last of the given maps.

    Every layer's output is a supervised prediction, on all pixels.
    """

    supervision = "dense"
    multi_scale = False
    config_keys: ClassVar = {
        **MaskTransformerDecoder.config_keys,
        "dropout": "MODEL.MASK_FORMER.DROPOUT",
        "num_encoder_layers": "MODEL.MASK_FORMER.ENC_LAYERS",
    }

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        hidden_dim: int,
        num_queries: int,
        num_heads: int,
        feedforward_dim: int,
        num_layers: int,
        mask_dim: int,
        dropout: float,
        enforce_input_proj: bool,
        pre_norm: bool = False,
        num_encoder_layers: int = 0,
    ):
        super().__init__()
        self.check(
            hidden_dim=hidden_dim,
            num_heads=num_heads,
            pre_norm=pre_norm,
            num_classes=num_classes,
            num_queries=num_queries,
            feedforward_dim=feedforward_dim,
            mask_dim=mask_dim,
            num_layers=num_layers,
        )
        require(0 <= dropout < 1, self, "dropout", "at least 0 and below 1", dropout)
        wanted = "only 0, as in the released SeMask models"
        require(num_encoder_layers == 0, self, "num_encoder_layers", wanted, num_encoder_layers)
        layers = [DecoderLayer(hidden_dim, num_heads, feedforward_dim, dropout) for _ in range(num_layers)]
        self.transformer = Transformer(Decoder(layers, hidden_dim))
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.input_proj: nn.Module = nn.Identity()
        if in_channels != hidden_dim or enforce_input_proj:
            self.input_proj = nn.Conv2d(in_channels, hidden_dim, 1)
            init_conv(self.input_proj)
        self.class_embed = Linear(hidden_dim, num_classes + 1)
        self.mask_embed = MLP(hidden_dim, hidden_dim, mask_dim, 3)

    @classmethod
    def from_config(cls, cfg, in_channels):
        """The arguments of `__init__` from `cfg.MODEL.MASK_FORMER`."""
        return {"in_channels": in_channels, **arguments_from(cfg, cls.config_keys)}

    def forward(self, maps: list[Tensor], mask_features: Tensor) -> MaskPredictions:
        """Maps (B, C, h, w), of which the last one is used, and mask features (B, C', H/4, W/4) -> predictions."""
        x = self.input_proj(maps[-1])
        tokens = x.flatten(2).transpose(1, 2)
        _, channels, height, width = x.shape
        position = sine_position_encoding(height, width, channels, x.device).flatten(1).T
        query_position = self.query_embed.weight
        queries = query_position.new_zeros(x.shape[0], *query_position.shape)
        outputs = []
        for layer in self.transformer.decoder.layers:
            queries = layer(queries, query_position, tokens, position)
            outputs.append(queries)
        hidden = self.transformer.decoder.norm(torch.stack(outputs))
        return MaskPredictions(self.class_embed(hidden), self.mask_embed(hidden), mask_features)
