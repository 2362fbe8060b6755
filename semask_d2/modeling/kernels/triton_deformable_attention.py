"""Multi-scale deformable attention (arXiv 2010.04159, equation 3) as one operator, with Triton kernels on a GPU.

Softmax, offsets and sampling are fused, so no weight, position or sample reaches memory. The operator is torch's
`semask_d2::deformable_attention`, opaque to compilation and export. Triton is optional and imported at first use;
with TRITON_INTERPRET=1 in the environment its interpreter runs the kernels on a CPU, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from semask_d2.modeling.kernels.triton_choice import refusal, served

VARIABLE, WHAT = "SEMASK_D2_DEFORMABLE_ATTENTION", "deformable attention"


def fused_deformable_attention(
    value: Tensor, sizes: Sequence[tuple[int, int]], reference: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """Sum bilinear samples of `value` around `reference`, weighted by the softmax of `logits`: (B, Q, heads x D).

    `value` (B, N, heads, D) holds the flattened maps of `sizes` (H, W) one after another; `reference` (Q, 2) fp32, as
    (x, y) in [0, 1]; `offsets` (B, Q, heads, levels, P, 2) in pixels of the sampled level, which is zero outside;
    `logits` (B, Q, heads, levels, P), with the softmax over levels and points. All but `reference` are fp32, bf16 or
    fp16; the result has the dtype of `value`, and all arithmetic is fp32. `reference` gets no gradient; the gradient of
    `value` is summed in an order that varies between runs. Raises `ValueError` for inconsistent shapes, with which the
    kernels would read outside of the tensors.
    """
    batch, tokens, heads, _ = value.shape
    queries, levels, points = len(reference), len(sizes), logits.shape[-1]
    if tokens != sum(height * width for height, width in sizes):
        raise ValueError(f"value has {tokens} tokens, which are not those of maps of {list(sizes)}")
    expected = (batch, queries, heads, levels, points)
    if logits.shape != expected or offsets.shape != (*expected, 2) or reference.shape != (queries, 2):
        raise ValueError(
            f"for value {tuple(value.shape)} and {levels} levels, reference {tuple(reference.shape)}, "
            f"offsets {tuple(offsets.shape)} and logits {tuple(logits.shape)} do not fit together"
        )
    flat = [length for size in sizes for length in size]
    return deformable_attention_op(value, flat, reference, offsets, logits)


@torch.library.custom_op("semask_d2::deformable_attention", mutates_args=())
def deformable_attention_op(
    value: Tensor, sizes: Sequence[int], reference: Tensor, offsets: Tensor, logits: Tensor
) -> Tensor:
    """Run the operator of `fused_deformable_attention`; `sizes` are H and W of each level in turn."""
    from semask_d2.modeling.kernels import deformable_attention_kernels

    return deformable_attention_kernels.forward(value, sizes, reference, offsets, logits)


@deformable_attention_op.register_fake
def _(value: Tensor, sizes: Sequence[int], reference: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], len(reference), value.shape[2] * value.shape[3])


@torch.library.custom_op("semask_d2::deformable_attention_backward", mutates_args=())
def deformable_attention_backward_op(
    gradient: Tensor,
    value: Tensor,
    sizes: Sequence[int],
    reference: Tensor,
    offsets: Tensor,
    logits: Tensor,
    out: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `value`, `offsets` and `logits`, given `gradient` of the result `out`."""
    from semask_d2.modeling.kernels import deformable_attention_kernels

    return deformable_attention_kernels.backward(gradient, value, sizes, reference, offsets, logits, out)


@deformable_attention_backward_op.register_fake
def _(
    gradient: Tensor,
    value: Tensor,
    sizes: Sequence[int],
    reference: Tensor,
    offsets: Tensor,
    logits: Tensor,
    out: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), offsets.new_empty(offsets.shape), logits.new_empty(logits.shape)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    value, ctx.sizes, reference, offsets, logits = inputs
    ctx.save_for_backward(value, reference, offsets, logits, output)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    value, reference, offsets, logits, out = ctx.saved_tensors
    value_gradient, offsets_gradient, logits_gradient = deformable_attention_backward_op(
        gradient, value, ctx.sizes, reference, offsets, logits, out
    )
    return value_gradient, None, None, offsets_gradient, logits_gradient


def _no_second_backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    raise NotImplementedError(
        f"the fused deformable attention has no second derivative; set {VARIABLE}=plain for standard operators"
    )


deformable_attention_op.register_autograd(_backward, setup_context=_save)
deformable_attention_backward_op.register_autograd(_no_second_backward)


def triton_serves(value: Tensor) -> bool:
    """Return whether the fused operator supports `value`: fp32, bf16 or fp16, on a GPU where it is correct.

    The environment variable SEMASK_D2_DEFORMABLE_ATTENTION is `auto` (the default), `plain` to never use it, or
    `triton`, which raises `UserError` where it fails; so does any other value.
    """
    return served(VARIABLE, WHAT, value.device, value.dtype)


def triton_refusal(device: torch.device, dtype: torch.dtype) -> str:
    """Return the reason why the fused operator does not support `dtype` on `device`; empty if it does."""
    return refusal(VARIABLE, WHAT, device, dtype)
