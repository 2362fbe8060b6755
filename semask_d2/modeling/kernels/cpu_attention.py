"""Attention on a CPU in parts that stay in cache; training stores no attention weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from semask_d2.modeling.kernels.half import in_fp32

PART = 2**18  # attention weights computed at a time, so that they stay in cache
# Weights below exp(-40), negligible beside 1 even in fp64, are set to zero. Otherwise masked weights of windows, at
# exp(-100), and gradients times small weights would be denormal numbers, a hundred times slower on a CPU.
LEAST_EXPONENT = -40.0


def attended(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Compute softmax(scale q k^T + bias) v without gradients, a part at a time; in bf16 the softmax is in fp32."""
    out = v.new_empty(*q.shape[:3], v.shape[3])
    for part, heads in parts(q):
        weights = attention_weights(q[part, heads], k[part, heads], bias, heads, scale)
        out[part, heads] = weights.to(v.dtype) @ v[part, heads]
    return out


class LeanSelfAttention(torch.autograd.Function):
    """`attended` with gradients; the backward pass recomputes the attention weights, a part at a time."""

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
            weights = attention_weights(q[part, heads], k[part, heads], bias, heads, ctx.scale)
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
    """Yield slices of the batch and of the heads of `q` (B, heads, N, D)."""
    batch, heads, tokens = q.shape[:3]
    some_heads = min(heads, max(1, PART // tokens**2))
    step = max(1, PART // (some_heads * tokens**2))
    for first_head in range(0, heads, some_heads):
        for first in range(0, batch, step):
            yield slice(first, first + step), slice(first_head, first_head + some_heads)


def attention_weights(q: Tensor, k: Tensor, bias: Tensor | None, heads: slice, scale: float) -> Tensor:
    """Return the attention weights of a part, (B, heads, N, N), in fp32 at least."""
    logits = in_fp32(q @ k.transpose(2, 3)).mul_(scale)
    if bias is not None:
        logits += in_fp32(bias[heads])
    if q.itemsize < 4:  # no gradients, and the processor's bf16 products take denormal numbers for zeros
        return logits.softmax(-1)
    logits -= logits.amax(-1, keepdim=True)
    weights = torch.threshold_(logits, LEAST_EXPONENT, -torch.inf).exp_()
    return weights.div_(weights.sum(-1, keepdim=True))
