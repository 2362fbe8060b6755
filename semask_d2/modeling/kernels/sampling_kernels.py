"""What Triton kernels that sample maps bilinearly share: positions, corners, and how many samples a program makes."""

# Triton is optional, and its language is no Python that a type checker understands
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
    """The pixel left of (or above) each `place`, in pixels whose centers are integers, and how far it is from there.

    From 2 pixels before the map on, and from its end on, no corner of a sample is in the map; as the position stops
    there, the integer is in range for any place, even for one that is not a number.
    """
    place = tl.minimum(tl.maximum(place, -2.0), extent)
    before = tl.floor(place)
    return before.to(tl.int32), place - before


@triton.jit
def corner_rows(x, y, width, height, start, kept, STRIDE, DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Where the rows at pixels (x, y) of a map begin, and which elements are in it: (BLOCK_Q, BLOCK_D)."""
    channel = tl.arange(0, BLOCK_D)[None, :]
    inside = kept & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return (start + y * width + x)[:, None] * STRIDE + channel, inside[:, None] & (channel < DIM)


def rows_together(x: Tensor) -> Tensor:
    """`x` (B, N, ...) itself where all of a row's elements lie together in memory, in order, else a copy that does."""
    return x if x.numel() == 0 or x[0, 0].is_contiguous() else x.contiguous()


def block_of_rows(moved: torch.dtype, channels: int, rows: int) -> int:
    """How many rows a program takes, so that each thread moves 16 bytes of `moved`, the most it can at once."""
    return max(1, min(THREADS * (16 // moved.itemsize) // channels, triton.next_power_of_2(rows)))
