"""Mask2Former's decoder: each query attends to multi-scale maps within its latest mask (arXiv 2112.01527)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
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

NUM_LEVELS = 3


class SelfAttentionLayer(nn.Module):
    """Self-attention among queries, post-norm; positions are added to queries and keys, not to values."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.self_attn = MultiheadAttention(dim, num_heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, queries: Tensor, query_position: Tensor) -> Tensor:
        """Update queries (B, Q, C), given their positions (Q, C)."""
        q = queries + query_position
        return self.norm(queries + self.self_attn(q, q, queries))


class CrossAttentionLayer(nn.Module):
    """Masked cross-attention from queries to the tokens of a map, post-norm."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.multihead_attn = MultiheadAttention(dim, num_heads)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, queries: Tensor, query_position: Tensor, tokens: Tensor, position: Tensor, attend: Tensor
    ) -> Tensor:
        """Update queries (B, Q, C) from tokens (B, N, C), given positions (Q, C) and (N, C), and `attend` (B, Q, N)."""
        y = self.multihead_attn(queries + query_position, tokens + position, tokens, attend)
        return self.norm(queries + y)


class FeedForwardLayer(nn.Module):
    """Linear, ReLU, linear, post-norm."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.linear1 = Linear(dim, hidden)
        self.linear2 = Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, queries: Tensor) -> Tensor:
        """Update queries (B, Q, C)."""
        return self.norm(queries + self.linear2(self.linear1(queries).relu_()))


@TRANSFORMER_DECODER_REGISTRY.register()
class MultiScaleMaskedTransformerDecoder(MaskTransformerDecoder):
    """Rounds of masked cross-attention, self-attention and feed-forward over three maps in turn.

    It predicts before the first round and after each one, so `num_layers` predictions take `num_layers` - 1 rounds.
    They are supervised on points. As published it has no dropout: MODEL.MASK_FORMER.DROPOUT applies to the deformable
    encoder of the pixel decoder. `arguments` are those of `MaskTransformerDecoder`.
    """

    supervision = "points"
    multi_scale = True

    @configurable
    def __init__(self, **arguments: Any):
        super().__init__(**arguments)
        dim, rounds = self.hidden_dim, range(self.num_layers - 1)
        self.transformer_self_attention_layers = nn.ModuleList(SelfAttentionLayer(dim, self.num_heads) for _ in rounds)
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(dim, self.num_heads) for _ in rounds
        )
        self.transformer_ffn_layers = nn.ModuleList(FeedForwardLayer(dim, self.feedforward_dim) for _ in rounds)
        self.decoder_norm = nn.LayerNorm(dim)
        self.query_feat = nn.Embedding(self.num_queries, dim)
        self.query_embed = nn.Embedding(self.num_queries, dim)
        self.level_embed = nn.Embedding(NUM_LEVELS, dim)
        self.input_proj = nn.ModuleList(self.input_projections(NUM_LEVELS))
        self.class_embed = Linear(dim, self.num_classes + 1)
        self.mask_embed = MLP(dim, dim, self.mask_dim, 3)

    def forward(self, maps: list[Tensor], mask_features: Tensor) -> MaskPredictions:
        """Predict from three maps (B, C, h, w), coarse to fine, and mask features (B, C', H/4, W/4)."""
        tokens, positions, guides = [], [], []
        for projection, level, feature in zip(self.input_proj, self.level_embed.weight, maps, strict=True):
            x = projection(feature)
            tokens.append(x.flatten(2).transpose(1, 2) + level)
            _, channels, height, width = x.shape
            position = sine_position_encoding(height, width, channels, x.device).flatten(1).T
            positions.append(position.to(level.dtype))
            # resizing is linear, so it is done once per level instead of for every mask of every layer
            guides.append(
                F.interpolate(mask_features.detach(), size=x.shape[-2:], mode="bilinear", align_corners=False)
            )

        query_position = self.query_embed.weight
        queries = self.query_feat.weight.expand(mask_features.shape[0], -1, -1)
        outputs = [self.decoder_norm(queries)]
        embeddings = [self.mask_embed(outputs[0])]
        layers = zip(
            self.transformer_cross_attention_layers,
            self.transformer_self_attention_layers,
            self.transformer_ffn_layers,
            strict=True,
        )
        for i, (cross_attention, self_attention, feed_forward) in enumerate(layers):
            level = i % NUM_LEVELS
            attend = foreground(embeddings[-1].detach(), guides[level])
            queries = cross_attention(queries, query_position, tokens[level], positions[level], attend)
            queries = feed_forward(self_attention(queries, query_position))
            outputs.append(self.decoder_norm(queries))
            embeddings.append(self.mask_embed(outputs[-1]))
        return MaskPredictions(self.class_embed(torch.stack(outputs)), torch.stack(embeddings), mask_features)


def foreground(mask_embed: Tensor, features: Tensor) -> Tensor:
    """Return the attention mask: each query attends within its mask (probability >= 0.5), or everywhere if it is empty.

    `mask_embed` (B, Q, C), `features` (B, C, h, w) -> boolean (B, Q, h w), True where a query attends.
    """
    attend = torch.einsum("bqc,bcn->bqn", mask_embed, features.flatten(2)) >= 0
    return attend | ~attend.any(-1, keepdim=True)
