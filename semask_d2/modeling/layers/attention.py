"""Attention: the formula with a bias, and the layer of several heads with separate tokens for queries and keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from semask_d2.modeling.layers.linear import Linear, in_graph, linear

PART = 2**18  # attention weights that a CPU holds at a time, so that they stay in cache
# Below exp(-40), nothing beside 1 also in fp64, a weight is zero: masked ones of a shifted window, at exp(-100), and
# gradients times small ones are denormal numbers, which a CPU multiplies a hundred times slower.
LEAST_EXPONENT = -40.0


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    *,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """softmax(scale q k^T + bias) v, with `scale` D^-0.5 by default.

    `q` and `k` (B, heads, N, D), `v` (B, heads, N, C), `bias` (heads, N, N), shared by the batch -> (B, heads, N, C).
    """
    learns = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, bias))
    fused = q.shape[-1] == v.shape[-1] and not learns  # what torch has a kernel for on a CPU
    if fused or q.device.type != "cpu" or dropout or in_graph() or torch.is_autocast_enabled("cpu"):
        mask = None if bias is None else bias[None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    return LeanSelfAttention.apply(q, k, v, bias, factor) if learns else attended(q, k, v, bias, factor)


def attended(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """`attention` on a CPU without gradients, a part at a time."""
    out = v.new_empty(*q.shape[:3], v.shape[3])
    for part, heads in parts(q):
        out[part, heads] = weights_of(q[part, heads], k[part, heads], bias, heads, scale) @ v[part, heads]
    return out


class LeanSelfAttention(torch.autograd.Function):
    """`attention` that learns on a CPU and keeps no weights for it: they are made again, a part at a time."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v, bias)
        ctx.scale = scale
        return attended(q, k, v, bias, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides names
        q, k, v, bias = ctx.saved_tensors
        (upstream,) = grad_outputs
        q_grad, k_grad, v_grad = map(torch.empty_like, (q, k, v))
        bias_grad = None if bias is None else torch.zeros_like(bias)
        for part, heads in parts(q):
            weights = weights_of(q[part, heads], k[part, heads], bias, heads, ctx.scale)
            grad = upstream[part, heads]
            v_grad[part, heads] = weights.transpose(2, 3) @ grad
            grad = grad @ v[part, heads].transpose(2, 3)
            grad = grad.sub_((grad * weights).sum(-1, keepdim=True)).mul_(weights)  # of the logits
            if bias_grad is not None:
                bias_grad[heads] += grad.sum(0)
            grad *= ctx.scale
            q_grad[part, heads] = grad @ k[part, heads]
            k_grad[part, heads] = grad.transpose(2, 3) @ q[part, heads]
        return q_grad, k_grad, v_grad, bias_grad, None


def parts(q: Tensor) -> Iterator[tuple[slice, slice]]:
    """Some of the batch and some of the heads of `q` (B, heads, N, D) at a time."""
    batch, heads, tokens = q.shape[:3]
    some_heads = min(heads, max(1, PART // tokens**2))
    step = max(1, PART // (some_heads * tokens**2))
    for first_head in range(0, heads, some_heads):
        for first in range(0, batch, step):
            yield slice(first, first + step), slice(first_head, first_head + some_heads)


def weights_of(q: Tensor, k: Tensor, bias: Tensor | None, heads: slice, scale: float) -> Tensor:
    """The softmax of a part's logits, (B, heads, N, N)."""
    logits = (q @ k.transpose(2, 3)).mul_(scale)
    if bias is not None:
        logits += bias[heads]
    logits -= logits.amax(-1, keepdim=True)
    weights = torch.threshold_(logits, LEAST_EXPONENT, -torch.inf).exp_()
    return weights.div_(weights.sum(-1, keepdim=True))


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
