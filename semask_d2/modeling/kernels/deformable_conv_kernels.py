"""Triton kernels for the samples of modulated deformable convolution (DCNv2, arXiv 1811.11168), with gradients.

The convolution itself is a matrix product of the samples of all taps, left to torch. The samples are nine times as
large as the map, so they are computed for some images at a time, and again in the backward pass. A program computes
them for a block of positions and one group of channels. All arithmetic is fp32, except the operands of the product.

B images, N positions, G groups of D channels, 9 taps.
"""

# Triton is optional, and type checkers do not understand its language
# pyright: reportMissingImports=false, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from semask_d2.modeling.kernels.sampling_kernels import (
    NUM_WARPS,
    block_of_rows,
    corner_rows,
    pixel_before,
    rows_together,
)

TAPS = 9
# arguments that depend on the size of the maps; specialized, they would make Triton recompile for other sizes
SIZE_ARGUMENTS = ["height", "width", "offsets_batch", "offsets_channel", "mask_batch", "mask_channel"]
PART_BYTES = 2**28  # of samples in memory at a time, unless one image needs more


@triton.jit
def tap_place(offsets, position, kept, tap, channel, width, OFFSET_CHANNEL, OFFSET_STEP):
    """Return the sampling position (x, y) in pixels of a tap; `channel` is its index among the taps of all groups."""
    at = offsets + position * OFFSET_STEP + 2 * channel * OFFSET_CHANNEL
    offset_y = tl.load(at, mask=kept, other=0.0).to(tl.float32)
    offset_x = tl.load(at + OFFSET_CHANNEL, mask=kept, other=0.0).to(tl.float32)
    return (position % width + tap % 3 - 1) + offset_x, (position // width + tap // 3 - 1) + offset_y


@triton.jit(do_not_specialize=SIZE_ARGUMENTS)
def sampling_kernel(
    x,
    offsets,
    mask,
    samples,
    height,
    width,
    x_batch,
    x_row,
    offsets_batch,
    offsets_channel,
    offsets_step,
    mask_batch,
    mask_channel,
    mask_step,
    GROUPS: tl.constexpr,
    DIM: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write the masked `samples` (B, N, G, 9, D) for a block of positions, a group and an image."""
    positions = height * width
    position = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    group = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)  # offsets between images can exceed 32 bits
    kept = position < positions
    x += image * x_batch + group * DIM
    offsets += image * offsets_batch
    mask += image * mask_batch
    samples += image * positions * (GROUPS * TAPS * DIM)
    dim = tl.arange(0, BLOCK_D)[None, :]
    for tap in range(TAPS):
        channel = group * TAPS + tap
        at_x, at_y = tap_place(offsets, position, kept, tap, channel, width, offsets_channel, offsets_step)
        tap_weight = tl.load(mask + channel * mask_channel + position * mask_step, mask=kept, other=0.0)
        left, right = pixel_before(at_x, width.to(tl.float32))
        top, lower = pixel_before(at_y, height.to(tl.float32))
        sample = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
        for corner in tl.static_range(4):
            share = (right if corner % 2 else 1 - right) * (lower if corner // 2 else 1 - lower)
            row, inside = corner_rows(left + corner % 2, top + corner // 2, width, height, 0, kept, x_row, DIM, BLOCK_D)
            sample += share[:, None] * tl.load(x + row, mask=inside, other=0.0).to(tl.float32)
        sample *= tap_weight.to(tl.float32)[:, None]
        row = position.to(tl.int64)[:, None] * (GROUPS * TAPS * DIM) + channel * DIM + dim
        tl.store(samples + row, sample.to(samples.dtype.element_ty), mask=kept[:, None] & (dim < DIM))


@triton.jit(do_not_specialize=SIZE_ARGUMENTS)
def gradient_kernel(
    gradient,
    x,
    offsets,
    mask,
    x_gradient,
    offsets_gradient,
    mask_gradient,
    height,
    width,
    x_batch,
    x_row,
    offsets_batch,
    offsets_channel,
    offsets_step,
    mask_batch,
    mask_channel,
    mask_step,
    GROUPS: tl.constexpr,
    DIM: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write the gradients of the inputs of `sampling_kernel`, given `gradient` (B, N, G, 9, D) of its output.

    They are added to `x_gradient` (B, N, C) fp32; `offsets_gradient` and `mask_gradient` have channels first.
    """
    positions = height * width
    position = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    group = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    kept = position < positions
    x += image * x_batch + group * DIM
    offsets += image * offsets_batch
    mask += image * mask_batch
    gradient += image * positions * (GROUPS * TAPS * DIM)
    x_gradient += image * positions * (GROUPS * DIM) + group * DIM
    offsets_gradient += image * positions * (GROUPS * TAPS * 2)
    mask_gradient += image * positions * (GROUPS * TAPS)
    dim = tl.arange(0, BLOCK_D)[None, :]
    for tap in range(TAPS):
        channel = group * TAPS + tap
        at_x, at_y = tap_place(offsets, position, kept, tap, channel, width, offsets_channel, offsets_step)
        tap_weight = tl.load(mask + channel * mask_channel + position * mask_step, mask=kept, other=0.0)
        tap_weight = tap_weight.to(tl.float32)
        left, right = pixel_before(at_x, width.to(tl.float32))
        top, lower = pixel_before(at_y, height.to(tl.float32))
        row = position.to(tl.int64)[:, None] * (GROUPS * TAPS * DIM) + channel * DIM + dim
        gradients = tl.load(gradient + row, mask=kept[:, None] & (dim < DIM), other=0.0).to(tl.float32)
        along_sample, along_x, along_y = tl.zeros_like(right), tl.zeros_like(right), tl.zeros_like(right)
        for corner in tl.static_range(4):
            share_x, share_y = right if corner % 2 else 1 - right, lower if corner // 2 else 1 - lower
            column, map_row = left + corner % 2, top + corner // 2
            row, inside = corner_rows(column, map_row, width, height, 0, kept, x_row, DIM, BLOCK_D)
            along = tl.sum(gradients * tl.load(x + row, mask=inside, other=0.0).to(tl.float32), axis=1)
            along_sample += share_x * share_y * along
            along_x += share_y * along * (1 if corner % 2 else -1)
            along_y += share_x * along * (1 if corner // 2 else -1)
            row, inside = corner_rows(column, map_row, width, height, 0, kept, GROUPS * DIM, DIM, BLOCK_D)
            share = tap_weight * share_x * share_y
            tl.atomic_add(x_gradient + row, share[:, None] * gradients, mask=inside, sem="relaxed")
        gradient_y = offsets_gradient + 2 * channel * positions + position
        tl.store(gradient_y, tap_weight * along_y, mask=kept)
        tl.store(gradient_y + positions, tap_weight * along_x, mask=kept)
        tl.store(mask_gradient + channel * positions + position, along_sample, mask=kept)


def settings(moved: torch.dtype, x: Tensor, mask: Tensor) -> dict[str, Any]:
    """Return the compile-time constants; each thread moves 16 bytes of `moved`, the maximum per access."""
    groups = mask.shape[1] // TAPS
    dim = x.shape[2] // groups
    channels = triton.next_power_of_2(dim)
    return {
        "GROUPS": groups,
        "DIM": dim,
        "TAPS": TAPS,
        "BLOCK_Q": block_of_rows(moved, channels, x.shape[1]),
        "BLOCK_D": channels,
        "num_warps": NUM_WARPS,
    }


def parts(x: Tensor) -> list[slice]:
    """Return slices of the images whose samples are computed together."""
    step = max(1, PART_BYTES // max(1, TAPS * x[:1].numel() * x.itemsize))
    return [slice(start, start + step) for start in range(0, len(x), step)]


def sample(x: Tensor, offsets: Tensor, mask: Tensor, height: int, width: int) -> Tensor:
    """Return the masked samples of all taps, (B, N, C x 9), of `x` with contiguous rows."""
    samples = x.new_empty(*x.shape[:2], TAPS * x.shape[2])
    chosen = settings(x.dtype, x, mask)
    with torch.cuda.device_of(x):
        sampling_kernel[triton.cdiv(x.shape[1], chosen["BLOCK_Q"]), chosen["GROUPS"], len(x)](
            x, offsets, mask, samples, height, width, *x.stride()[:2], *offsets.stride(), *mask.stride(), **chosen
        )
    return samples


def forward(x: Tensor, offsets: Tensor, mask: Tensor, weight: Tensor, height: int, width: int) -> Tensor:
    """Return the convolution (B, N, C') without a bias; the arguments are those of `deformable_convolution_op`."""
    x = rows_together(x)
    out = x.new_empty(*x.shape[:2], len(weight))
    for part in parts(x):
        torch.matmul(sample(x[part], offsets[part], mask[part], height, width), weight.T, out=out[part])
    return out


def backward(
    gradient: Tensor, x: Tensor, offsets: Tensor, mask: Tensor, weight: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of `x`, `offsets`, `mask` and `weight`, given `gradient` of the result of `forward`."""
    x = rows_together(x)
    x_gradient = x.new_zeros(x.shape, dtype=torch.float32)
    offsets_gradient, mask_gradient = offsets.new_empty(offsets.shape), mask.new_empty(mask.shape)
    weight_gradient = weight.new_zeros(weight.shape, dtype=torch.float32)
    chosen = settings(x_gradient.dtype, x, mask)
    for part in parts(x):
        upstream = gradient[part].flatten(0, 1)
        samples = sample(x[part], offsets[part], mask[part], height, width)
        weight_gradient += upstream.T @ samples.flatten(0, 1)
        samples_gradient = torch.mm(upstream, weight, out=samples.flatten(0, 1))  # reuses their memory
        with torch.cuda.device_of(x):
            gradient_kernel[triton.cdiv(x.shape[1], chosen["BLOCK_Q"]), chosen["GROUPS"], len(x[part])](
                samples_gradient,
                x[part],
                offsets[part],
                mask[part],
                x_gradient[part],
                offsets_gradient[part],
                mask_gradient[part],
                height,
                width,
                *x.stride()[:2],
                *offsets.stride(),
                *mask.stride(),
                **chosen,
            )
    return x_gradient.to(x.dtype), offsets_gradient, mask_gradient, weight_gradient.to(weight.dtype)
