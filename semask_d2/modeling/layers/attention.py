"""Attention with a bias, and a multi-head layer with separate tokens for queries and keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2.modeling.kernels.cpu_attention import LeanSelfAttention, attended
from semask_d2.modeling.kernels.graphs import in_graph
from semask_d2.modeling.kernels.linear import linear
from semask_d2.modeling.layers.linear import Linear


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    *,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Compute softmax(scale q k^T + bias) v; `scale` is D^-0.5 by default.

    `q` and `k` (B, heads, N, D), `v` (B, heads, N, C), `bias` (heads, N, N) for the whole batch -> (B, heads, N, C).
    """
    needs_gradient = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, bias))
    in_bf16 = q.dtype == torch.bfloat16 and not needs_gradient  # torch's CPU kernels take twice as long as `attended`
    fused = q.shape[-1] == v.shape[-1] and not needs_gradient  # torch has a fused CPU kernel for this case
    standard = not in_bf16 and (fused or torch.is_autocast_enabled("cpu"))
    if standard or q.device.type != "cpu" or dropout or in_graph():
        mask = None if bias is None else bias[None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    return LeanSelfAttention.apply(q, k, v, bias, factor) if needs_gradient else attended(q, k, v, bias, factor)


class MultiheadAttention(nn.Module):
    """Multi-head attention with the parameter names of torch's module, batch first.

    All heads share one (B, Q, N) mask; torch's module needs a copy per head.
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
        """Attend from `query` (B, Q, C) to `key` and `value` (B, N, C): (B, Q, C).

        Boolean `attend` (B, Q, N) is True for the keys that a query may attend to; each query needs at least one.
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
