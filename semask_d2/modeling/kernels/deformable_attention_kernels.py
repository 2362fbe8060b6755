"""Triton kernels of multi-scale deformable attention (arXiv 2010.04159, equation 3), forward and backward.

Each program computes one head for a block of queries of one image; its vectors are the `DIM` channels of the head. It
visits levels and points in turn, so softmax, positions and bilinear weights never reach memory. Each corner of a
sample is one coalesced row of `value`. All arithmetic is fp32, whatever dtypes are loaded and stored. The loop over
points is not unrolled: with 4 levels of 8 points compilation would take half a minute.

B images, N tokens, Q queries, D channels per head. The sizes (H0, W0, H1, W1, ...) are floats, and the numbers of
tokens and queries are not specialized, because Triton recompiles for integers that are 1 or multiples of 16, and
images come in many sizes.
"""

# Triton is optional, and type checkers do not understand its language
# pyright: reportMissingImports=false, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Sequence
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


@triton.jit
def softmax_terms(logits, query_logits, kept, SAMPLES: tl.constexpr, BLOCK_S: tl.constexpr):
    """Return the maximum and the sum of exponentials of each query's `SAMPLES` logits, (BLOCK_Q,) each."""
    sample = tl.arange(0, BLOCK_S)[None, :]
    rows = tl.load(logits + query_logits[:, None] + sample, mask=kept[:, None] & (sample < SAMPLES), other=0.0)
    rows = tl.where(sample < SAMPLES, rows.to(tl.float32), -float("inf"))
    highest = tl.max(rows, axis=1)
    return highest, tl.sum(tl.exp(rows - highest[:, None]), axis=1)


