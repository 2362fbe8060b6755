"""Modulated deformable convolution (DCNv2, arXiv 1811.11168) as one operator, with Triton kernels on a GPU.

Unlike torchvision's, it supports half precision, and it stores no samples for the backward pass. The
operator is torch's `semask_d2::deformable_convolution`, opaque to compilation and export.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from semask_d2.modeling.kernels.triton_choice import refusal, served

VARIABLE, WHAT = "SEMASK_D2_DEFORMABLE_CONVOLUTION", "deformable convolution"


def fused_deform_conv2d(x: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """Compute `torchvision.ops.deform_conv2d` with padding 1: (B, C', H, W), with channels innermost in memory.

    `x` (B, C, H, W), `offsets` (B, groups x 9 x 2, H, W) as (y, x) pairs in pixels, `weight` (C', C, 3, 3), `mask`
    (B, groups x 9, H, W), each fp32, bf16 or fp16. The result has the dtype of `x`, or of an active autocast; sums
    are fp32. The gradient of `x` is summed in an order that varies between runs. Raises `ValueError` for inconsistent
    shapes, with which the kernels would read outside of the tensors.
    """
    batch, channels, height, width = x.shape
    taps = mask.shape[1]
    groups = taps // 9
    fits = mask.shape == (batch, 9 * groups, height, width) and offsets.shape == (batch, 2 * taps, height, width)
    if not groups or channels % groups or not fits or weight.shape[1:] != (channels, 3, 3):
        raise ValueError(
            f"x {tuple(x.shape)}, offsets {tuple(offsets.shape)}, mask {tuple(mask.shape)} and weight "
            f"{tuple(weight.shape)} do not fit together"
        )
    dtype = effective_dtype(x)
    rows = x.to(dtype).flatten(2).transpose(1, 2)
    tap_weights = weight.to(dtype).unflatten(1, (groups, -1)).flatten(3).transpose(2, 3).flatten(1)  # (C', groups 9 D)
    out = deformable_convolution_op(rows, offsets.flatten(2), mask.flatten(2), tap_weights, height, width)
    return (out + bias.to(dtype)).transpose(1, 2).unflatten(2, (height, width))


def effective_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of products with `x`: that of an active autocast, or its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


@torch.library.custom_op("semask_d2::deformable_convolution", mutates_args=())
def deformable_convolution_op(
    x: Tensor, offsets: Tensor, mask: Tensor, weight: Tensor, height: int, width: int
) -> Tensor:
    """Run the operator of `fused_deform_conv2d`: (B, N, C') from `x` (B, N, C), a map of N positions row by row.

    `offsets` (B, groups x 9 x 2, N), `mask` (B, groups x 9, N), `weight` (C', groups x 9 x channels of a group).
    """
    from semask_d2.modeling.kernels import deformable_conv_kernels

    with torch.autocast(x.device.type, enabled=False):
        return deformable_conv_kernels.forward(x, offsets, mask, weight, height, width)


@deformable_convolution_op.register_fake
def _(x: Tensor, offsets: Tensor, mask: Tensor, weight: Tensor, height: int, width: int) -> Tensor:
    return x.new_empty(*x.shape[:2], len(weight))


@torch.library.custom_op("semask_d2::deformable_convolution_backward", mutates_args=())
def deformable_convolution_backward_op(
    gradient: Tensor, x: Tensor, offsets: Tensor, mask: Tensor, weight: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of `x`, `offsets`, `mask` and `weight`, given `gradient` of the result."""
    from semask_d2.modeling.kernels import deformable_conv_kernels

    with torch.autocast(x.device.type, enabled=False):
        return deformable_conv_kernels.backward(gradient, x, offsets, mask, weight, height, width)


@deformable_convolution_backward_op.register_fake
def _(
    gradient: Tensor, x: Tensor, offsets: Tensor, mask: Tensor, weight: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape),
        offsets.new_empty(offsets.shape),
        mask.new_empty(mask.shape),
        weight.new_empty(weight.shape),
    )


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.height, ctx.width = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return (*deformable_convolution_backward_op(gradient, *ctx.saved_tensors, ctx.height, ctx.width), None, None)


def _no_second_backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    raise NotImplementedError(
        f"the fused deformable convolution has no second derivative; set {VARIABLE}=plain for torchvision's operator"
    )


deformable_convolution_op.register_autograd(_backward, setup_context=_save)
deformable_convolution_backward_op.register_autograd(_no_second_backward)


def triton_serves(x: Tensor) -> bool:
    """Return whether the fused operator supports `x`: half precision or autocast, on a GPU where it is correct.

    The environment variable SEMASK_D2_DEFORMABLE_CONVOLUTION is `auto` (the default), `plain` to never use it, or
    `triton`, which uses it for fp32 too and raises `UserError` where it fails; so does any other value.
    """
    dtype = effective_dtype(x)
    return served(VARIABLE, WHAT, x.device, dtype, by_default=dtype.itemsize < 4)


def triton_refusal(device: torch.device, dtype: torch.dtype) -> str:
    """Return the reason why the fused operator does not support `dtype` on `device`; empty if it does."""
    return refusal(VARIABLE, WHAT, device, dtype, by_default=dtype.itemsize < 4)
