"""Multi-head attention with separate tokens for queries, keys and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.modeling.layers.linear import Linear, linear


class MultiheadAttention(nn.Module):
    """torch's multi-head attention by its parameter names, batch first, its mask shared by the heads.

    One (B, Q, N) mask serves all heads, where torch's own module needs a copy per head.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attend: Tensor | None = None) -> Tensor:
        """`query` (B, Q, C), `key` and `value` (B, N, C) -> (B, Q, C).

        `attend` is boolean (B, Q, N): which keys a query may attend to; each query needs at least one.
        """
        projections = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        q, k, v = (
            linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in projections
        )
        x = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if attend is None else attend[:, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(x.transpose(1, 2).flatten(2))