@triton.jit(do_not_specialize=["queries"])
def forward_kernel(
    value,
    reference,
    offsets,
    logits,
    out,
    sizes,
    queries,
    value_batch,
    value_row,
    offsets_batch,
    offsets_row,
    logits_batch,
    logits_row,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Write `out` (B, Q, HEADS x DIM) for a block of queries, a head and an image."""
    SAMPLES: tl.constexpr = LEVELS * POINTS
    query = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)  # offsets between images can exceed 32 bits
    kept = query < queries
    value += image * value_batch + head * DIM
    offsets += image * offsets_batch + head * SAMPLES * 2
    logits += image * logits_batch + head * SAMPLES
    out += image * queries * HEADS * DIM + head * DIM

    query_offsets, query_logits = query * offsets_row, query * logits_row
    reference_x = tl.load(reference + query * 2, mask=kept, other=0.0)
    reference_y = tl.load(reference + query * 2 + 1, mask=kept, other=0.0)
    highest, total = softmax_terms(logits, query_logits, kept, SAMPLES, BLOCK_S)

    attended = tl.zeros((BLOCK_Q, BLOCK_D), tl.float32)
    start = 0
    for level in tl.static_range(LEVELS):
        height, width = tl.cast(sizes[2 * level], tl.int32), tl.cast(sizes[2 * level + 1], tl.int32)
        for point in range(POINTS):
            sample = level * POINTS + point
            offset_x = tl.load(offsets + query_offsets + sample * 2, mask=kept, other=0.0).to(tl.float32)
            offset_y = tl.load(offsets + query_offsets + sample * 2 + 1, mask=kept, other=0.0).to(tl.float32)
            logit = tl.load(logits + query_logits + sample, mask=kept, other=0.0).to(tl.float32)
            x, right = pixel_before(reference_x * sizes[2 * level + 1] - 0.5 + offset_x, sizes[2 * level + 1])
            y, lower = pixel_before(reference_y * sizes[2 * level] - 0.5 + offset_y, sizes[2 * level])
            weight = tl.exp(logit - highest) / total
            for corner in tl.static_range(4):
                share = weight * (right if corner % 2 else 1 - right) * (lower if corner // 2 else 1 - lower)
                row, inside = corner_rows(
                    x + corner % 2, y + corner // 2, width, height, start, kept, value_row, DIM, BLOCK_D
                )
                attended += share[:, None] * tl.load(value + row, mask=inside, other=0.0).to(tl.float32)
        start += height * width

    channel = tl.arange(0, BLOCK_D)[None, :]
    row = query[:, None] * (HEADS * DIM) + channel
    tl.store(out + row, attended.to(out.dtype.element_ty), mask=kept[:, None] & (channel < DIM))


@triton.jit(do_not_specialize=["tokens", "queries"])
def backward_kernel(
    gradient,
    value,
    reference,
    offsets,
    logits,
    out,
    value_gradient,
    offsets_gradient,
    logits_gradient,
    sizes,
    tokens,
    queries,
    value_batch,
    value_row,
    offsets_batch,
    offsets_row,
    logits_batch,
    logits_row,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Write the gradients for a block of queries, a head and an image; add to `value_gradient` (B, N, HEADS, DIM) fp32.

    With softmax weights p, samples s and the gradient g of their weighted sum o, the gradient of a logit is
    p (g . s - sum of p (g . s)) = p (g . s - g . o), so no sample needs the others.
    """
    SAMPLES: tl.constexpr = LEVELS * POINTS
    query = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    head = tl.program_id(1)
    image = tl.program_id(2).to(tl.int64)
    kept = query < queries
    value += image * value_batch + head * DIM
    offsets += image * offsets_batch + head * SAMPLES * 2
    logits += image * logits_batch + head * SAMPLES
    gradient += image * queries * HEADS * DIM + head * DIM
    out += image * queries * HEADS * DIM + head * DIM
    value_gradient += image * tokens * HEADS * DIM + head * DIM
    offsets_gradient += (image * queries * HEADS + head) * SAMPLES * 2
    logits_gradient += (image * queries * HEADS + head) * SAMPLES

    query_offsets, query_logits = query * offsets_row, query * logits_row
    query_samples = query * (HEADS * SAMPLES)
    reference_x = tl.load(reference + query * 2, mask=kept, other=0.0)
    reference_y = tl.load(reference + query * 2 + 1, mask=kept, other=0.0)
    highest, total = softmax_terms(logits, query_logits, kept, SAMPLES, BLOCK_S)

    channel = tl.arange(0, BLOCK_D)[None, :]
    row = query[:, None] * (HEADS * DIM) + channel
    present = kept[:, None] & (channel < DIM)
    gradients = tl.load(gradient + row, mask=present, other=0.0).to(tl.float32)
    along_out = tl.sum(gradients * tl.load(out + row, mask=present, other=0.0).to(tl.float32), axis=1)

    start = 0
    for level in tl.static_range(LEVELS):
        height, width = tl.cast(sizes[2 * level], tl.int32), tl.cast(sizes[2 * level + 1], tl.int32)
        for point in range(POINTS):
            sample = level * POINTS + point
            offset_x = tl.load(offsets + query_offsets + sample * 2, mask=kept, other=0.0).to(tl.float32)
            offset_y = tl.load(offsets + query_offsets + sample * 2 + 1, mask=kept, other=0.0).to(tl.float32)
            logit = tl.load(logits + query_logits + sample, mask=kept, other=0.0).to(tl.float32)
            x, right = pixel_before(reference_x * sizes[2 * level + 1] - 0.5 + offset_x, sizes[2 * level + 1])
            y, lower = pixel_before(reference_y * sizes[2 * level] - 0.5 + offset_y, sizes[2 * level])
            weight = tl.exp(logit - highest) / total
            along_sample, along_x, along_y = tl.zeros_like(right), tl.zeros_like(right), tl.zeros_like(right)
            for corner in tl.static_range(4):
                share_x, share_y = right if corner % 2 else 1 - right, lower if corner // 2 else 1 - lower
                row, inside = corner_rows(
                    x + corner % 2, y + corner // 2, width, height, start, kept, value_row, DIM, BLOCK_D
                )
                along = tl.sum(gradients * tl.load(value + row, mask=inside, other=0.0).to(tl.float32), axis=1)
                along_sample += share_x * share_y * along
                along_x += share_y * along * (1 if corner % 2 else -1)
                along_y += share_x * along * (1 if corner // 2 else -1)
                row, inside = corner_rows(
                    x + corner % 2, y + corner // 2, width, height, start, kept, HEADS * DIM, DIM, BLOCK_D
                )
                share = weight * share_x * share_y
                tl.atomic_add(value_gradient + row, share[:, None] * gradients, mask=inside, sem="relaxed")
            gradient_x = offsets_gradient + query_samples * 2 + sample * 2
            tl.store(gradient_x, weight * along_x, mask=kept)
            tl.store(gradient_x + 1, weight * along_y, mask=kept)
            gradient_logit = weight * (along_sample - along_out)
            tl.store(logits_gradient + query_samples + sample, gradient_logit, mask=kept)
        start += height * width


def constants(moved: torch.dtype, value: Tensor, logits: Tensor) -> dict[str, Any]:
    """Return the compile-time constants; each thread moves 16 bytes of `moved`, the maximum per access."""
    _, queries, heads, levels, points = logits.shape
    dim = value.shape[3]
    channels = triton.next_power_of_2(dim)
    return {
        "HEADS": heads,
        "DIM": dim,
        "LEVELS": levels,
        "POINTS": points,
        "BLOCK_Q": block_of_rows(moved, channels, queries),
        "BLOCK_D": channels,
        "BLOCK_S": triton.next_power_of_2(levels * points),
        "num_warps": NUM_WARPS,
    }


def forward(value: Tensor, sizes: Sequence[int], reference: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    """Return attended values (B, Q, heads x D); the arguments are those of `deformable_attention_op`."""
    value, offsets, logits = rows_together(value), rows_together(offsets), rows_together(logits)
    batch, queries, heads = logits.shape[:3]
    out = value.new_empty(batch, queries, heads * value.shape[3])
    settings = constants(value.dtype, value, logits)
    with torch.cuda.device_of(value):
        forward_kernel[triton.cdiv(queries, settings["BLOCK_Q"]), heads, batch](
            value,
            reference.contiguous(),
            offsets,
            logits,
            out,
            tuple(map(float, sizes)),
            queries,
            *value.stride()[:2],
            *offsets.stride()[:2],
            *logits.stride()[:2],
            **settings,
        )
    return out


def backward(
    gradient: Tensor,
    value: Tensor,
    sizes: Sequence[int],
    reference: Tensor,
    offsets: Tensor,
    logits: Tensor,
    out: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of `value`, `offsets` and `logits`; arguments as for `deformable_attention_backward_op`."""
    value, offsets, logits = rows_together(value), rows_together(offsets), rows_together(logits)
    batch, queries, heads = logits.shape[:3]
    value_gradient = value.new_zeros(value.shape, dtype=torch.float32)
    offsets_gradient, logits_gradient = offsets.new_empty(offsets.shape), logits.new_empty(logits.shape)
    settings = constants(value_gradient.dtype, value, logits)
    with torch.cuda.device_of(value):
        backward_kernel[triton.cdiv(queries, settings["BLOCK_Q"]), heads, batch](
            gradient.contiguous(),
            value,
            reference.contiguous(),
            offsets,
            logits,
            out.contiguous(),
            value_gradient,
            offsets_gradient,
            logits_gradient,
            tuple(map(float, sizes)),
            value.shape[1],
            queries,
            *value.stride()[:2],
            *offsets.stride()[:2],
            *logits.stride()[:2],
            **settings,
        )
    return value_gradient.to(value.dtype), offsets_gradient, logits_gradient
