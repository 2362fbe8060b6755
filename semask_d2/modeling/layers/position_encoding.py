"""Sine position encoding of a map (DETR, arXiv 2005.12872, appendix A.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_position_encoding(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Return the encoding (channels, height, width): the first half of the channels encodes y, the second x.

    Positions start at 1 and are scaled to 2 pi; temperature 10000; sine in even, cosine in odd channels.
    """
    half = channels // 2
    exponent = 2 * torch.div(torch.arange(half, device=device), 2, rounding_mode="floor") / half
    frequency = 10000.0**exponent

    def encode(size: int) -> Tensor:
        position = torch.arange(1, size + 1, device=device, dtype=torch.float32)
        angle = (position / (size + 1e-6) * 2 * math.pi)[:, None] / frequency
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=-1).flatten(1).T

    y = encode(height)[:, :, None].expand(-1, -1, width)
    x = encode(width)[:, None, :].expand(-1, height, -1)
    return torch.cat([y, x])
