"""Helpers of Triton kernels for bilinear sampling: positions, corners, and the number of samples per program."""

# Triton is optional, and type checkers do not understand its language
# pyright: reportMissingImports=false, reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

NUM_WARPS = 4
THREADS = 32 * NUM_WARPS


@triton.jit
def pixel_before(place, extent):
    """Return the pixel left of (or above) each `place`, with pixel centers at integers, and the distance from it.

    Places are clamped to [-2, `extent`], beyond which no corner of a sample lies in the map. So the integer is in range
    for any place, even NaN.
    """
    place = tl.minimum(tl.maximum(place, -2.0), extent)
    before = tl.floor(place)
    return before.to(tl.int32), place - before


@triton.jit
def corner_rows(x, y, width, height, start, kept, STRIDE, DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return offsets of the elements at pixels (x, y) of a map, and a mask of those inside it: (BLOCK_Q, BLOCK_D)."""
    channel = tl.arange(0, BLOCK_D)[None, :]
    inside = kept & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return (start + y * width + x)[:, None] * STRIDE + channel, inside[:, None] & (channel < DIM)


def rows_together(x: Tensor) -> Tensor:
    """Return `x` (B, N, ...) itself if the elements of each row are contiguous, else a contiguous copy."""
    return x if x.numel() == 0 or x[0, 0].is_contiguous() else x.contiguous()


def block_of_rows(moved: torch.dtype, channels: int, rows: int) -> int:
    """Return the number of rows per program, so that each thread moves 16 bytes of `moved`, the maximum per access."""
    return max(1, min(THREADS * (16 // moved.itemsize) // channels, triton.next_power_of_2(rows)))
