"""MaskFormer's decoder: DETR's decoder on one map (arXiv 2107.06278, section 3.3; DETR, arXiv 2005.12872)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from semask_d2.d2 import configurable
from semask_d2.modeling.layers.attention import MultiheadAttention
from semask_d2.modeling.layers.linear import Linear
from semask_d2.modeling.layers.mlp import MLP
from semask_d2.modeling.layers.position_encoding import sine_position_encoding
from semask_d2.modeling.transformer_decoders.base import (
    TRANSFORMER_DECODER_REGISTRY,
    MaskPredictions,
    MaskTransformerDecoder,
)
from semask_d2.utils.arguments import require


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
        """Update queries (B, Q, C) from tokens (B, N, C), given positions (Q, C) and (N, C)."""
        q = queries + query_position
        queries = self.norm1(queries + self.dropout(self.self_attn(q, q, queries)))
        y = self.multihead_attn(queries + query_position, tokens + position, tokens)
        queries = self.norm2(queries + self.dropout(y))
        y = self.linear2(self.dropout(self.linear1(queries).relu_()))
        return self.norm3(queries + self.dropout(y))


class Decoder(nn.Module):
    """Stack of layers, with one norm for all their outputs."""

    def __init__(self, layers: list[DecoderLayer], dim: int):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim)


class Transformer(nn.Module):
    """Wrapper that gives the decoder the released models' name `transformer.decoder`."""

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = decoder


@TRANSFORMER_DECODER_REGISTRY.register()
class StandardTransformerDecoder(MaskTransformerDecoder):
    """DETR decoder of `num_layers` layers on the last of the given maps; queries start at zero.

    The output of every layer is a prediction, supervised on all pixels. `shared` are the arguments of
    `MaskTransformerDecoder`.
    """

    supervision = "dense"
    multi_scale = False
    config_keys: ClassVar = {
        **MaskTransformerDecoder.config_keys,
        "dropout": "MODEL.MASK_FORMER.DROPOUT",
        "num_encoder_layers": "MODEL.MASK_FORMER.ENC_LAYERS",
    }

    @configurable
    def __init__(self, *, dropout: float, num_encoder_layers: int, **shared: Any):
        super().__init__(**shared)
        dim = self.hidden_dim
        require(0 <= dropout < 1, self, "dropout", "at least 0 and below 1", dropout)
        expected = "0, as in the released SeMask models"
        require(num_encoder_layers == 0, self, "num_encoder_layers", expected, num_encoder_layers)
        layers = [DecoderLayer(dim, self.num_heads, self.feedforward_dim, dropout) for _ in range(self.num_layers)]
        self.transformer = Transformer(Decoder(layers, dim))
        self.query_embed = nn.Embedding(self.num_queries, dim)
        (self.input_proj,) = self.input_projections(1)
        self.class_embed = Linear(dim, self.num_classes + 1)
        self.mask_embed = MLP(dim, dim, self.mask_dim, 3)

    def forward(self, maps: list[Tensor], mask_features: Tensor) -> MaskPredictions:
        """Predict from the last of `maps` (B, C, h, w) and from mask features (B, C', H/4, W/4)."""
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
